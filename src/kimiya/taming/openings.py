"""Prose, and everything that can open in it.

What is held back is a prefix of a marker, of a tag or of a call's header, nothing else; text that
can open nothing goes out as it came.
"""

import re
from collections.abc import Callable, Mapping

from kimiya.core.exchange import Defect
from kimiya.taming.asides import Aside
from kimiya.taming.grammar import (
    ARGUMENT_BEGIN,
    BARE_HEADER,
    CALL_KINDS,
    ENVELOPE_KEYS,
    FOREIGN_TAGS,
    FUNCTION_PREFIXES,
    MARKERS,
    REPLY_TAGS,
    STRAY_TAGS,
    MarkKind,
)
from kimiya.taming.quotes import Closer, quoted_by

_MAX_LINE_HEADER_CHARS = 220
"""Longest line that may name a tool before its arguments."""

_OBJECT = re.compile(r'\{\s{0,16}["}]')
_OBJECT_PART = re.compile(r"\{\s{0,16}\Z")
_ENVELOPE = re.compile(r'(?:\[\s{0,16})?\{\s{0,16}"([^"\\]{1,64})"\s{0,8}:')
_ENVELOPE_PART = re.compile(
    r'(?:\[\s{0,16}\Z|(?:\[\s{0,16})?\{\s{0,16})(?:"(?:[^"\\]{0,64}(?:"\s{0,8})?)?)?\Z'
)
_FIRST_KEYS = ENVELOPE_KEYS | {"type", "id"}
"""First keys of a wrapped call that is the whole visible text."""
_NAMED = re.compile(r'\{\s{0,16}"[^"\\]{1,64}"\s{0,8}:\s{0,8}"([^"\\]{0,128})"')
_NAMED_PART = re.compile(r'\{\s{0,16}"[^"\\]{1,64}"\s{0,8}:\s{0,8}(?:"[^"\\]{0,128})?\Z')
_SPACE = re.compile(r"\s*")

_BEFORE_QUOTES = frozenset(["", " ", "\n", "\t", "(", "[", "{", ":", "=", ",", ">"])
"""What stands before a quotation mark that opens, where the same sign also closes."""

_QUOTE_MARKS: Mapping[str, str] = {
    '"': '"',
    "'": "'",
    "“": "”",
    "‘": "’",
    "«": "»",
    "「": "」",
    "『": "』",
}

Opening = Callable[[str, int, str | None], int]
"""Takes a marker, the place behind it and a header before it; gives where reading goes on."""


class Prose(Aside):
    """The mode ``prose``."""

    def _opening(self, kind: MarkKind) -> Opening:
        """What a marker does that stands in prose."""
        match kind:
            case "section_begin":
                return self._open_section
            case "call_begin":
                return self._open_call
            case "argument_begin":
                return self._open_arguments
            case "role" | "answer_role":
                return self._open_role
            case "k3":
                return self._open_k3
            case "think":
                return self._think
            case "think_end":
                return self._end_think
            case "section_end" | "call_end" | "turn_end" | "middle" | "odd":
                return self._orphan

    def _prose(self, buffer: str, position: int, final: bool) -> int | None:
        if self._swallow:
            stripped = buffer[position:].lstrip("}] \t\n")
            if not stripped and not final:
                self._pending = buffer[position:]
                return None
            dropped = len(buffer) - position - len(stripped)
            braces = buffer[position : position + dropped].strip()
            if braces:
                self._note("extra_brace", f"dropped {braces!r} after a call")
                position += dropped
            self._swallow = False
        lexicon = self._lexicon
        trigger = lexicon.text_trigger if self._is_text else lexicon.reasoning_trigger
        dictated = self._dictation_start(buffer, position) if self._prose_rules else -1
        at = position
        while True:
            found = trigger.search(buffer, at)
            if dictated >= 0 and (found is None or found.start() >= dictated):
                return self._open_dictation(buffer, position, dictated)
            if found is None:
                cut = len(buffer) if final else self._held_from(buffer, position)
                if final:
                    cut = self._cut_marker(buffer, position)
                self._say(buffer[position:cut])
                self._pending = buffer[cut:] if not final else ""
                return None
            token, start = found.group(), found.start()
            if token in ("{", "["):
                step = self._brace(buffer, position, start, final)
            elif token[0] == "f":
                step = self._bare(buffer, position, start, final)
            else:
                step = self._marked(buffer, (position, start), token, final)
            if step == "wait":
                start = self._wait_at if self._wait_at >= 0 else start
                self._wait_at = -1
                self._say(buffer[position:start])
                self._pending = buffer[start:]
                return None
            if step != "pass":
                return int(step)
            at = start + (1 if token[0] in "<{[" else len(token))

    def _cut_marker(self, buffer: str, position: int) -> int:
        """The channel ended: where its text ends, if half a call's marker stands behind it."""
        opening = buffer.rfind("<", max(position, len(buffer) - 44))
        half = buffer[opening:] if opening >= 0 else ""
        if len(half) < 6 or not self._lexicon.has_tools or self._quotes.closer() is not None:
            return len(buffer)
        if not any(token.startswith(half) and MARKERS[token] in CALL_KINDS for token in MARKERS):
            return len(buffer)
        self._out.append(Defect("truncated_call", "the reply ends in half a marker", half))
        return opening

    def _held_from(self, buffer: str, position: int) -> int:
        """Where the part begins that may be the start of something."""
        cut = len(buffer)
        near = max(position, cut - 72)
        opening = buffer.rfind("<", near)
        if opening >= 0 and buffer[opening:] in self._lexicon.prefixes:
            cut = opening
        if not self._is_text:
            return cut
        if cut == len(buffer) and buffer.endswith(FUNCTION_PREFIXES):
            length = next(len(p) for p in FUNCTION_PREFIXES if buffer.endswith(p))
            cut = max(position, cut - length)
        for start in self._line_starts(buffer, position, cut):
            if start < cut and self._lexicon.opens_line(buffer[start:cut]):
                return start
        return cut

    def _line_starts(self, buffer: str, position: int, end: int) -> list[int]:
        """Where the line that ``end`` stands in begins, or if it is blank the one before it.

        Only lines short enough to be a header count.
        """
        floor = max(position, end - _MAX_LINE_HEADER_CHARS)
        for _ in range(2):
            newline = buffer.rfind("\n", floor, end)
            start = newline + 1
            if newline < 0:
                if floor > position or not self._line_is_blank:
                    return []
                start = position
            line = buffer[start:end]
            if line.strip(" \t"):
                return [start + len(line) - len(line.lstrip(" \t"))]
            if newline < 0:
                return []
            end = newline
        return []

    def _line_header(self, buffer: str, position: int, start: int) -> tuple[int, str] | None:
        """A header that fills the line before ``start``: its place and its text."""
        window = buffer[max(position, start - _MAX_LINE_HEADER_CHARS) : start].rstrip()
        if not window[-1:].isdigit() and "ool" not in window and "unction" not in window:
            return None
        for place in self._line_starts(buffer, position, start):
            if said := self._lexicon.line_header(buffer[place:start]):
                return place, said
        return None

    def _brace(self, buffer: str, position: int, start: int, final: bool) -> int | str:
        """A ``{`` in visible text: arguments of a bare header, a wrapped call, or just a brace."""
        header = self._line_header(buffer, position, start)
        if header is not None:
            place, name = header
            if not _OBJECT.match(buffer, start):
                if final or not _OBJECT_PART.match(buffer, start):
                    return "pass"
                self._wait_at = place
                return "wait"
            self._say(buffer[position:place])
            if self._quotes.closer() is None:
                return self._enter_json(buffer, place, start, name)
            return self._let_out(buffer, place, start + 1)
        key = _ENVELOPE.match(buffer, start)
        if key is None:
            return "wait" if not final and _ENVELOPE_PART.match(buffer, start) else "pass"
        first = key.group(1)
        is_blank = self._is_blank and _ends_space(buffer, position) >= start
        if not is_blank and (
            first not in ENVELOPE_KEYS or self._is_nested(buffer, position, start)
        ):
            return "pass"
        is_list = buffer[start] == "["
        opens = first in _FIRST_KEYS or (not is_list and first in self._properties())
        if not (is_blank and opens):
            if is_list or first not in ENVELOPE_KEYS:
                return "pass"
            if first not in ("tool_calls", "function"):
                named = _NAMED.match(buffer, start)
                if named is None:
                    return "wait" if not final and _NAMED_PART.match(buffer, start) else "pass"
                if named.group(1).strip() not in self._lexicon.names:
                    return "pass"
        self._say(buffer[position:start])
        if self._quotes.closer() is not None:
            return self._let_out(buffer, start, start + 1)
        return self._enter_json(buffer, start, start, None)

    def _is_nested(self, buffer: str, position: int, start: int) -> bool:
        """Whether an object is a member of another one: data, never a call."""
        is_document = self._quotes.is_document
        if is_document is None:
            first = _ends_space(buffer, position)
            is_document = first < start and buffer[first] in "{["
        if is_document:
            return True
        before = buffer[max(position, start - 64) : start].rstrip()
        if not before and start - position > 64:
            before = buffer[position:start].rstrip()
        before = (self._solid + before)[-2:]
        return before[-1:] in ("[", ",", "{", "(") or before == '":'

    def _bare(self, buffer: str, position: int, start: int, final: bool) -> int | str:
        """``functions.NAME:3`` in visible text: a header whose markers were swallowed?"""
        header = BARE_HEADER.match(buffer, start)
        if header is None:
            return "wait" if not final and len(buffer) - start <= 10 else "pass"
        end = header.end()
        if end == len(buffer):
            return "pass" if final else "wait"
        rest = buffer[end : end + len(ARGUMENT_BEGIN)]
        if rest[0] == "{":
            self._say(buffer[position:start])
            if self._quotes.closer() is None:
                return self._enter_json(buffer, start, end, header.group().strip())
            return self._let_out(buffer, start, start + 1)
        if rest[0] == "<" and ARGUMENT_BEGIN.startswith(rest):
            if rest != ARGUMENT_BEGIN:
                return "pass" if final else "wait"
            self._say(buffer[position:start])
            if self._quotes.closer() is not None:
                return self._let_out(buffer, start, start + 1)
            self._reset_region()
            self._header = header.group().strip()
            self._has_cut = True
            self._mode = "arguments"
            self._raw = [buffer[start : end + len(rest)]]
            return end + len(rest)
        return "pass"

    def _marked(self, buffer: str, span: tuple[int, int], token: str, final: bool) -> int | str:
        position, start = span
        kind = MARKERS.get(token)
        if token in REPLY_TAGS and not self._opens_reply(buffer, position, start, token):
            return "pass"
        if kind is None:
            return self._tag(buffer, position, start, token)
        header = None
        if kind == "argument_begin" and self._is_text:
            header = self._line_header(buffer, position, start)
        if kind == "argument_begin" and header is None and self._lexicon.has_tools:
            # Kimi also loses the whole header: arguments without a name, which must tell the tool.
            body = _ends_space(buffer, start + len(token))
            if body - start < _MAX_LINE_HEADER_CHARS:
                if body == len(buffer) and not final:
                    return "wait"
                header = (start, "") if buffer[body : body + 1] == "{" else None
        self._say(buffer[position : header[0] if header else start])
        closer = self._quotes.closer() or self._adjacent_quote()
        if closer is not None and kind not in ("think", "think_end"):
            return self._enter_quote(start, closer)
        if closer is not None:
            self._say(token)
            return start + len(token)
        self._reset_region()
        self._has_cut = True
        self._raw = [token]
        return self._opening(kind)(token, start + len(token), header[1] if header else None)

    def _opens_reply(self, buffer: str, position: int, start: int, token: str) -> bool:
        """Whether ``<reasoning>`` opens the visible text, or closes what opened it."""
        if token.startswith("</"):
            opened, self._has_reply_tag = self._has_reply_tag, False
            return opened
        is_first = self._is_content and self._is_blank and _ends_space(buffer, position) >= start
        self._has_reply_tag = self._has_reply_tag or is_first
        return is_first

    def _adjacent_quote(self) -> Closer | None:
        mark = _QUOTE_MARKS.get(self._last[-1:])
        if mark is None or (self._last[-1:] == mark and self._last[:-1] not in _BEFORE_QUOTES):
            return None
        return quoted_by(mark)

    def _enter_quote(self, start: int, closer: Closer) -> int:
        self._reset_region()
        self._mode = "quoted"
        self._closer = closer
        return start

    def _open_section(self, token: str, after: int, header: str | None) -> int:
        self._mode = "section"
        self._in_section = True
        return after

    def _open_call(self, token: str, after: int, header: str | None) -> int:
        self._mode = "header"
        self._in_section = False
        return after

    def _open_arguments(self, token: str, after: int, header: str | None) -> int:
        if header is None:
            return self._orphan(token, after, None)
        self._raw = [header, token]
        self._header = header
        self._mode = "arguments"
        return after

    def _orphan(self, token: str, after: int, header: str | None) -> int:
        """A marker that closes nothing."""
        if not self._lexicon.has_tools:
            self._mode = "lone"
            return after
        self._note("stray_marker", f"removed {token}")
        return after

    def _open_role(self, token: str, after: int, header: str | None) -> int:
        self._mode = "role"
        return after

    def _open_k3(self, token: str, after: int, header: str | None) -> int:
        if token != "<|open|>":  # noqa: S105
            return self._orphan(token, after, header)
        self._mode = "k3"
        return after

    def _think(self, token: str, after: int, header: str | None) -> int:
        self._note("think_tag", f"removed {token}")
        if self._is_content:
            self._thinking = True
        return after

    def _end_think(self, token: str, after: int, header: str | None) -> int:
        self._note("think_tag", f"removed {token}")
        self._thinking = False
        return after

    def _tag(self, buffer: str, position: int, start: int, token: str) -> int | str:
        """``<tag>`` of a foreign dialect, or of a declared name; everything else is text."""
        if not self._lexicon.has_tools:
            return "pass"
        closing = FOREIGN_TAGS.get(token)
        is_name = False
        if closing is None and self._is_text and token in self._lexicon.name_tags:
            closing, is_name = f"</{token[1:]}", True
        if closing is None:
            if token not in STRAY_TAGS or not self._has_called:
                return "pass"
            self._say(buffer[position:start])
            self._note("stray_marker", f"removed {token}")
            self._has_cut = True
            return start + len(token)
        self._say(buffer[position:start])
        if self._quotes.closer() is not None or self._adjacent_quote() is not None:
            return self._let_out(buffer, start, start + 1)
        self._reset_region()
        self._mode = "xml"
        self._has_cut = True
        self._closing = closing
        self._is_soft = is_name
        self._raw = [token]
        return start + len(token)


def _ends_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start
