"""Calls between Kimi's markers: a table of moves, and a buffer.

A marker moves the walk along ``TRANSITIONS``; an absent pair stays in the text of the call, where
the names and arguments rooms judge it. A region that holds no call was a mention or a call that
broke off, and says which.
"""

import re
from collections.abc import Mapping
from typing import Literal

from kimiya.core.exchange import Defect
from kimiya.taming import foreign
from kimiya.taming.findings import Candidate, Channel, excerpt
from kimiya.taming.grammar import BARE_HEADER, MARKERS, REGION_MARK, MarkKind
from kimiya.taming.mentions import is_mention, looks_called, neutral
from kimiya.taming.walk import MAX_CALL_CHARS, Mode, Walk

_MAX_HEADER_CHARS = 512
"""Longest text after an opening marker in which a ``{`` must have come."""

Step = Literal["args", "finish", "finish_call", "close", "noise", "restart", "leave"]

TRANSITIONS: Mapping[tuple[Mode, MarkKind], tuple[Step, Mode]] = {
    ("section", "section_begin"): ("noise", "section"),
    ("section", "call_begin"): ("noise", "header"),
    ("section", "argument_begin"): ("args", "arguments"),
    ("section", "call_end"): ("finish", "section"),
    ("section", "section_end"): ("close", "prose"),
    ("section", "turn_end"): ("close", "prose"),
    ("header", "argument_begin"): ("args", "arguments"),
    ("header", "call_end"): ("finish", "section"),
    ("header", "call_begin"): ("finish_call", "header"),
    ("header", "section_begin"): ("finish", "section"),
    ("header", "section_end"): ("finish", "prose"),
    ("header", "turn_end"): ("finish", "prose"),
    ("arguments", "call_end"): ("finish", "section"),
    ("arguments", "call_begin"): ("finish_call", "header"),
    ("arguments", "section_end"): ("finish", "prose"),
    ("arguments", "section_begin"): ("finish", "section"),
    ("arguments", "turn_end"): ("finish", "prose"),
    ("arguments", "argument_begin"): ("restart", "arguments"),
    **{
        (mode, kind): ("leave", "prose")
        for mode in ("section", "header", "arguments")
        for kind in ("role", "answer_role", "k3")
    },
}
"""Inside a call region: mode and marker to what is done, and the mode that follows."""

_PLAIN = re.compile(r"\s[^\W\d_]+[.,;:!?)]?\s")


class CallRegion(Walk):
    """The modes ``section``, ``header`` and ``arguments``."""

    def _region(self, buffer: str, position: int, final: bool) -> int | None:
        at = position
        while True:
            found = REGION_MARK.search(buffer, at)
            move = None
            if found is not None:
                kind = MARKERS.get(found.group())
                move = TRANSITIONS.get((self._mode, kind)) if kind else None
                if move is None:
                    at = found.end()
                    continue
            cut = found.start() if found else len(buffer) if final else self._mark_part(buffer, at)
            self._gather(buffer[position:cut])
            overflow = self._overflow()
            if overflow is not None:
                return cut - overflow
            if found is None or move is None:
                self._pending = buffer[cut:]
                if final:
                    self._end_of_region()
                return None
            if move[0] == "leave":
                self._end_of_region()
                return found.start()
            self._step(move, found.group())
            return found.end()

    def _step(self, move: tuple[Step, Mode], token: str) -> None:
        step, mode = move
        if step == "noise":
            self._noise(token)
        elif step == "args":
            self._header = self._take()
            self._raw += [self._header, token]
        elif step == "restart":
            if "".join(self._pieces).strip():
                self._gather(token)
        elif step == "close":
            self._noise(token)
            self._end_section(token)
        else:
            self._finish_call(is_closed=True, token=token)
            if mode == "section" and not self._in_section:
                mode = "prose"
            if step == "finish_call":
                self._raw = [token]
        if mode == "section":
            self._in_section = True
        elif mode == "prose":
            self._in_section = False
        self._mode = mode

    def _noise(self, token: str) -> None:
        """Text between calls inside a section."""
        text = self._take()
        self._raw += [text, token]
        if not text.strip() or (self._calls_here == 0 and not self._lexicon.has_tools):
            return
        bare = BARE_HEADER.search(text)
        if bare and text[bare.end() : bare.end() + 1] == "{":
            self._emit_call(bare.group().strip(), text[bare.end() :], is_closed=True)
            return
        self._note("noise_in_section", f"dropped {excerpt(text.strip())!r} between calls")

    def _end_section(self, token: str) -> None:
        if self._calls_here == 0:
            if not self._lexicon.has_tools and is_mention("".join(self._raw)):
                self._say("".join(self._raw))
            else:
                self._note("empty_section", "removed a section without calls")

    def _finish_call(self, *, is_closed: bool, token: str = "") -> None:
        text = self._take()
        if self._header is None:
            start = _json_start(text)
            header, arguments = (text[:start], text[start:]) if start >= 0 else (text, None)
        else:
            header, arguments = self._header, text
        self._header = None
        if not self._lexicon.has_tools and not looks_called(header, arguments):
            self._say("".join(self._raw) + text + token)
            self._raw = []
            return
        if self._mode == "section" and not header.strip():
            return
        self._emit_call(header, arguments, is_closed=is_closed)

    def _emit_call(self, header: str, arguments: str | None, *, is_closed: bool) -> None:
        self._calls_here += 1
        self._has_called = True
        self._raw = []
        name, arguments = foreign.deepseek(header, arguments)
        channel: Channel = "reasoning" if self._thinking else self._channel
        if arguments is None and not is_closed:
            self._out.append(Defect("truncated_call", "the call stops in its header", name))
            return
        self._out.append(
            Candidate(
                name,
                arguments or "",
                channel,
                is_closed=is_closed,
                raw=excerpt(f"{header}{arguments or ''}"),
                dialect="kimi_k2" if arguments is not None else "kimi_k2_header",
            )
        )

    def _overflow(self) -> int | None:
        """Give a region up that cannot be a call; how much of its text is to be read again."""
        if self._length > MAX_CALL_CHARS:
            self._out.append(Defect("call_too_long", f"over {MAX_CALL_CHARS} characters"))
            self._take()
            self._mode = "prose"
            return 0
        if self._is_wide or self._length <= _MAX_HEADER_CHARS or self._mode == "arguments":
            return None
        text = self._gathered()
        if "{" in text[:_MAX_HEADER_CHARS] or self._calls_here:
            self._is_wide = True
            return None
        rest = len(text) - _MAX_HEADER_CHARS
        self._pieces = [text[:_MAX_HEADER_CHARS]]
        self._abandon()
        self._mode = "prose"
        return rest

    def _abandon(self) -> None:
        """A region that opened and holds no call: a mention, or a call that broke off."""
        after = self._take()
        raw = "".join(self._raw) + after
        self._mode = "prose"
        if not self._lexicon.has_tools and is_mention(raw):
            self._say(raw)
        elif (
            self._before[-1:] == " "
            and len(self._raw) == 1
            and _PLAIN.match(after)
            and is_mention(raw)
        ):
            self._note("mention_neutralised", f"showed {excerpt(raw)!r} with its markers defused")
            self._say(neutral(raw))
        else:
            self._out.append(Defect("truncated_call", "a call opens and never comes", excerpt(raw)))

    def _end_of_region(self) -> None:
        """The channel ended inside a call region."""
        if self._mode == "arguments" or (self._mode == "header" and "{" in "".join(self._pieces)):
            self._finish_call(is_closed=False)
        elif self._calls_here and self._mode == "section":
            text = self._take()
            bare = BARE_HEADER.search(text)
            if bare and text[bare.end() : bare.end() + 1] == "{":
                self._emit_call(bare.group().strip(), text[bare.end() :], is_closed=False)
            else:
                self._mode = "prose"
                self._show(text)
        else:
            self._abandon()
        self._mode = "prose"
        self._in_section = False


def _json_start(text: str) -> int:
    """Where arguments begin that are glued to their header."""
    places = [place for sign in ("{", '"{', "```") if (place := text.find(sign)) >= 0]
    return min(places, default=-1)
