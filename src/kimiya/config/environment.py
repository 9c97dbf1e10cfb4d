"""Environment variables laid over the file: ``KIMIYA_GATEWAY__PORT=9000`` is ``[gateway] port``.

Two underscores step into a table; case does not matter, and a name's ``-`` or ``.`` is written
``_``. A variable's text takes the type of its field: numbers and ``true``/``false`` as they are,
lists by commas or as JSON, tables as JSON. ``KIMIYA_MODELS`` is a JSON list of rows.
"""

from collections.abc import Mapping
from typing import Any, cast, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from kimiya.config.settings import (
    BudgetConfig,
    CachingConfig,
    DefaultsConfig,
    GatewayConfig,
    LedgerConfig,
    LimitConfig,
    ProviderConfig,
    RouteConfig,
    TamingConfig,
    TimeoutsConfig,
)
from kimiya.config.toml_lines import KeyPath
from kimiya.core.nearest import nearest
from kimiya.errors import ConfigError

PREFIX = "KIMIYA_"
_PLAIN: Mapping[str, type[Struct]] = {
    "gateway": GatewayConfig,
    "taming": TamingConfig,
    "caching": CachingConfig,
    "ledger": LedgerConfig,
    "defaults": DefaultsConfig,
}
_NAMED: Mapping[str, type[Struct]] = {
    "providers": ProviderConfig,
    "routes": RouteConfig,
    "budgets": BudgetConfig,
    "limits": LimitConfig,
}
_NESTED: Mapping[str, type[Struct]] = {"timeouts": TimeoutsConfig}
_SECTIONS = (*_PLAIN, *_NAMED, "models")


def overlay(
    raw: Mapping[str, Any], env: Mapping[str, str]
) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The file's tables with the environment's values on top.

    Returns:
        The tables, and for each value from the environment its variable.

    Raises:
        ConfigError: A variable names no key, or its text does not fit the key.
    """
    out = cast("dict[str, Any]", _copied(raw))
    variables: dict[KeyPath, str] = {}
    for name in sorted(env):
        if not name.upper().startswith(PREFIX):
            continue
        words = [word.casefold() for word in name[len(PREFIX) :].split("__")]
        if len(words) == 1:
            _one_word(name, words[0], env[name], out, variables)
        else:
            path, kind = _path_of(name, words, out)
            value = _typed(name, env[name], kind, str(path[-1]))
            _put(name, out, path, value)
            variables[path] = name
    return out, variables


def _one_word(
    name: str, word: str, text: str, out: dict[str, Any], variables: dict[KeyPath, str]
) -> None:
    """``KIMIYA_MODELS``; or a section written with one underscore, which would do nothing."""
    if word == "models":
        rows = _json(name, text)
        if not isinstance(rows, list):
            raise _wrong(name, "expected a JSON list of rows", '[{"host": "vllm", ...}]')
        known = out.get("models")
        first = len(cast("list[Any]", known)) if isinstance(known, list) else 0
        out["models"] = [*cast("list[Any]", known or []), *cast("list[Any]", rows)]
        variables.update({("models", first + n): name for n in range(len(cast("Any", rows)))})
        return
    for section in (*_PLAIN, *_NAMED):
        if word.startswith(f"{section}_"):
            rest = word[len(section) + 1 :].upper()
            raise _wrong(
                name,
                "one underscore does not step into a table",
                f"Write {PREFIX}{section.upper()}__{rest}",
            )


def _path_of(name: str, words: list[str], out: Mapping[str, Any]) -> tuple[KeyPath, type[Struct]]:
    """The key a variable means, and the struct its last word is a field of."""
    head, *rest = words
    path: list[str] = [head]
    if head in _PLAIN:
        kind = _PLAIN[head]
    elif head in _NAMED and len(rest) > 1:
        kind = _NAMED[head]
        path.append(_existing(rest.pop(0), out.get(head)))
    else:
        near = nearest(head, _SECTIONS, limit=1)
        hint = f"Did you mean {PREFIX}{near[0].upper()}__...?" if near else ""
        raise _wrong(name, "no such key", hint or f"Sections: {', '.join(_SECTIONS)}")
    if len(rest) > 1 and rest[0] in _NESTED and rest[0] in kind.__struct_fields__:
        kind = _NESTED[rest[0]]
        path.append(rest.pop(0))
    field = "__".join(rest)
    if field not in kind.__struct_fields__:
        near = nearest(field, kind.__struct_fields__, limit=1)
        stem = PREFIX + "__".join(words[: len(words) - len(rest)]).upper()
        raise _wrong(
            name,
            "no such key",
            f"Did you mean {stem}__{near[0].upper()}?"
            if near
            else f"Known: {', '.join(kind.__struct_fields__)}",
        )
    return (*path, field), kind


def _existing(word: str, tables: object) -> str:
    """The name in the file this word stands for; the word itself where there is none."""
    if isinstance(tables, Mapping):
        for name in cast("Mapping[str, Any]", tables):
            if name.casefold().replace("-", "_").replace(".", "_") == word:
                return name
    return word


def _typed(name: str, text: str, kind: type[Struct], field: str) -> object:
    hint = get_type_hints(kind)[field]
    origin = get_origin(hint) or hint
    if text.lstrip()[:1] in ("[", "{"):
        return _json(name, text)
    if origin is tuple:
        return [piece.strip() for piece in text.split(",") if piece.strip()]
    try:
        return msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as wrong:
        message = str(wrong)
        raise _wrong(name, message[:1].lower() + message[1:]) from wrong


def _json(name: str, text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as wrong:
        raise _wrong(name, f"not JSON: {wrong}") from wrong


def _put(name: str, out: dict[str, Any], path: KeyPath, value: object) -> None:
    table = out
    for piece in path[:-1]:
        inner = table.setdefault(str(piece), {})
        if not isinstance(inner, dict):
            raise _wrong(name, f"the file says {piece} is no table", "Correct the file first")
        table = cast("dict[str, Any]", inner)
    table[str(path[-1])] = value


def _copied(value: object) -> object:
    """Tables copied all the way down, so that laying over never writes into the caller's."""
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in cast("Mapping[str, Any]", value).items()}
    return value


def _wrong(name: str, message: str, remedy: str | None = None) -> ConfigError:
    return ConfigError(message, file="environment", key=name, remedy=remedy)
