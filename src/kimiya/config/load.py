"""From the file and the environment to a ``Config``, or to one error that names the line.

The file is looked for in this order: the path given (``--config``), ``$KIMIYA_CONFIG``,
``./kimiya.toml``, ``~/.config/kimiya/kimiya.toml``. None at all is fine.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from kimiya.catalog.catalog import Catalog
from kimiya.config.checks import check
from kimiya.config.environment import overlay
from kimiya.config.origin import Origin
from kimiya.config.sections import S, section, table_at
from kimiya.config.settings import (
    BudgetConfig,
    CachingConfig,
    Config,
    DefaultsConfig,
    GatewayConfig,
    LedgerConfig,
    LimitConfig,
    ProviderConfig,
    RouteConfig,
    TamingConfig,
)
from kimiya.config.toml_lines import TomlLines
from kimiya.core.nearest import nearest
from kimiya.errors import ConfigError

_MAX_BYTES = 4 * 1024 * 1024
_MAX_DEPTH = 16
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_SECTIONS = (
    "gateway",
    "providers",
    "routes",
    "models",
    "taming",
    "caching",
    "ledger",
    "budgets",
    "limits",
    "defaults",
)


def find_file(path: str | Path | None = None, env: Mapping[str, str] | None = None) -> Path | None:
    """The configuration file in force, or ``None``.

    Raises:
        ConfigError: A file was asked for by name and is not there.
    """
    env = os.environ if env is None else env
    asked = ("--config", path) if path is not None else ("KIMIYA_CONFIG", env.get("KIMIYA_CONFIG"))
    if asked[1]:
        found = Path(asked[1]).expanduser()
        if not found.is_file():
            raise ConfigError(
                "there is no such file",
                file=str(found),
                remedy=f"Correct {asked[0]}, or copy kimiya.example.toml there",
            )
        return found
    places = (Path("kimiya.toml"), _home(env) / ".config" / "kimiya" / "kimiya.toml")
    return next((place for place in places if place.is_file()), None)


def load_config(path: str | Path | None = None, env: Mapping[str, str] | None = None) -> Config:
    """Read the configuration.

    Args:
        path: The file; ``None`` searches for one.
        env: The environment; ``None`` is the process's own.

    Raises:
        ConfigError: The file, line and key of the first mistake, and what to do about it.
    """
    env = os.environ if env is None else env
    file = find_file(path, env)
    text = _read(file) if file else ""
    name = str(file) if file else None
    raw, variables = overlay(_decoded(text, name), env)
    origin = Origin(name, TomlLines(text) if file else None, variables)
    _known_sections(raw, origin)
    config = Config(
        gateway=_one(raw, "gateway", GatewayConfig, origin),
        providers=_each(raw, "providers", ProviderConfig, origin),
        routes=_each(raw, "routes", RouteConfig, origin),
        models=_rows(raw, origin),
        taming=_one(raw, "taming", TamingConfig, origin),
        caching=_one(raw, "caching", CachingConfig, origin),
        ledger=_one(raw, "ledger", LedgerConfig, origin),
        budgets=_each(raw, "budgets", BudgetConfig, origin),
        limits=_each(raw, "limits", LimitConfig, origin),
        defaults=_one(raw, "defaults", DefaultsConfig, origin),
        file=name,
    )
    check(config, origin)
    _check_rows(config, origin)
    return config


def _home(env: Mapping[str, str]) -> Path:
    return Path(env["HOME"]) if env.get("HOME") else Path.home()


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"it cannot be read ({error.strerror})", file=str(file), remedy="Check its permissions"
        ) from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"it is larger than {_MAX_BYTES} bytes", file=str(file))
    try:
        return data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "it is not UTF-8",
            file=str(file),
            line=data.count(b"\n", 0, error.start) + 1,
            remedy="Save it as UTF-8",
        ) from error


def _decoded(text: str, file: str | None) -> dict[str, Any]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        message = _AT_LINE.sub("", str(error)).strip()
        line = int(found[1]) if found else text.count("\n") + 1
        raise ConfigError(
            f"not TOML: {message[:1].lower()}{message[1:]}", file=file, line=line
        ) from error
    except (RecursionError, ValueError) as error:
        # Thousands of nested brackets, or a number of thousands of digits.
        raise ConfigError(f"not TOML that can be read: {error}", file=file) from error
    if _is_deep(tables):
        raise ConfigError(f"tables are nested more than {_MAX_DEPTH} deep", file=file)
    return tables


def _is_deep(tables: dict[str, Any]) -> bool:
    """Whether something is nested so deep that no configuration means it."""
    level: list[object] = [tables]
    for _ in range(_MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return False
    return True


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _known_sections(raw: Mapping[str, Any], origin: Origin) -> None:
    for name in raw:
        if name not in _SECTIONS:
            near = nearest(name, _SECTIONS, limit=1)
            raise origin.error(
                (name,),
                "there is no such table",
                f"Did you mean [{near[0]}]?" if near else f"Tables: {', '.join(_SECTIONS)}",
            )


def _one(raw: Mapping[str, Any], name: str, kind: type[S], origin: Origin) -> S:
    return section(table_at(raw, (name,), origin), kind, (name,), origin)


def _each(
    raw: Mapping[str, Any], name: str, kind: Callable[..., Any], origin: Origin
) -> dict[str, Any]:
    tables = table_at(raw, (name,), origin)
    return {
        key: section(table_at(tables, (name, key), origin), cast("Any", kind), (name, key), origin)
        for key in tables
    }


def _rows(raw: Mapping[str, Any], origin: Origin) -> tuple[Mapping[str, Any], ...]:
    rows = raw.get("models", [])
    if not isinstance(rows, list):
        raise origin.error(("models",), "expected a list of tables", "Write each as [[models]]")
    for number, row in enumerate(cast("list[object]", rows)):
        if not isinstance(row, Mapping):
            raise origin.error(("models", number), "expected a table", "Write it as [[models]]")
    return tuple(cast("list[Mapping[str, Any]]", rows))


def _check_rows(config: Config, origin: Origin) -> None:
    """Read the rows as the catalogue will, so that a mistake has its line."""
    if not config.models:
        return
    try:
        Catalog.load(config.overrides)
    except ConfigError as error:
        found = re.match(r"models\[(\d+)\]\.?(.*)", error.key or "")
        if found is None:
            raise
        inner = tuple(found[2].split(".")) if found[2] else ()
        message = error.message.removeprefix(f"{error.key}: ")
        if error.remedy:
            message = message.removesuffix(f". {error.remedy}")
        raise origin.error(("models", int(found[1]), *inner), message, error.remedy) from error
