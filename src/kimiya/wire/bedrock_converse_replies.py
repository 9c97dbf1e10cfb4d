"""Whole replies of Bedrock Converse: the message, its usage, why it stopped.

A Converse reply names neither itself nor its model, so ``response_id`` and ``model`` come back
empty. Usage is additive on the wire: ``inputTokens`` counts neither cache reads nor cache writes.
Ours includes both. Some models behind Converse count inclusively when streaming; ``totalTokens``
gives them away.
"""

from collections.abc import Mapping

import msgspec

from kimiya.core.exchange import FinishReason, Response, Usage
from kimiya.core.messages import JsonValue
from kimiya.wire.bedrock_converse_blocks import RawBlock, read_content, write_reply_content
from kimiya.wire.dialect import TwoWay
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    count,
    kind_of,
    leftovers,
    optional,
    optional_list,
    optional_object,
    parse_object,
    required_list,
    required_object,
    write_json,
)

FINISH_REASONS: TwoWay[FinishReason, str] = TwoWay(
    {
        "stop": "end_turn",
        "stop_sequence": "stop_sequence",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "content_filtered",
        "refusal": "content_filtered",
        "pause": "end_turn",
        "context_window": "model_context_window_exceeded",
    },
    also={"guardrail_intervened": "content_filter"},
)

_REPLY = frozenset({"output", "stopReason", "usage"})
REPLY_EXTRAS = ("metrics", "trace", "performanceConfig", "serviceTier")
"""Fields of a reply written back to clients; others may come from another dialect."""
ADDITIONAL = "additionalModelResponseFields"


class _RawMessage(msgspec.Struct, frozen=True):
    content: list[RawBlock] = []


class _RawOutput(msgspec.Struct, frozen=True):
    message: _RawMessage = _RawMessage()


class _RawReply(msgspec.Struct):
    output: _RawOutput = _RawOutput()


_raw_reply = msgspec.json.Decoder(_RawReply)


# --------------------------------------------------------------------------------------- reading


def read_response(body: bytes) -> Response:
    """A host's whole reply.

    Raises:
        Misfit: It cannot be read.
    """
    fields = parse_object(body)
    raws = None
    if b'"toolUse"' in body:
        try:
            raws = _raw_reply.decode(body).output.message.content
        except msgspec.ValidationError:
            raws = None  # the reading proper names what is wrong
    message = required_object(required_object(fields, "output"), "message")
    try:
        parts = read_content(required_list(message, "content"), raws)
    except Misfit as misfit:
        misfit.under("output", "message", "content")
        raise
    word = optional(fields, "stopReason", str)
    extras, stop_sequence = read_extras(leftovers(fields, _REPLY))
    return Response(
        response_id="",
        model="",
        parts=tuple(parts),
        finish_reason=finish_reason(word),
        raw_finish_reason=word,
        stop_sequence=stop_sequence,
        usage=read_usage(optional_object(fields, "usage") or {}),
        extras=extras,
    )


def finish_reason(word: str | None) -> FinishReason:
    """Why it stopped, by the wire's word."""
    return (FINISH_REASONS.read(word) if word else None) or "unknown"


def read_extras(fields: Mapping[str, JsonValue]) -> tuple[JsonObject, str | None]:
    """What a reply says beside our values, and the stop sequence where the caller asked for it."""
    extras = {k: v for k, v in fields.items() if v is not None}
    if extras.get("metrics") == _NO_METRICS:
        del extras["metrics"]
    stop_sequence = None
    match extras.get(ADDITIONAL):
        case {"stop_sequence": str() as word, **rest}:
            stop_sequence = word
            extras[ADDITIONAL] = rest
            if not rest:
                del extras[ADDITIONAL]
        case _:
            pass
    return extras, stop_sequence


def read_usage(fields: JsonObject) -> Usage | None:
    """Usage as we count it; all zeros is what a host sends that counted nothing.

    Raises:
        Misfit: A count is not one.
    """
    try:
        fresh, output = count(fields, "inputTokens"), count(fields, "outputTokens")
        reads, writes = (
            count(fields, "cacheReadInputTokens"),
            count(fields, "cacheWriteInputTokens"),
        )
        is_inclusive = count(fields, "totalTokens") == fresh + output and fresh >= reads + writes
        one_hour = _written_for_an_hour(optional_list(fields, "cacheDetails"))
    except Misfit as misfit:
        misfit.under("usage")
        raise
    if not fresh + output + reads + writes:
        return None
    return Usage(
        input_tokens=fresh if is_inclusive else fresh + reads + writes,
        output_tokens=output,
        cache_read_tokens=reads,
        cache_write_tokens=max(writes, one_hour),
        cache_write_1h_tokens=one_hour,
    )


def _written_for_an_hour(details: list[JsonValue]) -> int:
    total = 0
    for index, detail in enumerate(details):
        match detail:
            case {"ttl": "1h", "inputTokens": int() as tokens} if tokens >= 0:
                total += tokens
            case {"ttl": str()}:
                pass
            case _:
                raise Misfit(f"is no cache detail ({kind_of(detail)})", "cacheDetails", index)
    return total


# --------------------------------------------------------------------------------------- writing

_NO_METRICS: JsonObject = {"latencyMs": 0}
"""Clients require the field; zero where nothing was measured."""


def write_response(response: Response) -> bytes:
    """A whole reply for a client.

    Raises:
        Misfit: A part cannot stand in a reply.
    """
    content = write_reply_content(response.parts)
    return write_json(
        {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": stop_reason(response.finish_reason, response.raw_finish_reason),
            "usage": write_usage(response.usage),
            "metrics": _NO_METRICS,
            **shown_extras(response.extras),
            **additional_fields(response.extras, response.stop_sequence),
        }
    )


def stop_reason(reason: FinishReason, raw: str | None) -> str:
    """The wire's word; one we do not know ourselves is passed on as the host said it."""
    return (raw or "end_turn") if reason == "unknown" else FINISH_REASONS.write(reason)


def write_usage(usage: Usage | None) -> JsonObject:
    """Usage as the wire counts it; zeros where the host reported none, for clients require it."""
    counted = usage or Usage()
    fields: JsonObject = {
        "inputTokens": counted.fresh_input_tokens,
        "outputTokens": counted.output_tokens,
        "totalTokens": counted.input_tokens + counted.output_tokens,
    }
    if counted.cache_read_tokens or counted.cache_write_tokens:
        fields["cacheReadInputTokens"] = counted.cache_read_tokens
        fields["cacheWriteInputTokens"] = counted.cache_write_tokens
    lifetimes = {
        "1h": counted.cache_write_1h_tokens,
        "5m": counted.cache_write_tokens - counted.cache_write_1h_tokens,
    }
    if counted.cache_write_tokens:
        details = [{"ttl": ttl, "inputTokens": tokens} for ttl, tokens in lifetimes.items()]
        fields["cacheDetails"] = [detail for detail in details if detail["inputTokens"]]
    return fields


def shown_extras(extras: Mapping[str, JsonValue]) -> JsonObject:
    """The extras of a reply that a client of this dialect knows."""
    return {name: extras[name] for name in REPLY_EXTRAS if name in extras}


def additional_fields(extras: Mapping[str, JsonValue], stop_sequence: str | None) -> JsonObject:
    """What the model said beside Converse's own fields, the stop sequence among it."""
    kept = extras.get(ADDITIONAL)
    if stop_sequence is None:
        return {} if kept is None else {ADDITIONAL: kept}
    return {
        ADDITIONAL: {**(kept if isinstance(kept, dict) else {}), "stop_sequence": stop_sequence}
    }
