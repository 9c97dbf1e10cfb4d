"""A call's arguments where the wire carries them as a JSON value (``input``), not as text.

Our ``ToolCall.arguments`` is the model's raw JSON text, so values are cut out of a body verbatim
and embedded verbatim: spacing, key order and number spelling survive. In a request only an object
can be sent. In a reply nothing may be invented: text that is not a JSON object travels as a JSON
*string* of itself, which a client's schema check refuses in plain sight, and reads back unchanged.
"""

import msgspec

from kimiya.wire.json_fields import Misfit

_object = msgspec.json.Decoder(dict)
_string = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode
_INVALID = (msgspec.DecodeError, UnicodeError, RecursionError)


def object_text(arguments: str) -> msgspec.Raw | None:
    """The arguments as a value to embed; ``None`` where they are not a JSON object.

    Empty text, which some hosts send for no arguments, is the empty object.
    """
    text = arguments.strip(" \t\r\n") or "{}"
    try:
        raw = text.encode()
        _object.decode(raw)
    except _INVALID:
        return None
    return msgspec.Raw(raw)


def request_input(arguments: str) -> msgspec.Raw:
    """The arguments of a call in a history.

    Raises:
        Misfit: They are not a JSON object.
    """
    raw = object_text(arguments)
    if raw is None:
        raise Misfit(
            f"the arguments of this call are not a JSON object ({arguments[:80]!r}); "
            "this dialect can carry nothing else",
            "arguments",
        )
    return raw


def reply_input(arguments: str) -> msgspec.Raw:
    """The arguments of a call in a reply; what is not an object becomes a string of itself."""
    raw = object_text(arguments)
    return msgspec.Raw(_encode(arguments)) if raw is None else raw


def read_input(value: msgspec.Raw | bytes) -> str:
    """The text of an ``input`` value as it stood in the body.

    Raises:
        Misfit: There is none.
    """
    raw = bytes(value)
    if not raw:
        raise Misfit("is required and must be an object", "input")
    try:
        return _string.decode(raw) if raw[:1] == b'"' else raw.decode()
    except _INVALID as error:
        raise Misfit(f"cannot be read: {error}", "input") from error
