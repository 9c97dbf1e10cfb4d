"""Errors of Anthropic Messages: ``{"type": "error", "error": {"type": ..., "message": ...}}``."""

from collections.abc import Mapping
from typing import cast

import msgspec

from kimiya.core.messages import JsonValue
from kimiya.errors import (
    ContextOverflow,
    InvalidRequest,
    KimiyaError,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Unauthorized,
    redact,
)
from kimiya.wire.dialect import TwoWay, WireError
from kimiya.wire.retry_after import read_retry_after, retry_after_header

TYPES: TwoWay[int, str] = TwoWay(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        500: "api_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)
"""Status and error type, both ways."""

_WRITTEN_STATUS = {503: 529}
"""Where our status hint is not the one clients of this dialect expect."""

_CLASSES: dict[int, type[ProviderError]] = {
    401: Unauthorized,
    402: Unauthorized,
    403: Unauthorized,
    408: ProviderTimeout,
    429: RateLimited,
    504: ProviderTimeout,
}

_OVERFLOW = "prompt is too long"
"""Clients compact their history when a message holds these words."""

_OVERFLOW_WORDS = (
    _OVERFLOW,
    "context window",
    "context length",
    "maximum context",
    "exceeded model token limit",
)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What a host's error answer means. Never raises."""
    kind, message = _members(body)
    known = TYPES.read(kind) if kind else None
    # Inside a stream the status is 200 and only the type tells.
    effective = known if known is not None and status < 400 else status
    return _class_of(effective, message)(
        message or f"the host answered with status {status} and no message",
        status=status if status >= 400 else None,
        code=kind,
        request_id=headers.get("request-id") or headers.get("x-request-id"),
        retry_after_s=read_retry_after(headers),
    )


def _class_of(status: int, message: str) -> type[ProviderError]:
    lower = message.lower()
    if status in (400, 413) and any(words in lower for words in _OVERFLOW_WORDS):
        return ContextOverflow
    if status in _CLASSES:
        return _CLASSES[status]
    return InvalidRequest if 400 <= status < 500 else Overloaded


def _members(body: bytes) -> tuple[str | None, str]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, redact(body[:500].decode(errors="replace").strip())
    error = _field(value, "error")
    message = _field(error, "message") or (error if isinstance(error, str) else None)
    message = message or _field(value, "message")
    kind = _field(error, "type")
    return (
        kind if isinstance(kind, str) else None,
        message if isinstance(message, str) else redact(body[:500].decode(errors="replace")),
    )


def _field(value: JsonValue, key: str) -> JsonValue:
    return cast("dict[str, JsonValue]", value).get(key) if isinstance(value, dict) else None


def write_error(error: KimiyaError) -> WireError:
    """The error as clients expect it."""
    status = _WRITTEN_STATUS.get(error.status_hint, error.status_hint)
    retry_after = error.retry_after_s if isinstance(error, ProviderError) else None
    return WireError(
        status,
        msgspec.json.encode({"type": "error", "error": error_object(error, status)}),
        {"content-type": "application/json", **retry_after_header(retry_after)},
    )


def error_object(error: KimiyaError, status: int | None = None) -> dict[str, str]:
    """The inner object: type and message."""
    if status is None:
        status = _WRITTEN_STATUS.get(error.status_hint, error.status_hint)
    fallback = "api_error" if status >= 500 else "invalid_request_error"
    kind = TYPES.write(status) if status in TYPES.ours else fallback
    message = error.message
    if isinstance(error, ContextOverflow) and _OVERFLOW not in message.lower():
        message = f"{_OVERFLOW}: {message}"
    return {"type": kind, "message": message.encode(errors="replace").decode()}
