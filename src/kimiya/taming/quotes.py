"""Whether a place in a text is quoted: in a code fence, inline code or a JSON document's string.

A marker in such a place is something the model talks about, not something it does. Fed with the
visible text piece by piece; cutting the text anywhere changes nothing.
"""

import re
from typing import Literal, NamedTuple

_STRING_END = re.compile(r'(?<!\\)(?:\\\\)*"')
MAX_CHARS = 64 * 1024
"""Longest part of a fenced block, from a marker in it, that is waited for."""
_MAX_INLINE_CHARS = 2048
"""The same of other quotations."""
_FIRST_MARKER = re.compile(r"<[|｜][^<>]{1,48}[|｜]>")
_NOT_SPACE = re.compile(r"\S")
_TOKEN = re.compile(r"`+|\n|[^`\n]+")


class Closer(NamedTuple):
    """What ends an open quotation."""

    kind: Literal["fence", "code", "string", "marks"]
    pattern: re.Pattern[str]
    sign: str
    """The sign that ends it, where one does."""

    def find(self, text: str, begin: int, start: int, *, final: bool) -> int | None:
        """Where the quotation ends whose marker stands at ``begin``; looked at before ``start``.

        Returns:
            The place behind its end; ``-1`` where it proves to be none; ``None`` while it is open.
        """
        limit = begin + (MAX_CHARS if self.kind == "fence" else _MAX_INLINE_CHARS)
        found = None
        if self.kind == "marks" and start <= begin:
            found = _FIRST_MARKER.match(text, begin, limit)
            if found is not None and not text.startswith(self.sign, found.end()):
                found = None if found.end() < len(text) or final else found
                if found is not None:
                    return None
        found = found or self.pattern.search(text, max(begin, start), limit)
        stop = found.start() if found else min(limit, len(text))
        if self.kind != "fence" and text.find("\n", begin, stop) >= 0:
            return -1
        if found is None:
            return -1 if final or len(text) >= limit else None
        end = found.end() + (len(self.sign) if found.re is _FIRST_MARKER else 0)
        if self.kind == "string":
            # A quote that ends a JSON string is followed by JSON; any other was never an ending.
            sign = _NOT_SPACE.search(text, end)
            return (
                (-1 if final else None) if sign is None else end if sign.group() in ",:}]" else -1
            )
        if self.kind in ("fence", "code") and end == len(text) and not final:
            return None
        return end


def quoted_by(mark: str) -> Closer:
    """The ending of a quotation in quotation marks that begin right before a control marker."""
    return Closer("marks", re.compile(r"(?:end|END)[|｜]>" + re.escape(mark)), mark)


class Quotes:
    """Markdown's and JSON's quoting, followed through one text."""

    def __init__(self) -> None:
        self._fence = 0
        self._is_opening_line = False
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
        if "`" in text or self._run or self._inline or self._is_opening_line:
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

    @property
    def is_document(self) -> bool | None:
        """Whether the text began as a JSON document; ``None`` while it is blank."""
        return self._document

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
            if token == "\n":  # noqa: S105
                self._is_line_start = True
                self._is_opening_line = False
                self._inline = 0
            elif token.strip(" \t"):
                self._is_line_start = False

    def _end_run(self) -> None:
        run, self._run = self._run, 0
        if not run:
            return
        if self._fence:
            # Three backticks that close on their own line are inline code, not a fence.
            if run >= self._fence and (self._is_line_start or self._is_opening_line):
                self._fence = 0
        elif self._inline:
            if run == self._inline:
                self._inline = 0
        elif run >= 3 and self._is_line_start:
            self._fence = run
            self._is_opening_line = True
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
