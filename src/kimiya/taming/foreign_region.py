"""Calls in other dialects: JSON objects, XML tags, Kimi K3, each gathered to its last sign."""

import re

from kimiya.core.exchange import Defect
from kimiya.taming import foreign
from kimiya.taming.call_region import CallRegion
from kimiya.taming.findings import Candidate, Channel, Typed, excerpt
from kimiya.taming.walk import MAX_CALL_CHARS

_BRACKET = re.compile(r'["\\{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


class ForeignRegion(CallRegion):
    """The modes ``json``, ``xml`` and ``k3``."""

    def _enter_json(self, buffer: str, place: int, start: int, header: str | None) -> int:
        self._reset_region()
        self._mode = "json"
        self._has_cut = True
        self._header = header
        self._raw = [buffer[place:start]]
        return start

    def _json(self, buffer: str, position: int, final: bool) -> int | None:
        """A JSON object, to its last brace."""
        at = position
        while True:
            if self._is_escaped and at < len(buffer):
                self._is_escaped = False
                at += 1
            found = (_IN_STRING if self._in_string else _BRACKET).search(buffer, at)
            if found is None:
                break
            at = found.end()
            char = found.group()
            if char == "\\":
                self._is_escaped = self._in_string
            elif char == '"':
                self._in_string = not self._in_string
            elif char in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    self._gather(buffer[position:at])
                    self._end_json(is_whole=True)
                    return at
        self._gather(buffer[position:])
        if self._length > MAX_CALL_CHARS:
            self._out.append(Defect("call_too_long", f"over {MAX_CALL_CHARS} characters"))
            self._mode = "prose"
            self._take()
        elif final:
            self._end_json(is_whole=False)
        return None

    def _end_json(self, *, is_whole: bool) -> None:
        text = self._take()
        raw = "".join(self._raw) + text
        header, self._mode = self._header, "prose"
        if header is not None:
            self._has_called = True
            self._swallow = is_whole
            bare = foreign.unwrap(text) if is_whole else None
            if bare is not None and bare[0][0].strip() == header:
                text = bare[0][1]
            self._out.append(
                Candidate(
                    header,
                    text,
                    "content",
                    "bare",
                    is_closed=is_whole,
                    raw=raw,
                    is_soft=not header.startswith("functions"),
                ),
            )
            return
        calls = foreign.unwrap(text) if is_whole else None
        if calls:
            self._has_called = True
            self._out += [
                Candidate(name, arguments, "content", "json", is_closed=True, raw=raw, is_soft=True)
                for name, arguments in calls
            ]
        elif self._is_blank:
            self._out.append(Typed(raw))
        else:
            self._show(raw)

    def _xml(self, buffer: str, position: int, final: bool) -> int | None:
        """A foreign tag, to what closes it."""
        overlap = self._tail
        window = overlap + buffer[position:]
        found = window.find(self._closing)
        if found >= 0:
            end = position + found - len(overlap) + len(self._closing)
            self._gather(buffer[position:end])
            self._end_xml(is_whole=True)
            return end
        self._gather(buffer[position:])
        self._tail = window[1 - len(self._closing) :]
        if self._length > MAX_CALL_CHARS:
            self._out.append(Defect("call_too_long", f"over {MAX_CALL_CHARS} characters"))
            self._mode = "prose"
            self._take()
        elif final:
            self._end_xml(is_whole=False)
        return None

    def _end_xml(self, *, is_whole: bool) -> None:
        raw = "".join(self._raw) + self._take()
        soft, self._mode = self._is_soft, "prose"
        calls = foreign.xml_calls(raw) if is_whole else None
        if calls:
            self._has_called = True
            channel: Channel = "reasoning" if self._thinking else self._channel
            self._out += [
                Candidate(name, arguments or "", channel, "xml", fields=fields, is_closed=True,
                          raw=raw, is_soft=soft)
                for name, arguments, fields in calls
            ]  # fmt: skip
        elif soft:
            self._show(raw)
        else:
            code = "damaged_dialect" if is_whole else "truncated_call"
            self._out.append(Defect(code, "a call in XML tags cannot be read", excerpt(raw)))

    def _k3(self, buffer: str, position: int, final: bool) -> int | None:
        """Kimi K3's dialect, to the end of its tools block."""
        window = self._tail + buffer[position:]
        found = foreign.K3_END.search(window)
        end = position + found.end() - len(self._tail) if found else len(buffer)
        self._gather(buffer[position:end])
        self._tail = window[-40:]
        if not found and not final and self._length <= MAX_CALL_CHARS:
            return None
        raw = "".join(self._raw) + self._take()
        self._mode = "prose"
        calls = foreign.k3_calls(raw)
        if calls is None:
            self._out.append(
                Defect("damaged_dialect", "a call in K3's dialect is damaged", excerpt(raw))
            )
        else:
            self._has_called = True
            channel: Channel = "reasoning" if self._thinking else self._channel
            self._out += [
                Candidate(name, "", channel, "kimi_k3", fields=fields, is_closed=True, raw=raw)
                for name, fields in calls
            ]
        return end
