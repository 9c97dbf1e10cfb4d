"""What is no call at all: quotations, lone markers, other speakers' turns, dictated arguments."""

from kimiya.core.exchange import Defect
from kimiya.taming.findings import Dictated, excerpt
from kimiya.taming.foreign_region import ForeignRegion
from kimiya.taming.grammar import MARKERS
from kimiya.taming.mentions import looks_called
from kimiya.taming.quotes import MAX_CHARS
from kimiya.taming.walk import MAX_CALL_CHARS


class Aside(ForeignRegion):
    """The modes ``quoted``, ``lone``, ``role``, ``discard`` and ``dictation``."""

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
        elif looks_called(said, None):
            what = "a call in a fence that never closes"
            self._out.append(Defect("unclosed_quote", what, excerpt(said)))
        else:
            self._show(said)
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
