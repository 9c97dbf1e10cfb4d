"""Where each key of a TOML file stands, so that a mistake can be named with its line.

Not a parser: ``tomllib`` has already accepted the text. It follows table headers, keys at the start
of a line and multi-line strings; a key inside an inline table has the line of that table.
"""

import re
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

_BARE_OR_QUOTED = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_BARE_OR_QUOTED}(?:[ \t]*\.[ \t]*{_BARE_OR_QUOTED})*"
_HEADER = re.compile(rf"^[ \t]*(?P<open>\[\[?)[ \t]*(?P<key>{_KEY})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"^[ \t]*(?P<key>{_KEY})[ \t]*=")
_PIECE = re.compile(_BARE_OR_QUOTED)
_LONG_QUOTES = re.compile(r'"""|\'\'\'')


class TomlLines:
    """Line numbers, from one, of the keys of one file."""

    def __init__(self, text: str) -> None:
        self._lines: dict[KeyPath, int] = {}
        self._counts: dict[KeyPath, int] = {}
        table: KeyPath = ()
        inside: str | None = None
        for number, line in enumerate(text.split("\n"), start=1):
            if inside is None:
                table = self._read(line, number, table)
            inside = _open_after(line, inside)

    def find(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest table around it."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None

    def _read(self, line: str, number: int, table: KeyPath) -> KeyPath:
        if header := _HEADER.match(line):
            table = _pieces(header["key"])
            if header["open"] == "[[":
                count = self._counts.get(table, 0)
                self._counts[table] = count + 1
                table = (*table, count)
            else:
                table = self._inside_arrays(table)
            self._lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            path = (*table, *_pieces(assignment["key"]))
            for end in range(len(table) + 1, len(path) + 1):
                self._lines.setdefault(path[:end], number)
        return table

    def _inside_arrays(self, table: KeyPath) -> KeyPath:
        """``[models.cache]`` after ``[[models]]`` belongs to the row opened last."""
        for end in range(1, len(table)):
            if table[:end] in self._counts:
                last = self._counts[table[:end]] - 1
                return (*table[:end], last, *table[end:])
        return table


def _pieces(key: str) -> KeyPath:
    return tuple(piece[1:-1] if piece[0] in "\"'" else piece for piece in _PIECE.findall(key))


def _open_after(line: str, inside: str | None) -> str | None:
    """Which long quotes are still open at the end of a line."""
    for found in _LONG_QUOTES.finditer(line):
        if inside is None:
            inside = found[0]
        elif inside == found[0]:
            inside = None
    return inside
