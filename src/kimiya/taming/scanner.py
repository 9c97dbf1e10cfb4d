"""The incremental scanner: a channel's text in, findings out, the same however the text is cut.

A table plus a buffer. In ``prose`` it looks for the few characters that can open something and lets
the rest through; a marker moves it along ``TRANSITIONS``; an absent pair is a defect and the stream
goes on. Invariants:

* What is held back in prose is a prefix of a marker, of a tag or of a call's header, nothing else.
* Every decision depends on the text alone, never on where a piece ended, so cutting changes nothing.
* Each character is looked at a bounded number of times; a call's text is kept, nothing else is.
* Discarded text leaves a ``Repair`` or ``Defect``.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Literal, cast

from kimiya.core.exchange import Defect, Repair
from kimiya.taming import foreign
from kimiya.taming.findings import Candidate, Channel, Dictated, Finding, Thought, Typed, excerpt
from kimiya.taming.grammar import (
    ARGUMENT_BEGIN,
    BARE_HEADER,
    CALL_KINDS,
    CONTROL,
    ENVELOPE_KEYS,
    FOREIGN_TAGS,
    FUNCTION_PREFIXES,
    MARKERS,
    REGION_MARK,
    STRAY_TAGS,
    Lexicon,
    MarkKind,
)
from kimiya.taming.prose import ProseRule
from kimiya.taming.quotes import MAX_CHARS, Closer, Quotes, quoted_by

MAX_CALL_CHARS = 4 * 1024 * 1024
"""Longest call that is kept; a longer one is a defect."""
_MAX_HEADER_CHARS = 512
"""Longest text after an opening marker in which a ``{`` must have come."""

Mode = Literal["prose", "section", "header", "arguments", "k3", "quoted", "json", "xml", "lone",
               "role", "discard", "dictation"]  # fmt: skip
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
"""Inside a call region: mode and marker to what is done and where it goes on. What is absent stays
in the text of the call, where the names and arguments rooms judge it."""

_MAX_LINE_HEADER_CHARS = 220
"""Longest line that may name a tool before its arguments."""

_OBJECT = re.compile(r'\{\s{0,16}["}]')
_OBJECT_PART = re.compile(r"\{\s{0,16}\Z")
_ENVELOPE = re.compile(r'\{\s{0,16}"([^"\\]{1,64})"\s{0,8}:')
_ENVELOPE_PART = re.compile(r'\{\s{0,16}(?:"(?:[^"\\]{0,64}(?:"\s{0,8})?)?)?\Z')
_NAMED = re.compile(r'\{\s{0,16}"[^"\\]{1,64}"\s{0,8}:\s{0,8}"([^"\\]{0,128})"')
_NAMED_PART = re.compile(r'\{\s{0,16}"[^"\\]{1,64}"\s{0,8}:\s{0,8}(?:"[^"\\]{0,128})?\Z')
_BRACKET = re.compile(r'["\\{}\[\]]')
_IN_STRING = re.compile(r'["\\]')
_WORDS = re.compile(r"[^\W\d]+[.,;:!?)]*\s+[^\W\d]+")
_PLAIN = re.compile(r"\s[^\W\d_]+[.,;:!?)]?\s")
_ATTEMPT = re.compile(r"functions?[._:]|:\s?\d|[{}]")


class Scanner:
    """Finds calls in one channel of one reply."""

    def __init__(
        self,
        lexicon: Lexicon,
        channel: Channel,
        *,
        properties: Callable[[], frozenset[str]] = frozenset,
        prose: tuple[ProseRule, ...] = (),
    ) -> None:
        self._lexicon = lexicon
        self._channel: Channel = channel
        self._properties = properties
        self._prose_rules = prose
        self._is_content = channel == "content"
        self._thinking = False
        self._mode: Mode = "prose"
        self._pending = ""
        self._quotes = Quotes()
        self._is_blank = True
        self._line_is_blank = True
        self._last = ""
        self._loose = ""
        self._has_cut = False
        self._wait_at = -1
        self._swallow = False
        self._reset_region()
        self._out: list[Finding] = []

    # Feeding ------------------------------------------------------------------------------------

    def feed(self, text: str) -> list[Finding]:
        """Take more of the channel in; give what is certain now."""
        is_idle = self._mode == "prose" and not self._pending
        if is_idle and not self._swallow and not self._has_cut and self._clear(text):
            self._said(text)
            return [Thought(text)] if self._thinking else [text]
        self._run(self._pending + text, final=False)
        return self._found()

    def close(self) -> list[Finding]:
        """The channel ended; give what was held back."""
        self._run(self._pending, final=True)
        return self._found()

    @property
    def is_open(self) -> bool:
        """Whether a call or a marker has begun that another channel may go on with."""
        if self._mode == "prose":
            return len(self._pending) > 4 and self._pending[0] == "<"
        return self._mode in ("section", "header", "arguments")

    def adopt(self, other: "Scanner") -> None:
        """Go on where another channel of the reply broke off: hosts split a call in two."""
        self._mode, self._pending = other._mode, other._pending
        for name in _REGION_FIELDS:
            setattr(self, name, getattr(other, name))
        other._mode, other._pending = "prose", ""
        other._reset_region()

    def _clear(self, text: str) -> bool:
        """Whether nothing in ``text`` can open anything, so that it may pass as it is."""
        if "<" in text:
            return False
        if not self._is_content or self._thinking or not self._lexicon.has_tools:
            return True
        if "{" in text or text.endswith(FUNCTION_PREFIXES) or "functions" in text:
            return False
        if self._prose_rules and any(rule.start in text for rule in self._prose_rules):
            return False
        if self._line_is_blank or "\n" in text:
            starts = self._line_starts(text, 0, len(text))
            return not any(self._lexicon.opens_line(text[start:]) for start in starts)
        return True

    def _run(self, buffer: str, *, final: bool) -> None:
        position = 0
        self._pending = ""
        while True:
            step = _MODES[self._mode](self, buffer, position, final)
            if step is None:
                return
            if isinstance(step, str):
                buffer, position = step, 0
            else:
                position = step

    # Saying -------------------------------------------------------------------------------------

    def _said(self, text: str) -> None:
        """Keep what later decisions need to know of text that goes out."""
        opening = text.rfind("<")
        if opening >= 0:
            self._loose = text[opening:] if text[opening:] in self._lexicon.prefixes else ""
        elif self._loose:
            self._loose += text
            if self._loose not in self._lexicon.prefixes:
                self._loose = ""
        if "\n" in text:
            self._line_is_blank = not text[text.rfind("\n") + 1 :].strip(" \t")
        elif self._line_is_blank and text.strip(" \t"):
            self._line_is_blank = False
        if self._is_blank and text.strip():
            self._is_blank = False
        self._quotes.feed(text)
        self._last = text[-2:] if len(text) > 1 else self._last[-1:] + text

    def _say(self, text: str) -> None:
        if text:
            if self._loose and self._has_cut:
                # What was taken out stood between two halves of a marker: they must not meet.
                text = "¦" + text
            self._has_cut = False
            self._said(text)
            self._out.append(Thought(text) if self._thinking else text)

    def _found(self) -> list[Finding]:
        """What was found since the last time, neighbouring pieces of text joined."""
        out, self._out = self._out, []
        if len(out) < 2:
            return out
        joined: list[Finding] = []
        for kind, group in groupby(out, type):
            if kind is str:
                joined.append("".join(cast("Iterable[str]", group)))
            elif kind is Thought:
                joined.append(Thought("".join(t.text for t in cast("Iterable[Thought]", group))))
            else:
                joined += group
        return joined

    def _show(self, raw: str) -> None:
        """Say text that was taken for something else; its markers stay only inside JSON strings."""
        if CONTROL.search(raw) and foreign.decoded(raw) is None:
            self._note("mention_neutralised", f"showed {excerpt(raw)!r} with its markers defused")
            raw = neutral(raw)
        self._say(raw)

    def _note(self, code: str, detail: str) -> None:
        channel = "reasoning" if self._thinking or not self._is_content else "content"
        self._out.append(Repair(code, detail, channel))

    # Prose --------------------------------------------------------------------------------------

    @property
    def _is_text(self) -> bool:
        return self._is_content and not self._thinking and self._lexicon.has_tools

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
            if token == "{":
                step = self._brace(buffer, position, start, final)
            elif token[0] == "f":
                step = self._bare(buffer, position, start, final)
            else:
                step = self._marked(buffer, position, start, token)
            if step == "wait":
                start = self._wait_at if self._wait_at >= 0 else start
                self._wait_at = -1
                self._say(buffer[position:start])
                self._pending = buffer[start:]
                return None
            if step != "pass":
                return int(step)
            at = start + (1 if token[0] in "<{" else len(token))

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

    # Prose: calls without markers ---------------------------------------------------------------

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
        if not (is_blank and (first in ENVELOPE_KEYS or first in self._properties())):
            if first not in ENVELOPE_KEYS:
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

    def _let_out(self, buffer: str, start: int, end: int) -> int:
        """Say a part that might have been more, and go on behind it."""
        self._say(buffer[start:end])
        return end

    def _enter_json(self, buffer: str, place: int, start: int, header: str | None) -> int:
        self._reset_region()
        self._mode = "json"
        self._has_cut = True
        self._header = header
        self._raw = [buffer[place:start]]
        return start

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

    # Prose: markers -----------------------------------------------------------------------------

    def _marked(self, buffer: str, position: int, start: int, token: str) -> int | str:
        kind = MARKERS.get(token)
        if kind is None:
            return self._tag(buffer, position, start, token)
        header = None
        if kind == "argument_begin" and self._is_text:
            header = self._line_header(buffer, position, start)
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
        return _OPENINGS[kind](self, token, start + len(token), header[1] if header else None)

    def _adjacent_quote(self) -> Closer | None:
        mark = _QUOTE_MARKS.get(self._last[-1:])
        if mark is None or self._last[-1:] == mark and self._last[:-1] not in _BEFORE_QUOTES:
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
        if token != "<|open|>":
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

    # Call regions -------------------------------------------------------------------------------

    def _reset_region(self) -> None:
        self._raw: list[str] = []
        self._pieces: list[str] = []
        self._length = 0
        self._is_wide = False
        self._header: str | None = None
        self._has_called = getattr(self, "_has_called", False)
        self._calls_here = 0
        self._depth = 0
        self._tail = ""
        self._in_string = False
        self._is_escaped = False
        self._closing = ""
        self._closer: Closer | None = None
        self._is_soft = False
        self._before = self._last if hasattr(self, "_last") else ""
        self._rule: ProseRule | None = None

    def _gather(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._length += len(text)

    def _gathered(self) -> str:
        text = "".join(self._pieces)
        self._pieces = [text] if text else []
        return text

    def _take(self) -> str:
        text = "".join(self._pieces)
        self._pieces = []
        self._length = 0
        self._is_wide = False
        return text

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

    def _mark_part(self, buffer: str, at: int) -> int:
        """Where a marker may begin that the buffer's end cuts."""
        near = max(at, len(buffer) - 44)
        opening = buffer.rfind("<", near)
        if opening >= 0 and buffer[opening:] in self._lexicon.prefixes:
            return opening
        return len(buffer)

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

    _in_section = False

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
            if not self._lexicon.has_tools and _mention("".join(self._raw)):
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
        if not self._lexicon.has_tools and not _looks_called(header, arguments):
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
        if not self._lexicon.has_tools and _mention(raw):
            self._say(raw)
        elif (
            self._before[-1:] == " "
            and len(self._raw) == 1
            and _PLAIN.match(after)
            and _mention(raw)
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

    # Other regions ------------------------------------------------------------------------------

    def _quoted(self, buffer: str, position: int, final: bool) -> int | str | None:
        """From a marker in a quotation to where the quotation ends."""
        closer = self._closer
        assert closer is not None
        text, begin, start = buffer, position, position
        if self._raw:
            start = len(self._raw[0]) - 80
            text, begin = self._raw[0] + buffer[position:], 0
        end = closer.find(text, begin, start, final=final)
        if end is None:
            self._raw = [text[begin:]]
            return None
        self._mode = "prose"
        if end >= 0:
            self._say(text[begin:end])
        elif closer.kind == "fence":
            end = self._unfenced(text, begin)
        else:
            end = begin
            self._quotes.forget()
            self._last = " "
        return end if text is buffer else text[end:]

    def _unfenced(self, text: str, begin: int) -> int:
        """A fence that does not close: its text is shown, unless it holds a call."""
        end = min(len(text), begin + MAX_CHARS)
        said = text[begin:end]
        if not self._lexicon.has_tools:
            self._say(said)
        elif _looks_called(said, None):
            what = "a call in a fence that never closes"
            self._out.append(Defect("unclosed_quote", what, excerpt(said)))
        else:
            self._show(said)
        return end

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

    def _lone(self, buffer: str, position: int, final: bool) -> int | None:
        """No tools declared, and a marker: named in a sentence, or leaked at its end?"""
        rest = buffer[position:].lstrip()
        if rest in ("", "<") and not final:
            self._pending = buffer[position:]
            return None
        token = "".join(self._raw)
        self._mode = "prose"
        if rest and not rest.startswith(("<|", "<｜")):
            self._say(token)
        else:
            self._note("stray_marker", f"removed {token}")
        return position

    def _role(self, buffer: str, position: int, final: bool) -> int | None:
        """A chat template's role token: the model wrote the next turn itself."""
        token = "".join(self._raw)
        middle = buffer.find("<|im_middle|>", position, position + 96)
        if middle < 0 and len(buffer) - position < 96 and not final:
            self._pending = buffer[position:]
            return None
        after = middle + len("<|im_middle|>") if middle >= 0 else position
        if middle < 0 and not self._lexicon.has_tools:
            self._mode = "lone"
            return position
        if MARKERS[token] == "answer_role" or middle < 0:
            self._note("stray_marker", f"removed {token}")
            self._mode = "prose"
            return after
        self._mode = "discard"
        return after

    def _discard(self, buffer: str, position: int, final: bool) -> int | None:
        """What the model wrote in another speaker's name."""
        found = buffer.find("<|im_assistant|>", position)
        end = found if found >= 0 else len(buffer) if final else self._mark_part(buffer, position)
        self._length += end - position
        kept = sum(map(len, self._pieces))
        self._pieces.append(buffer[position:end][: max(0, 201 - kept)])
        if found < 0 and not final:
            self._pending = buffer[end:]
            return None
        said = excerpt("".join(self._pieces))
        self._note("invented_turn", f"dropped {self._length} characters: {said!r}")
        self._take()
        self._mode = "prose"
        return end

    # Arguments typed as prose -------------------------------------------------------------------

    def _dictation_start(self, buffer: str, position: int) -> int:
        """Where the first declared argument opens, at the start of a line; or -1."""
        if not self._is_text:
            return -1
        first = -1
        for rule in self._prose_rules:
            at = buffer.find(rule.start, position)
            while at >= 0 and (first < 0 or at < first):
                newline = buffer.rfind("\n", position, at)
                line = buffer[newline + 1 if newline >= 0 else position : at]
                if not line.strip(" \t") and (newline >= 0 or self._line_is_blank):
                    first, self._rule = at, rule
                    break
                at = buffer.find(rule.start, at + 1)
        return first

    def _open_dictation(self, buffer: str, position: int, start: int) -> int:
        rule = self._rule
        assert rule is not None
        self._say(buffer[position:start])
        if self._quotes.closer() is not None:
            return self._let_out(buffer, start, start + len(rule.start))
        self._reset_region()
        self._rule = rule
        self._mode = "dictation"
        return start

    def _dictation(self, buffer: str, position: int, final: bool) -> int | str | None:
        rule = self._rule
        assert rule is not None
        window = self._tail + buffer[position:]
        self._gather(buffer[position:])
        if not self._is_wide:
            text = self._gathered()
            judged = rule.confirmed(text, final=final)
            if judged is None:
                return None
            if not judged:
                self._take()
                self._mode = "prose"
                self._say(rule.start)
                return text[len(rule.start) :]
            self._is_wide = True
            window = text
        end = rule.end_in(window)
        self._tail = window[-80:]
        too_long = self._length > MAX_CALL_CHARS
        if end is None and not final and not too_long:
            return None
        text = self._take()
        stop = len(text) - (len(window) - end) if end is not None else len(text)
        self._mode = "prose"
        self._has_called = True
        whole = not too_long and (end is not None or rule.end is None)
        self._out.append(Dictated(rule.tool, rule.argument, text[:stop], whole))
        return text[stop:]


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

_REGION_FIELDS = (
    "_raw", "_pieces", "_length", "_is_wide", "_header", "_has_called", "_calls_here", "_depth",
    "_in_string", "_is_escaped", "_closing", "_closer", "_is_soft", "_before", "_in_section",
)  # fmt: skip

_OPENINGS: Mapping[MarkKind, Callable[[Scanner, str, int, str | None], int]] = {
    "section_begin": Scanner._open_section,
    "call_begin": Scanner._open_call,
    "argument_begin": Scanner._open_arguments,
    "section_end": Scanner._orphan,
    "call_end": Scanner._orphan,
    "turn_end": Scanner._orphan,
    "middle": Scanner._orphan,
    "odd": Scanner._orphan,
    "role": Scanner._open_role,
    "answer_role": Scanner._open_role,
    "k3": Scanner._open_k3,
    "think": Scanner._think,
    "think_end": Scanner._end_think,
}

_MODES: Mapping[Mode, Callable[[Scanner, str, int, bool], int | str | None]] = {
    "prose": Scanner._prose,
    "section": Scanner._region,
    "header": Scanner._region,
    "arguments": Scanner._region,
    "k3": Scanner._k3,
    "quoted": Scanner._quoted,
    "json": Scanner._json,
    "xml": Scanner._xml,
    "lone": Scanner._lone,
    "role": Scanner._role,
    "discard": Scanner._discard,
    "dictation": Scanner._dictation,
}


_SPACE = re.compile(r"\s*")


def _ends_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _json_start(text: str) -> int:
    """Where arguments begin that are glued to their header."""
    places = [place for sign in ("{", '"{', "```") if (place := text.find(sign)) >= 0]
    return min(places, default=-1)


def _looks_called(header: str, arguments: str | None) -> bool:
    """Whether a region without declared tools is an attempt to call, not a mention."""
    said = (arguments if arguments is not None else header).strip()
    if arguments is None:
        return bool(re.search(r"\{|functions?[._:]\w|:\d", said))
    return said.startswith(("{", '"', "`")) or bool(_ATTEMPT.search(header))


def _mention(raw: str) -> bool:
    """Whether a marker that opens nothing is named in a sentence."""
    text = REGION_MARK.sub(" ", raw)
    return bool(_WORDS.search(text)) and not _ATTEMPT.search(text)


def neutral(text: str) -> str:
    """Text with its markers made harmless and still readable: ``<|`` becomes ``<¦``.

    >>> neutral("the <|im_end|> token")
    'the <¦im_end¦> token'
    """
    return REGION_MARK.sub(lambda m: f"<¦{m.group()[2:-2]}¦>", text)
