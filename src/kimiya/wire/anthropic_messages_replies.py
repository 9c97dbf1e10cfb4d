"""Whole replies of Anthropic Messages: the message object, its usage, why it stopped.

Usage is additive on the wire: ``input_tokens`` counts neither cache reads nor cache writes. Ours
includes both, so the two are converted here and nowhere else.
"""

from collections.abc import Mapping

import msgspec

from kimiya.core.exchange import FinishReason, Request, Response, Usage
from kimiya.core.messages import Extras, JsonValue
from kimiya.wire.anthropic_messages_blocks import RawBlock, read_content, write_reply_block
from kimiya.wire.anthropic_messages_errors import read_error
from kimiya.wire.dialect import TwoWay
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    count,
    leftovers,
    optional,
    optional_object,
    parse_object,
    write_json,
)

FINISH_REASONS: TwoWay[FinishReason, str] = TwoWay(
    {
        "stop": "end_turn",
        "stop_sequence": "stop_sequence",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "refusal": "refusal",
        "content_filter": "refusal",
        "pause": "pause_turn",
        "context_window": "model_context_window_exceeded",
    },
    # Words of hosts that put this format over an OpenAI-speaking engine.
    also={
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "content_filter": "content_filter",
    },
)

_MESSAGE = frozenset(
    {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
)
_USAGE = frozenset(
    {
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "cache_creation",
        "output_tokens_details",
    }
)
REPLY_EXTRAS = ("container", "context_management", "diagnostics", "stop_details")
"""Fields of a reply written back to clients; others may come from another dialect."""


class _RawReply(msgspec.Struct):
    content: list[RawBlock] = []


_raw_reply = msgspec.json.Decoder(_RawReply)


# --------------------------------------------------------------------------------------- reading


def read_response(body: bytes) -> Response:
    """A host's whole reply.

    Raises:
        Misfit: It cannot be read.
        ProviderError: It is an error in the guise of a reply.
    """
    fields = parse_object(body)
    if fields.get("type") == "error" or ("error" in fields and "content" not in fields):
        raise read_error(200, {}, body)
    raws = None
    if b'"tool_use"' in body:
        try:
            raws = _raw_reply.decode(body).content
        except msgspec.ValidationError:
            raws = None  # the reading proper names what is wrong
    try:
        parts = read_content(fields.get("content"), raws)
    except Misfit as misfit:
        misfit.under("content")
        raise
    word = optional(fields, "stop_reason", str)
    usage, usage_extras = read_usage(optional_object(fields, "usage") or {})
    return Response(
        response_id=optional(fields, "id", str) or "",
        model=optional(fields, "model", str) or "",
        parts=tuple(parts),
        finish_reason=finish_reason(word),
        raw_finish_reason=word,
        stop_sequence=optional(fields, "stop_sequence", str),
        usage=usage,
        extras=reply_extras(fields, usage_extras),
    )


def finish_reason(word: str | None) -> FinishReason:
    """Why it stopped, by the wire's word."""
    return (FINISH_REASONS.read(word) if word else None) or "unknown"


def reply_extras(fields: JsonObject, usage_extras: Extras) -> JsonObject:
    """What a message object says that we have no value for, nulls left out."""
    extras = {k: v for k, v in leftovers(fields, _MESSAGE).items() if v is not None}
    if usage_extras:
        extras["usage"] = dict(usage_extras)
    return extras


def read_usage(fields: JsonObject) -> tuple[Usage | None, Extras]:
    """Usage as we count it, and what else it says.

    All zeros is what hosts send that counted nothing, so it is no usage at all.

    Raises:
        Misfit: A count is not one.
    """
    try:
        reads = count(fields, "cache_read_input_tokens")
        by_ttl = optional_object(fields, "cache_creation") or {}
        one_hour = count(by_ttl, "ephemeral_1h_input_tokens")
        writes = count(fields, "cache_creation_input_tokens")
        writes = max(writes, one_hour + count(by_ttl, "ephemeral_5m_input_tokens"))
        details = optional_object(fields, "output_tokens_details") or {}
        usage = Usage(
            input_tokens=count(fields, "input_tokens") + reads + writes,
            output_tokens=count(fields, "output_tokens"),
            cache_read_tokens=reads,
            cache_write_tokens=writes,
            cache_write_1h_tokens=one_hour,
            reasoning_tokens=count(details, "thinking_tokens"),
        )
    except Misfit as misfit:
        misfit.under("usage")
        raise
    extras = {k: v for k, v in leftovers(fields, _USAGE).items() if v is not None}
    return (usage if usage.input_tokens or usage.output_tokens else None), extras


# --------------------------------------------------------------------------------------- writing


def write_response(response: Response, request: Request) -> bytes:
    """A whole reply for a client.

    Raises:
        Misfit: A part cannot stand in a reply.
    """
    message = message_object(response.response_id, response.model or request.model)
    message["content"] = [write_reply_block(part) for part in response.parts]
    message["stop_reason"] = stop_reason(response.finish_reason, response.raw_finish_reason)
    message["stop_sequence"] = response.stop_sequence
    message["usage"] = write_usage(response.usage)
    message.update(shown_extras(response.extras))
    return write_json(message)


def message_object(response_id: str, model: str) -> JsonObject:
    """A message before anything was said."""
    return {
        "id": response_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def stop_reason(reason: FinishReason, raw: str | None) -> str:
    """The wire's word; one we do not know ourselves is passed on as the host said it."""
    return (raw or "end_turn") if reason == "unknown" else FINISH_REASONS.write(reason)


def write_usage(usage: Usage | None) -> JsonObject:
    """Usage as the wire counts it; zeros where the host reported none, for clients require it."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    fields: JsonObject = {
        "input_tokens": usage.fresh_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.cache_write_tokens:
        fields["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    if usage.reasoning_tokens:
        fields["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return fields


def shown_extras(extras: Mapping[str, JsonValue]) -> JsonObject:
    """The extras of a reply that a client of this dialect knows."""
    return {name: extras[name] for name in REPLY_EXTRAS if name in extras} if extras else {}
