"""Errors as OpenAI's dialects say them; Chat Completions and Responses share the form.

``{"error": {"message", "type", "param", "code"}}`` is the form; hosts also answer with a bare
string, FastAPI's ``detail``, vLLM's ``{"object": "error"}``, or no JSON at all. What an error
*means* is decided by its code or type first, then by its status, and only for the context window by
its text, because most hosts have no code for that.
"""

from collections.abc import Mapping
from typing import cast

import msgspec
from msgspec import Struct

from kimiya.core.messages import JsonValue
from kimiya.errors import (
    BudgetExceeded,
    ContextOverflow,
    InvalidRequest,
    KimiyaError,
    LocalProtocolError,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Unauthorized,
    UnknownModel,
    redact,
)
from kimiya.wire.dialect import WireError
from kimiya.wire.retry_after import read_retry_after, retry_after_header

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_WINDOW_TEXTS = (
    "maximum context length",  # OpenAI, vLLM, SGLang
    "context_length_exceeded",
    "exceeded model token limit",  # Moonshot
    "context window",  # llama.cpp ("exceeds the available context size" below), OpenAI Responses
    "available context size",
    "longer than the model's context length",  # SGLang
    "input is too long",  # Bedrock's OpenAI endpoint
    "prompt is too long",
)

_BY_CODE: Mapping[str, type[ProviderError]] = {
    "context_length_exceeded": ContextOverflow,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_error": RateLimited,
    "rate_limit_reached_error": RateLimited,  # Moonshot
    "tokens": RateLimited,
    "requests": RateLimited,
    "insufficient_quota": RateLimited,
    "exceeded_current_quota_error": RateLimited,  # Moonshot
    "engine_overloaded_error": Overloaded,  # Moonshot, with status 429
    "overloaded_error": Overloaded,
    "server_is_overloaded": Overloaded,
    "slow_down": Overloaded,
    "server_error": Overloaded,
    "internal_server_error": Overloaded,
    "invalid_api_key": Unauthorized,
    "authentication_error": Unauthorized,
    "invalid_authentication_error": Unauthorized,  # Moonshot
    "permission_error": Unauthorized,
    "permission_denied_error": Unauthorized,  # Moonshot
    "model_not_found": InvalidRequest,
    "resource_not_found_error": InvalidRequest,  # Moonshot
    "invalid_request_error": InvalidRequest,
    "badrequesterror": InvalidRequest,  # vLLM
    "content_filter": InvalidRequest,  # Moonshot
    "timeout": ProviderTimeout,
}
"""What a host's ``code`` or ``type`` means, in lower case."""

_BY_STATUS: Mapping[int, type[ProviderError]] = {
    401: Unauthorized,
    402: Unauthorized,
    403: Unauthorized,
    408: ProviderTimeout,
    409: Overloaded,
    425: Overloaded,
    429: RateLimited,
    504: ProviderTimeout,
}

_REQUEST_IDS = ("x-request-id", "request-id", "msh-request-id", "x-amzn-requestid")


class _Said(Struct, frozen=True):
    """What could be read of an error."""

    message: str
    codes: tuple[str, ...] = ()
    """``code`` and ``type``, those that are there."""
    status: int | None = None
    """A status the body itself gives."""


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What a host's error answer means; never raises."""
    try:
        value = _decode(body)
    except (ValueError, RecursionError):
        value = body[:500].decode("utf-8", "replace").strip()
    request_id = next((headers[name] for name in _REQUEST_IDS if name in headers), None)
    return _classified(
        _said(value), status, request_id=request_id, retry_after_s=read_retry_after(headers)
    )


def error_in_reply(value: JsonValue) -> ProviderError:
    """An error that came with a status of success, or inside a stream."""
    said = _said(value)
    return _classified(said, said.status)


def _classified(
    said: _Said,
    status: int | None,
    *,
    request_id: str | None = None,
    retry_after_s: float | None = None,
) -> ProviderError:
    where = f" (status {status})" if status is not None else ""
    kind = _kind(said, status)
    return kind(
        f"the host answered{where}: {said.message or 'no message'}",
        status=status,
        code=said.codes[0] if said.codes else None,
        request_id=request_id,
        retry_after_s=retry_after_s,
    )


def _kind(said: _Said, status: int | None) -> type[ProviderError]:
    text = said.message.lower()
    if status not in (401, 403, 429) and any(words in text for words in _WINDOW_TEXTS):
        return ContextOverflow
    for code in said.codes:
        # A plain "invalid request" says less than the status does.
        known = _BY_CODE.get(code.lower())
        if known is not None and (known is not InvalidRequest or status is None):
            return known
    if status is None:
        return Overloaded
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return InvalidRequest if 400 <= status < 500 else Overloaded


def _said(value: JsonValue) -> _Said:
    if isinstance(value, list) and value:
        value = cast("list[JsonValue]", value)[0]
    if not isinstance(value, dict):
        return _Said(_text(value))
    fields = cast("dict[str, JsonValue]", value)
    inner = fields.get("error")
    if isinstance(inner, dict):
        fields = cast("dict[str, JsonValue]", inner)
    elif inner:
        return _Said(_text(inner), _codes(fields), _status(fields))
    message = fields.get("message") or fields.get("detail") or fields.get("msg")
    return _Said(_text(message), _codes(fields), _status(fields))


def _codes(fields: dict[str, JsonValue]) -> tuple[str, ...]:
    found = (fields.get("code"), fields.get("type"))
    return tuple(code for code in found if isinstance(code, str) and code)


def _status(fields: dict[str, JsonValue]) -> int | None:
    found = (fields.get("code"), fields.get("status"), fields.get("status_code"))
    return next((code for code in found if type(code) is int and 400 <= code < 600), None)


def _text(value: JsonValue) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else _encode(value).decode()
    return text[:2000]


class _Shown(Struct, frozen=True):
    """``type`` and ``code`` a client is shown."""

    type: str
    code: str | None = None


_SHOWN: tuple[tuple[type[KimiyaError], _Shown], ...] = (
    (ContextOverflow, _Shown("invalid_request_error", "context_length_exceeded")),
    (InvalidRequest, _Shown("invalid_request_error")),
    (LocalProtocolError, _Shown("invalid_request_error")),
    (UnknownModel, _Shown("invalid_request_error", "model_not_found")),
    (Unauthorized, _Shown("authentication_error", "invalid_api_key")),
    (RateLimited, _Shown("rate_limit_error", "rate_limit_exceeded")),
    (BudgetExceeded, _Shown("insufficient_quota", "insufficient_quota")),
    (Overloaded, _Shown("server_error", "server_is_overloaded")),
    (ProviderTimeout, _Shown("server_error", "timeout")),
)
"""The first that fits; the rest are ``server_error``."""


def error_object(error: KimiyaError) -> dict[str, JsonValue]:
    """The inner object: ``message``, ``type``, ``param``, ``code``."""
    shown = next((shown for kind, shown in _SHOWN if isinstance(error, kind)), None)
    shown = shown or _Shown("server_error")
    code = shown.code
    if code is None and isinstance(error, ProviderError):
        code = error.code
    param = error.path if isinstance(error, LocalProtocolError) else None
    if isinstance(error, UnknownModel):
        param = "model"
    return {
        "message": error.message,
        "type": shown.type,
        "param": param,
        "code": redact(code) if code else None,
    }


def write_error(error: KimiyaError) -> WireError:
    """A whole error answer."""
    retry_after_s = error.retry_after_s if isinstance(error, ProviderError) else None
    return WireError(
        status=error.status_hint,
        body=_encode({"error": error_object(error)}),
        headers={"content-type": "application/json", **retry_after_header(retry_after_s)},
    )
