"""The incremental scanner: a channel's text in, findings out, the same however the text is cut.

A table plus a buffer. In ``prose`` it looks for the few characters that can open something and lets
the rest through; a marker moves it along ``TRANSITIONS``; an absent pair is a defect and the stream
goes on. Invariants:

* What is held back in prose is a prefix of a marker, of a tag or of a call's header, nothing else.
* Decisions depend on the text alone, never on where a piece ended, so cutting changes nothing.
* Each character is looked at a bounded number of times; a call's text is kept, nothing else is.
* Discarded text leaves a ``Repair`` or ``Defect``.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from kimiya.taming.findings import Finding, Thought
from kimiya.taming.grammar import FUNCTION_PREFIXES
from kimiya.taming.openings import Prose
from kimiya.taming.walk import REGION_FIELDS, Mode

Reader = Callable[[Any, str, int, bool], int | str | None]
"""Of a scanner, reads a buffer from a place on, the last one or not. Gives where to go on, a new
buffer to go on with, or ``None`` to wait."""


class Scanner(Prose):
    """Finds calls in one channel of one reply.

    Each mode stands in a class of its own, one upon the other: ``Walk``, ``CallRegion``,
    ``ForeignRegion``, ``Aside``, ``Prose``.
    """

    _READERS: ClassVar[Mapping[Mode, Reader]] = {
        "prose": Prose._prose,
        "section": Prose._region,
        "header": Prose._region,
        "arguments": Prose._region,
        "k3": Prose._k3,
        "quoted": Prose._quoted,
        "json": Prose._json,
        "xml": Prose._xml,
        "lone": Prose._lone,
        "role": Prose._role,
        "discard": Prose._discard,
        "dictation": Prose._dictation,
    }

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
        for name in REGION_FIELDS:
            setattr(self, name, getattr(other, name))
        other._mode, other._pending = "prose", ""
        other._reset_region()

    def _clear(self, text: str) -> bool:
        """Whether nothing in ``text`` can open anything, so that it may pass as it is."""
        if "<" in text:
            return False
        if not self._is_content or self._thinking or not self._lexicon.has_tools:
            return True
        if "{" in text or (self._is_blank and "[" in text):
            return False
        if text.endswith(FUNCTION_PREFIXES) or "functions" in text:
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
            step = self._READERS[self._mode](self, buffer, position, final)
            if step is None:
                return
            if isinstance(step, str):
                buffer, position = step, 0
            else:
                position = step
