"""Where a value was written: a line of the file, or an environment variable."""

from collections.abc import Mapping

from msgspec import Struct

from kimiya.config.toml_lines import KeyPath, TomlLines
from kimiya.errors import ConfigError


class Origin(Struct, frozen=True):
    """Knows the place of every key, and makes errors that name it."""

    file: str | None = None
    lines: TomlLines | None = None
    variables: Mapping[KeyPath, str] = {}
    """Keys that came from the environment, and the variable of each."""

    def error(self, path: KeyPath, message: str, remedy: str | None = None) -> ConfigError:
        """A ``ConfigError`` about the value at ``path``."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.variables:
                return ConfigError(
                    message, file="environment", key=self.variables[path[:end]], remedy=remedy
                )
        line = self.lines.find(path) if self.lines else None
        return ConfigError(
            message, file=self.file, line=line, key=written(path) or None, remedy=remedy
        )


def written(path: KeyPath) -> str:
    """A key as a reader of the file would write it.

    >>> written(("models", 2, "host"))
    'models[2].host'
    """
    out = ""
    for piece in path:
        if isinstance(piece, int):
            out += f"[{piece}]"
        else:
            out += f".{piece}" if out else piece
    return out
