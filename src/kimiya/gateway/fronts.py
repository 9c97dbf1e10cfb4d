"""Which dialect is spoken at which path: the table behind the router."""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from msgspec import Struct

from kimiya.wire.dialect import Dialect, Route
from kimiya.wire.dialects import DIALECTS


class Match(Struct, frozen=True):
    """A path understood."""

    dialect: Dialect
    route: Route
    model: str | None = None
    """The model id, where the path carries it, percent-decoded."""


class FrontTable:
    """Finds the dialect and route of a path."""

    def __init__(self, fronts: Iterable[Dialect] = tuple(DIALECTS.values())) -> None:
        self._exact: dict[str, Match] = {}
        self._patterns: list[tuple[re.Pattern[str], Dialect, Route]] = []
        for dialect in fronts:
            for route in dialect.routes:
                if "{model}" not in route.path:
                    self._exact[route.path] = Match(dialect, route)
                    continue
                before, after = route.path.split("{model}")
                pattern = re.compile(re.escape(before) + r"(?P<model>.+)" + re.escape(after))
                self._patterns.append((pattern, dialect, route))

    def match(self, path: str, raw_path: bytes) -> Match | None:
        """The front at a path, or ``None``.

        ``raw_path`` is looked at where a model id stands in the path: an ARN there holds
        percent-encoded slashes.
        """
        if (exact := self._exact.get(path)) is not None:
            return exact
        raw = raw_path.decode("ascii", "replace").split("?", 1)[0]
        for pattern, dialect, route in self._patterns:
            if found := pattern.fullmatch(raw):
                return Match(dialect, route, unquote(found["model"]))
        return None
