"""What every mode of the scanner stands on: the state of one channel, and how text goes out."""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Literal, cast

from kimiya.core.exchange import Repair
from kimiya.taming import foreign
from kimiya.taming.findings import Channel, Finding, Thought, excerpt
from kimiya.taming.grammar import CONTROL, Lexicon
from kimiya.taming.mentions import neutral
from kimiya.taming.prose import ProseRule
from kimiya.taming.quotes import Closer, Quotes

MAX_CALL_CHARS = 4 * 1024 * 1024
"""Longest call that is kept; a longer one is a defect."""

Mode = Literal["prose", "section", "header", "arguments", "k3", "quoted", "json", "xml", "lone",
               "role", "discard", "dictation"]  # fmt: skip

REGION_FIELDS = (
    "_raw", "_pieces", "_length", "_is_wide", "_header", "_has_called", "_calls_here", "_depth",
    "_in_string", "_is_escaped", "_closing", "_is_soft", "_before", "_in_section",
)  # fmt: skip
"""What another channel takes over with a call that broke off."""


class Walk:
    """The state of one walk through a channel.

    ``_mode`` says what the text is read as; what is read but not decided stands in ``_pending`` (in
    prose) or ``_pieces`` (inside a region), and findings gather in ``_out``.
    """

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
        self._has_reply_tag = False
        self._mode: Mode = "prose"
        self._pending = ""
        self._quotes = Quotes()
        self._is_blank = True
        self._line_is_blank = True
        self._last = ""
        self._solid = ""
        self._loose = ""
        self._has_cut = False
        self._wait_at = -1
        self._swallow = False
        self._has_called = False
        self._in_section = False
        self._reset_region()
        self._out: list[Finding] = []

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
        if solid := text[-64:].rstrip() or text.rstrip():
            self._solid = (self._solid + solid)[-2:]

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

    @property
    def _is_text(self) -> bool:
        return self._is_content and not self._thinking and self._lexicon.has_tools

    def _let_out(self, buffer: str, start: int, end: int) -> int:
        """Say a part that might have been more, and go on behind it."""
        self._say(buffer[start:end])
        return end

    def _reset_region(self) -> None:
        self._raw: list[str] = []
        self._pieces: list[str] = []
        self._length: int = 0
        self._is_wide = False
        self._header: str | None = None
        self._calls_here = 0
        self._depth = 0
        self._tail = ""
        self._in_string = False
        self._is_escaped = False
        self._closing = ""
        self._closer: Closer | None = None
        self._is_soft = False
        self._before = self._last
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
        self._length: int = 0
        self._is_wide = False
        return text

    def _mark_part(self, buffer: str, at: int) -> int:
        """Where a marker may begin that the buffer's end cuts."""
        near = max(at, len(buffer) - 44)
        opening = buffer.rfind("<", near)
        if opening >= 0 and buffer[opening:] in self._lexicon.prefixes:
            return opening
        return len(buffer)
