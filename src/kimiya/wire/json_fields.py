"""Reading decoded JSON field by field, with the path of whatever does not fit.

Bodies are decoded whole, not into structs, because unknown fields must survive. A ``Misfit``
gathers its path as it climbs, so that reading well-formed input never builds a path; the dialect
turns it into the error of whoever sent the bytes.
"""

from typing import TypeVar, cast

import msgspec

from kimiya.core.messages import NO_EXTRAS, Extras, JsonValue
from kimiya.errors import LocalProtocolError, RemoteProtocolError

JsonObject = dict[str, JsonValue]
T = TypeVar("T")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_KINDS: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding hostile bytes may raise."""


class Misfit(Exception):
    """A value is not what the dialect asks for; ``path`` grows on the way up."""

    def __init__(self, message: str, *segments: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.segments: list[str | int] = list(segments)

    def under(self, *segments: str | int) -> None:
        """Put the name of what holds the misfit before its path."""
        self.segments[:0] = segments

    @property
    def path(self) -> str | None:
        """Such as ``messages[3].content[0].type``; ``None`` for the body itself."""
        text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.segments)
        return text.removeprefix(".") or None

    def as_local(self) -> LocalProtocolError:
        """The error of a caller, or of our own side."""
        return LocalProtocolError(self.message, path=self.path)

    def as_remote(self, frame: bytes) -> RemoteProtocolError:
        """The error of a host that sent ``frame``."""
        where = f"{self.path}: " if self.path else ""
        return RemoteProtocolError(f"{where}{self.message}", frame=frame)


def parse_object(body: bytes) -> JsonObject:
    """Decode a body that must be one JSON object.

    Raises:
        Misfit: It is not.
    """
    try:
        value = _decode(body)
    except _UNREADABLE as error:
        raise Misfit(f"the body is not JSON: {error}") from error
    return as_object(value)


def write_json(value: JsonValue) -> bytes:
    """Encode a body.

    Raises:
        Misfit: A text holds half of a surrogate pair, or a value is not JSON.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError as error:
        raise Misfit("a text holds half of a surrogate pair, which UTF-8 cannot carry") from error
    except (TypeError, RecursionError) as error:
        raise Misfit(f"the request holds what JSON cannot carry: {error}") from error


def as_object(value: JsonValue) -> JsonObject:
    """The value, if it is an object.

    Raises:
        Misfit: It is something else.
    """
    if type(value) is dict:
        return cast("JsonObject", value)
    raise Misfit(f"must be an object, not {kind_of(value)}")


def kind_of(value: JsonValue) -> str:
    """What a JSON value is, in words."""
    return next((words for kind, words in _KINDS.items() if type(value) is kind), "something else")


def optional(fields: JsonObject, key: str, kind: type[T]) -> T | None:
    """The field if it is there and not null.

    Raises:
        Misfit: It is of another kind.
    """
    value = fields.get(key)
    if value is None or type(value) is kind:
        return value
    if kind is float and type(value) is int and abs(value) < 1 << 1000:
        return cast("T", float(value))
    raise Misfit(f"must be {_KINDS[kind]}, not {kind_of(value)}", key)


def required(fields: JsonObject, key: str, kind: type[T]) -> T:
    """The field, which must be there.

    Raises:
        Misfit: It is missing or of another kind.
    """
    value = fields.get(key)
    if type(value) is kind:
        return value
    value = optional(fields, key, kind)
    if value is None:
        raise Misfit(f"is required and must be {_KINDS[kind]}", key)
    return value


def optional_object(fields: JsonObject, key: str) -> JsonObject | None:
    """The field if it is there and not null, as an object."""
    return cast("JsonObject | None", optional(fields, key, dict))


def required_object(fields: JsonObject, key: str) -> JsonObject:
    """The field, which must be an object."""
    return cast("JsonObject", required(fields, key, dict))


def optional_list(fields: JsonObject, key: str) -> list[JsonValue]:
    """The field as a list; empty where it is missing."""
    return cast("list[JsonValue]", optional(fields, key, list) or [])


def required_list(fields: JsonObject, key: str) -> list[JsonValue]:
    """The field, which must be a list."""
    return cast("list[JsonValue]", required(fields, key, list))


def strings(fields: JsonObject, key: str) -> tuple[str, ...]:
    """The field as a list of strings; empty where it is missing."""
    values = optional_list(fields, key)
    for index, value in enumerate(values):
        if type(value) is not str:
            raise Misfit(f"must be a string, not {kind_of(value)}", key, index)
    return tuple(values)


def count(fields: JsonObject, key: str) -> int:
    """A count that may be missing or null, which means zero."""
    value = optional(fields, key, int)
    if value is None:
        return 0
    if value < 0:
        raise Misfit("is a count and cannot be negative", key)
    return value


def leftovers(fields: JsonObject, known: frozenset[str]) -> Extras:
    """What the dialect does not know, kept under its wire name."""
    if fields.keys() <= known:
        return NO_EXTRAS
    return {key: value for key, value in fields.items() if key not in known}


def keep_rest(extras: JsonObject, name: str, config: JsonObject, known: set[str]) -> None:
    """Keep what is not known of a known object, under the object's name."""
    rest = {key: value for key, value in config.items() if key not in known}
    if rest:
        extras[name] = rest
