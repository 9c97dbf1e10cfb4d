"""A reply on a screen: rendered Markdown in a terminal, plain text anywhere else.

What a model writes is not trusted: in a terminal, control characters that could move the cursor or
set the title are shown as what they are. A pipe gets the bytes unchanged.
"""

import re
from typing import TYPE_CHECKING, Protocol, TextIO

from kimiya.pipeline import Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Screen(Protocol):
    """Where a conversation is shown."""

    def begin(self) -> None:
        """A reply is about to come."""
        ...

    def text(self, piece: str) -> None:
        """More of it."""
        ...

    def reasoning(self, piece: str) -> None:
        """More of the model's reasoning."""
        ...

    def end(self) -> None:
        """Nothing more comes, for whatever reason. Called once for each ``begin``."""
        ...

    def report(self, report: Report) -> None:
        """What was done for the reply."""
        ...

    def remark(self, line: str) -> None:
        """A word of our own."""
        ...

    def error(self, line: str) -> None:
        """Something went wrong."""
        ...


def screen_for(out: TextIO, err: TextIO, *, shows_reasoning: bool = False) -> Screen:
    """The screen that fits where the output goes."""
    if out.isatty():
        from rich.console import Console

        return TerminalScreen(Console(file=out), err, shows_reasoning=shows_reasoning)
    return PlainScreen(out, err, shows_reasoning=shows_reasoning)


def harmless(text: str) -> str:
    """Text without control characters, each replaced by its picture.

    >>> harmless("a\\x1b[2Jb")
    'a␛[2Jb'
    """
    return _CONTROL.sub(_picture, text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def summary(report: Report) -> str:
    """One line about a call: who answered, tokens, dollars, what was changed.

    >>> summary(Report(model="kimi", target="moonshot:kimi-k2.6"))
    'moonshot:kimi-k2.6'
    """
    words = [report.target]
    if report.usage is not None:
        words.append(f"{report.usage.input_tokens} in, {report.usage.output_tokens} out")
        words.append("unpriced" if report.cost_usd is None else f"${report.cost_usd:.6f}")
    if report.adjustments:
        codes = dict.fromkeys(adjustment.code for adjustment in report.adjustments)
        words.append(f"adjusted: {', '.join(codes)}")
    if report.verdict.outcome != "ok":
        codes = dict.fromkeys(repair.code for repair in report.verdict.repairs)
        words.append(f"{report.verdict.outcome}: {', '.join(codes)}" if codes else "mended")
    if report.retries:
        words.append(f"{report.retries} more attempt(s)")
    return " · ".join(words)


class PlainScreen:
    """Text as it comes, to a pipe or a file; remarks to stderr."""

    def __init__(self, out: TextIO, err: TextIO, *, shows_reasoning: bool = False) -> None:
        self._out = out
        self._err = err
        self._shows_reasoning = shows_reasoning
        self._last = "\n"
        self._last_thought = "\n"

    def begin(self) -> None:
        """See ``Screen``."""
        self._last = self._last_thought = "\n"

    def text(self, piece: str) -> None:
        """See ``Screen``."""
        if piece:
            self._end_thought()
            self._out.write(piece)
            self._out.flush()
            self._last = piece[-1]

    def reasoning(self, piece: str) -> None:
        """See ``Screen``."""
        if self._shows_reasoning and piece:
            self._err.write(harmless(piece) if self._err.isatty() else piece)
            self._err.flush()
            self._last_thought = piece[-1]

    def end(self) -> None:
        """See ``Screen``."""
        self._end_thought()
        if self._last != "\n":
            self._out.write("\n")
            self._out.flush()

    def report(self, report: Report) -> None:
        """Only where somebody sees it: a pipe's stderr is for errors."""
        if self._err.isatty():
            self.remark(summary(report))

    def remark(self, line: str) -> None:
        """See ``Screen``."""
        print(harmless(line), file=self._err)

    def error(self, line: str) -> None:
        """See ``Screen``."""
        print(f"kimiya: {harmless(' '.join(line.split()))}", file=self._err)

    def _end_thought(self) -> None:
        if self._last_thought != "\n":
            self._err.write("\n")
            self._last_thought = "\n"


class TerminalScreen:
    """Markdown, rendered while it grows: its tail lives at the bottom, the whole stays behind."""

    def __init__(self, console: "Console", err: TextIO, *, shows_reasoning: bool = False) -> None:
        self._console = console
        self._err = err
        self._shows_reasoning = shows_reasoning
        self._text: list[str] = []
        self._thought: list[str] = []
        self._live: Live | None = None

    def begin(self) -> None:
        """See ``Screen``."""
        from rich.live import Live

        self._text, self._thought = [], []
        # Not its own refresh thread: the reply's own pace is fine, and Ctrl-C finds one thread.
        self._live = Live(
            console=self._console, transient=True, auto_refresh=False, vertical_overflow="crop"
        )
        self._live.start()

    def text(self, piece: str) -> None:
        """See ``Screen``."""
        self._text.append(piece)
        self._refresh()

    def reasoning(self, piece: str) -> None:
        """See ``Screen``."""
        self._thought.append(piece)
        self._refresh()

    def end(self) -> None:
        """See ``Screen``."""
        from rich.markdown import Markdown
        from rich.text import Text

        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._shows_reasoning and self._thought:
            self._console.print(Text(harmless("".join(self._thought)).strip(), style="dim italic"))
        if self._text:
            self._console.print(Markdown(harmless("".join(self._text))))

    def report(self, report: Report) -> None:
        """See ``Screen``."""
        self.remark(summary(report))

    def remark(self, line: str) -> None:
        """See ``Screen``."""
        self._console.print(harmless(line), style="dim", markup=False, highlight=False)

    def error(self, line: str) -> None:
        """See ``Screen``."""
        text = harmless(" ".join(line.split()))
        self._console.print(text, style="red", markup=False, highlight=False)

    def _refresh(self) -> None:
        from rich.markdown import Markdown
        from rich.text import Text

        if self._live is None:
            return
        room = max(3, self._console.height - 2)
        if self._text:
            tail = "\n".join(harmless("".join(self._text)).split("\n")[-room:])
            self._live.update(Markdown(tail), refresh=True)
        else:
            tail = "\n".join(harmless("".join(self._thought)).split("\n")[-room:])
            shown = tail if self._shows_reasoning else "thinking ..."
            self._live.update(Text(shown, style="dim italic"), refresh=True)
