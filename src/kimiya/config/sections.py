"""One table of the file to its struct, with the key of whatever does not fit.

Tables are converted one by one, each under its own name, so that the message can say which provider
or route is meant; within one table msgspec says which field.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast, get_type_hints

import msgspec
from msgspec import Struct

from kimiya.config.origin import Origin
from kimiya.config.toml_lines import KeyPath
from kimiya.core.nearest import nearest
from kimiya.errors import ConfigError

S = TypeVar("S", bound=Struct)

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")

_SECRETS = {
    "api_key": 'Write api_key_env = "NAME" and export NAME=... : files are copied and committed,'
    " so a key never stands in one",
}
_SECRETS["key"] = _SECRETS["token"] = _SECRETS["secret"] = _SECRETS["api_key"]
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "cookie", "x-goog-api-key"})


def table_at(raw: Mapping[str, Any], path: KeyPath, origin: Origin) -> Mapping[str, Any]:
    """The table at the end of ``path``, which must be one; empty where it is not there.

    Raises:
        ConfigError: Something else stands there.
    """
    value = raw.get(cast("str", path[-1]), {})
    if not isinstance(value, Mapping):
        raise origin.error(
            path, f"expected a table, got {_named(value)}", f"Write [{path[-1]}] and keys under it"
        )
    return cast("Mapping[str, Any]", value)


def section(raw: Mapping[str, Any], kind: type[S], path: KeyPath, origin: Origin) -> S:
    """The struct a table describes.

    Raises:
        ConfigError: An unknown key (with the nearest known one), a wrong type, a secret.
    """
    _refuse_secrets(raw, kind, path, origin)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as wrong:
        raise _explained(str(wrong), kind, path, origin) from wrong


def _explained(text: str, kind: type[Struct], path: KeyPath, origin: Origin) -> ConfigError:
    at = _AT.search(text)
    inner = _steps(at["path"]) if at else ()
    where = (*path, *inner)
    message = _AT.sub("", text)
    if found := _UNKNOWN.search(text):
        field = found["field"]
        known = _struct_at(kind, inner).__struct_fields__
        near = nearest(field, known, limit=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(known)}"
        return origin.error((*where, field), f"there is no key {field!r} here", remedy)
    if found := _MISSING.search(text):
        return origin.error(where, f"{found['field']} is missing", f"Add {found['field']} = ...")
    return origin.error(where, message[:1].lower() + message[1:])


def _steps(path: str) -> KeyPath:
    steps: list[str | int] = []
    for piece in re.findall(r"[^.\[\]]+|\[\d+\]", path):
        steps.append(int(piece[1:-1]) if piece.startswith("[") else piece)
    return tuple(steps)


def _struct_at(kind: type[Struct], steps: KeyPath) -> type[Struct]:
    for step in steps:
        hint = get_type_hints(kind).get(str(step))
        if isinstance(hint, type) and issubclass(hint, Struct):
            kind = hint
    return kind


def _refuse_secrets(
    raw: Mapping[str, Any], kind: type[Struct], path: KeyPath, origin: Origin
) -> None:
    for name in raw:
        if name in _SECRETS and name not in kind.__struct_fields__:
            raise origin.error((*path, name), "a key does not stand in a file", _SECRETS[name])
    headers = raw.get("headers")
    if not isinstance(headers, Mapping):
        return
    for name in cast("Mapping[str, Any]", headers):
        if str(name).casefold() in _SECRET_HEADERS:
            raise origin.error(
                (*path, "headers", name),
                "a credential does not stand in a file",
                'Write api_key_env = "NAME" and export NAME=... ; the header is made from it',
            )


def _named(value: object) -> str:
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else f"{value}"[:40]
