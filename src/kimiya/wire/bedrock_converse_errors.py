"""Errors of Bedrock Converse: an exception name and a message, in headers and in streams.

Over HTTP the name stands in ``x-amzn-ErrorType``; in a stream it is the ``:exception-type`` of a
frame. Texts that users meet again and again get their remedy here; they were gathered from service
answers in the field (2026-11).
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

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
from kimiya.wire.dialect import WireError
from kimiya.wire.retry_after import read_retry_after, retry_after_header

_BY_NAME: Mapping[str, type[ProviderError]] = {
    "AccessDeniedException": Unauthorized,
    "ConflictException": InvalidRequest,
    "ExpiredTokenException": Unauthorized,
    "IncompleteSignatureException": Unauthorized,
    "InternalServerException": Overloaded,
    "InvalidSignatureException": Unauthorized,
    "MissingAuthenticationTokenException": Unauthorized,
    "ModelErrorException": Overloaded,
    "ModelNotReadyException": Overloaded,
    "ModelStreamErrorException": Overloaded,
    "ModelTimeoutException": ProviderTimeout,
    "ResourceNotFoundException": InvalidRequest,
    "ServiceQuotaExceededException": RateLimited,
    "ServiceUnavailableException": Overloaded,
    "ThrottlingException": RateLimited,
    "TooManyRequestsException": RateLimited,
    "UnrecognizedClientException": Unauthorized,
    "ValidationException": InvalidRequest,
}


class _Known(Struct, frozen=True):
    """A text of the service, what it means, and what helps."""

    words: str
    """In lower case, with a straight apostrophe."""
    meaning: type[ProviderError]
    remedy: str


_NO_CACHE_POINT = (
    'This model takes no cache points: set `cache.kind` of its card to "none" (or "implicit") in '
    "kimiya.toml, so that none are sent"
)
_PROFILE = (
    "Use an inference profile: put a geography before the model id (`global.`, `us.`, `eu.`, "
    "`apac.`, `in.` ...), or give the profile's ARN as the model id"
)

_TEXTS = (
    _Known("with on-demand throughput isn't supported", InvalidRequest, _PROFILE),
    _Known("doesn't support on-demand throughput", InvalidRequest, _PROFILE),
    _Known(
        "cache point cannot be inserted after reasoning",
        InvalidRequest,
        "Put the cache mark before the reasoning, or on the last user message",
    ),
    _Known("did not allow prompt caching", InvalidRequest, _NO_CACHE_POINT),
    _Known("support the cachepoint field", InvalidRequest, _NO_CACHE_POINT),
    _Known("extraneous key [cachepoint]", InvalidRequest, _NO_CACHE_POINT),
    _Known(
        "model identifier is invalid",
        InvalidRequest,
        "Check the model id against the region's list (`aws bedrock list-foundation-models`, "
        "`aws bedrock list-inference-profiles`); a profile exists only in its own geography",
    ),
    _Known(
        "the content field in the message object",
        InvalidRequest,
        "Converse takes no empty message: give it text, or leave it out",
    ),
    _Known(
        "data retention mode",
        InvalidRequest,
        "This is a setting of the AWS account: allow the model's data retention mode in the "
        "Bedrock console, or choose another model",
    ),
    _Known(
        "you don't have access to the model",
        Unauthorized,
        "Ask for access to it in the Bedrock console of this region",
    ),
    _Known(
        "is not authorized to perform",
        Unauthorized,
        "Allow `bedrock:InvokeModel` and "
        "`bedrock:InvokeModelWithResponseStream` on the model, and on its profile",
    ),
    _Known("token included in the request is expired", Unauthorized, "Renew the AWS session"),
    _Known("token included in the request is invalid", Unauthorized, "Check the AWS keys"),
    _Known("input is too long", ContextOverflow, "Shorten the conversation"),
    _Known("prompt is too long", ContextOverflow, "Shorten the conversation"),
    _Known("maximum context length", ContextOverflow, "Shorten the conversation"),
)


_RETRIED = "Kimiya asks again by itself; if it stays, route to another model or region for now"
_KEYS = "Check the AWS keys, and that the machine's clock is right"
_REMEDIES: Mapping[str, str] = {
    "AccessDeniedException": "Allow `bedrock:InvokeModel` on the model and its profile in IAM, and"
    " see in the Bedrock console of this region that the account has access to the model",
    "ConflictException": "Something else is changing the same thing: try again in a moment",
    "ExpiredTokenException": "Renew the AWS session",
    "IncompleteSignatureException": _KEYS,
    "InternalServerException": _RETRIED,
    "InvalidSignatureException": _KEYS,
    "MissingAuthenticationTokenException": "Set AWS_BEARER_TOKEN_BEDROCK, or AWS keys; something"
    " between Kimiya and AWS may also have taken the headers off",
    "ModelErrorException": _RETRIED,
    "ModelNotReadyException": "The model is being loaded: try again in a minute",
    "ModelStreamErrorException": _RETRIED,
    "ModelTimeoutException": "Ask for less output at once, or for a stream",
    "ResourceNotFoundException": "Check the id or ARN and the region;"
    " `kimiya bedrock profiles list` shows the profiles there are",
    "ServiceQuotaExceededException": "Ask for a higher quota in the Service Quotas console, or"
    " spread the calls over a profile of several regions",
    "ServiceUnavailableException": _RETRIED,
    "ThrottlingException": "Kimiya asks again by itself; if it stays, use a profile of several"
    " regions (`us.`, `eu.`, `global.` ...) or ask for a higher quota in the Service Quotas"
    " console; what is read from a cache does not count towards it",
    "UnrecognizedClientException": "Check the AWS keys: AWS knows none of this id",
    "ValidationException": "The field it names does not fit this model; `kimiya models` shows what"
    " the model takes",
}
"""What helps where the message itself is not one we know."""


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What a host's error answer means. Never raises."""
    name = headers.get("x-amzn-errortype", "").partition(":")[0]
    fields = _object(body)
    if not name and isinstance(fields.get("__type"), str):
        name = str(fields["__type"]).rpartition("#")[2]
    message = next(
        (text for key in ("message", "Message") if isinstance(text := fields.get(key), str)), None
    )
    if message is None:
        message = redact(body[:500].decode(errors="replace"))
    error = describe(name, message, status)
    error.request_id = headers.get("x-amzn-requestid")
    error.retry_after_s = read_retry_after(headers)
    return error


def read_exception(name: str, payload: bytes) -> ProviderError:
    """What an exception frame of a stream means."""
    message = _object(payload).get("message")
    return describe(
        name[:1].upper() + name[1:],
        message if isinstance(message, str) else redact(payload[:500].decode(errors="replace")),
    )


def asks_for_profile(error: ProviderError) -> bool:
    """Whether a model was refused under its bare id, and wants an inference profile."""
    return "on-demand throughput" in error.message and error.code == "ValidationException"


def names_no_model(error: ProviderError) -> bool:
    """Whether the region knows no model or profile of that id."""
    return "model identifier is invalid" in error.message


def describe(name: str, message: str, status: int | None = None) -> ProviderError:
    """The error for an exception's name, message and status, with a remedy where we know one."""
    plain = message.replace("\u2019", "'").lower()
    known = next((known for known in _TEXTS if known.words in plain), None)
    kind = _BY_NAME.get(name)
    text = message or "the host gave no message"
    if name:
        text = f"{name}: {text}"
    remedy = known.remedy if known is not None else _REMEDIES.get(name)
    if remedy is not None:
        text = f"{text.rstrip('.')}. {remedy}"
    if known is not None:
        kind = known.meaning
    if kind is None:
        kind = _by_status(status)
    return kind(text, status=status, code=name or None)


def _by_status(status: int | None) -> type[ProviderError]:
    match status:
        case 401 | 403:
            return Unauthorized
        case 408 | 504:
            return ProviderTimeout
        case 429:
            return RateLimited
        case int() if 400 <= status < 500:
            return InvalidRequest
        case _:
            return Overloaded


def _object(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


# --------------------------------------------------------------------------------------- writing

_WRITTEN: Mapping[int, tuple[int, str]] = {
    400: (400, "ValidationException"),
    401: (403, "AccessDeniedException"),
    403: (403, "AccessDeniedException"),
    404: (404, "ResourceNotFoundException"),
    408: (408, "ModelTimeoutException"),
    413: (400, "ValidationException"),
    429: (429, "ThrottlingException"),
    503: (503, "ServiceUnavailableException"),
    504: (408, "ModelTimeoutException"),
}
"""Our status hint as the service's status and exception name."""

_IN_STREAM = {
    "ValidationException": "validationException",
    "AccessDeniedException": "validationException",
    "ResourceNotFoundException": "validationException",
    "ThrottlingException": "throttlingException",
    "ServiceUnavailableException": "serviceUnavailableException",
    "InternalServerException": "internalServerException",
}
"""The five names a stream knows; the rest is ``modelStreamErrorException``."""


def write_error(error: KimiyaError) -> WireError:
    """The error as clients expect it."""
    status, name = _written(error)
    retry_after = error.retry_after_s if isinstance(error, ProviderError) else None
    return WireError(
        status,
        write_message(error),
        {
            "content-type": "application/json",
            "x-amzn-ErrorType": name,
            **retry_after_header(retry_after),
        },
    )


def exception_name(error: KimiyaError) -> str:
    """The ``:exception-type`` of an error in mid-stream."""
    return _IN_STREAM.get(_written(error)[1], "modelStreamErrorException")


def write_message(error: KimiyaError) -> bytes:
    """The body of an error, in headers or in a stream."""
    return msgspec.json.encode({"message": error.message.encode(errors="replace").decode()})


def _written(error: KimiyaError) -> tuple[int, str]:
    hint = error.status_hint
    if hint == 502:
        # Clients try a 503 again and a 424 not.
        return _WRITTEN[503] if error.retryable else (424, "ModelErrorException")
    fallback = (500, "InternalServerException") if hint >= 500 else _WRITTEN[400]
    return _WRITTEN.get(hint, fallback)
