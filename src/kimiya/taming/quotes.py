"""Whether a place in a text is quoted: inside a code fence, inline code or a JSON document's string.

A marker in such a place is something the model talks about, not something it does. Fed with the
visible text piece by piece; cutting the text anywhere changes nothing.
"""

import re
from typing import Literal, NamedTuple

_STRING_END = re.compile(r'(?<!\\)(?:\\\\)*"')
MAX_CHARS = 64 * 1024
"""Longest quotation with a marker in it that is waited for."""
_TOKEN = re.compile(r"`+|\n|[^`\n]+")


class Closer(NamedTuple):
    """What ends an open quotation."""

    kind: Literal["fence", "code", "string", "marks"]
    pattern: re.Pattern[str]
    sign: str
    """A character that, following at once, makes the ending another one; ``""``: none does."""

    def find(self, text: str, start: int, *, final: bool) -> int | None:
        """Where the quotation that holds ``text`` ends.

        Returns:
            The place behind its end; ``-1`` where it proves to be none; ``None`` while it is open.
        """
        found = self.pattern.search(text, start)
        newline = -1 if self.kind == "fence" else text.find("\n")
        if newline >= 0 and (found is None or newline < found.start()):
            return -1
        if found is None:
            return -1 if final or len(text) > MAX_CHARS else None
        end = found.end()
        if end > MAX_CHARS:
            return -1
        rest = text[end:].lstrip() if self.kind == "string" else text[end : end + 1]
        if self.kind == "string":
            # A quote that ends a JSON string is followed by JSON; any other was never an ending.
            return (-1 if final else None) if not rest else end if rest[0] in ",:}]" else -1
        return None if self.sign and not rest and not final else end


def quoted_by(mark: str) -> Closer:
    """The ending of a quotation in quotation marks that begin right before a control marker."""
    ending = r"(?:\A<[|｜][^<>]*[|｜]>|(?:end|END)[|｜]>)"
    return Closer("marks", re.compile(ending + re.escape(mark)), "")


class Quotes:
    """Markdown's and JSON's quoting, followed through one text."""

    def __init__(self) -> None:
        self._fence = 0
        self._inline = 0
        self._run = 0
        self._is_line_start = True
        self._document: bool | None = None
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> None:
        """Take more of the text in."""
        if self._document is None and (stripped := text.lstrip()):
            self._document = stripped[0] in "{["
        if self._document:
            self._follow_string(text)
        if "`" in text or self._run or self._inline:
            self._follow_ticks(text)
        elif "\n" in text:
            self._is_line_start = not text[text.rfind("\n") + 1 :].strip(" \t")
        elif self._is_line_start and text.strip(" \t"):
            self._is_line_start = False

    def closer(self) -> Closer | None:
        """What would end the quotation that is open here; ``None`` where none is."""
        self._end_run()
        if self._fence:
            return Closer("fence", re.compile(rf"\n[ \t]*`{{{self._fence},}}"), "`")
        if self._inline:
            return Closer("code", re.compile(rf"(?<!`)`{{{self._inline}}}(?!`)"), "`")
        if self._document and self._in_string:
            return Closer("string", _STRING_END, "")
        return None

    def forget(self) -> None:
        """The quotation that seemed open was none: it never closed."""
        self._fence = self._inline = 0
        self._document = False

    def _follow_ticks(self, text: str) -> None:
        for token in _TOKEN.findall(text):
            if token[0] == "`":
                self._run += len(token)
                continue
            self._end_run()
            if token == "\n":
                self._is_line_start = True
                self._inline = 0
            elif token.strip(" \t"):
                self._is_line_start = False

    def _end_run(self) -> None:
        run, self._run = self._run, 0
        if not run:
            return
        if self._fence:
            if run >= self._fence and self._is_line_start:
                self._fence = 0
        elif self._inline:
            if run == self._inline:
                self._inline = 0
        elif run >= 3 and self._is_line_start:
            self._fence = run
        else:
            self._inline = run
        self._is_line_start = False

    def _follow_string(self, text: str) -> None:
        if '"' not in text and not self._is_escaped and "\\" not in text:
            return
        for char in text:
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\" and self._in_string:
                self._is_escaped = True
            elif char == '"':
                self._in_string = not self._in_string
