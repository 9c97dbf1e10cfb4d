"""Whether a place in a text is quoted: inside a code fence, inline code or a JSON document's string.

A marker in such a place is something the model talks about, not something it does. Fed with the
visible text piece by piece; cutting the text anywhere changes nothing.
"""

import re

_TOKEN = re.compile(r"`+|\n|[^`\n]+")


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

    def closer(self) -> re.Pattern[str] | None:
        """What would end the quotation that is open here; ``None`` where none is."""
        self._end_run()
        if self._fence:
            return re.compile(rf"\n[ \t]*`{{{self._fence},}}")
        if self._inline:
            return re.compile(rf"(?<!`)`{{{self._inline}}}(?!`)")
        if self._document and self._in_string:
            return re.compile(r'(?<!\\)"')
        return None

    @property
    def is_fenced(self) -> bool:
        """Whether the open quotation is a fenced block."""
        return self._fence > 0

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
