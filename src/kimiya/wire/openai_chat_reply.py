"""A whole reply of Chat Completions, both ways, and what it shares with a streamed one.

Tokens: ``prompt_tokens`` includes what was read from and written to a cache. Cached tokens stand in
``prompt_tokens_details`` or at the top of ``usage`` (Moonshot); all of it may stand in the choice.
What is not understood survives under ``Response.extras["openai_chat"]``, in ``choice`` and
``message`` where it stood there, because a reply has no other mark of the dialect it came in.
"""

from typing import cast

from kimiya.core.exchange import FinishReason, Request, Response, Usage
from kimiya.core.messages import (
    NO_EXTRAS,
    Extras,
    JsonValue,
    Part,
    Reasoning,
    Text,
    ToolCall,
)
from kimiya.wire.dialect import TwoWay
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    kind_of,
    optional,
    optional_list,
    optional_object,
    required_list,
    required_object,
)
from kimiya.wire.openai_chat_messages import read_arguments, write_call
from kimiya.wire.openai_chat_parts import CHAT, known_values
from kimiya.wire.openai_chat_reasoning import FIELDS, read_piece, write_reply_reasoning

FINISHES: TwoWay[FinishReason, str] = TwoWay(
    {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "content_filter": "content_filter",
        "stop_sequence": "stop",
        "refusal": "content_filter",
        "pause": "stop",
        "context_window": "length",
        "unknown": "stop",
    },
    also={
        "function_call": "tool_calls",
        "tool_use": "tool_calls",
        "end_turn": "stop",
        "eos": "stop",
        "max_tokens": "length",
        "model_length": "length",
        "sensitive": "content_filter",
    },
)

REPLY = frozenset({"id", "object", "created", "model", "choices", "usage"})
CHOICE = frozenset(
    {"index", "message", "delta", "finish_reason", "usage", "stop_reason", "matched_stop"}
)
MESSAGE = FIELDS | {"role", "content", "refusal", "tool_calls", "function_call"}


def read_reply(fields: JsonObject) -> Response:
    """A host's whole reply. ``Misfit`` carries the path of what cannot be read."""
    choices = required_list(fields, "choices")
    if len(choices) != 1:
        raise Misfit(f"holds {len(choices)} choices where one was asked for", "choices")
    try:
        return _read_reply(fields, as_object(choices[0]))
    except Misfit as misfit:
        if misfit.segments[:1] in (["message"], ["finish_reason"]):
            misfit.under("choices", 0)
        raise


def _read_reply(fields: JsonObject, choice: JsonObject) -> Response:
    message = required_object(choice, "message")
    try:
        parts = _read_parts(message)
    except Misfit as misfit:
        misfit.under("message")
        raise
    reason, raw, stop = read_finish(choice, refused=bool(message.get("refusal")))
    usage = fields.get("usage") or choice.get("usage")
    extras = kept_extras(
        known_values(fields, REPLY), known_values(choice, CHOICE), known_values(message, MESSAGE)
    )
    return Response(
        response_id=optional(fields, "id", str) or "",
        model=optional(fields, "model", str) or "",
        parts=tuple(parts),
        finish_reason=reason,
        raw_finish_reason=raw,
        stop_sequence=stop,
        usage=read_usage(usage),
        created=read_created(fields.get("created")),
        extras=extras,
    )


def _read_parts(message: JsonObject) -> list[Part]:
    parts: list[Part] = []
    if (thought := read_piece(message)) is not None:
        parts.append(thought)
    text = content_text(message) + (optional(message, "refusal", str) or "")
    if text:
        parts.append(Text(text))
    for index, value in enumerate(optional_list(message, "tool_calls")):
        try:
            parts.append(_read_call(as_object(value)))
        except Misfit as misfit:
            misfit.under("tool_calls", index)
            raise
    legacy = optional_object(message, "function_call")
    if legacy is not None:
        parts.append(_read_call({"function": legacy}))
    return parts


def _read_call(fields: JsonObject) -> ToolCall:
    """A call as the model made it; a missing name or id is for taming to judge."""
    function = required_object(fields, "function")
    try:
        name, arguments = optional(function, "name", str) or "", read_arguments(function)
    except Misfit as misfit:
        misfit.under("function")
        raise
    return ToolCall(optional(fields, "id", str) or "", name, arguments)


def content_text(message: JsonObject) -> str:
    """``content`` of a reply or a delta: a string, or (Mistral) a list of text parts."""
    value = message.get("content")
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise Misfit(f"must be a string, not {kind_of(value)}", "content")
    texts: list[str] = []
    for index, entry in enumerate(cast("list[JsonValue]", value)):
        text: JsonValue = as_object(entry).get("text")
        if not isinstance(text, str):
            raise Misfit("is no text, and a reply can hold nothing else", "content", index)
        texts.append(text)
    return "".join(texts)


def read_finish(
    choice: JsonObject, *, refused: bool = False
) -> tuple[FinishReason, str | None, str | None]:
    """Why the model stopped, the host's word for it, and the stop sequence where the host says."""
    raw = optional(choice, "finish_reason", str) or None
    reason = (FINISHES.read(raw) if raw else None) or "unknown"
    stop = choice.get("stop_reason") or choice.get("matched_stop")  # vLLM, SGLang
    if reason == "stop" and isinstance(stop, str):
        return "stop_sequence", raw, stop
    return ("refusal" if refused else reason), raw, None


def read_created(value: JsonValue) -> int | None:
    """Unix seconds; 0 is what those write who do not know."""
    return int(value) if isinstance(value, int | float) and value else None


def kept_extras(reply: Extras, choice: Extras, message: Extras) -> Extras:
    """What was not understood, by where it stood."""
    kept = dict(reply)
    if choice:
        kept["choice"] = choice
    if message:
        kept["message"] = message
    return {CHAT: kept} if kept else NO_EXTRAS


def own_extras(extras: Extras) -> JsonObject:
    """What ``kept_extras`` kept."""
    kept = extras.get(CHAT)
    return cast("JsonObject", kept) if isinstance(kept, dict) else {}


def read_usage(value: JsonValue) -> Usage | None:
    """Tokens as the host counts them; ``None`` where it reports none."""
    if not isinstance(value, dict):
        return None
    fields = cast("JsonObject", value)
    if "prompt_tokens" not in fields and "completion_tokens" not in fields:
        return None
    prompt = _inner(fields, "prompt_tokens_details")
    completion = _inner(fields, "completion_tokens_details")
    reads = _count(prompt, "cached_tokens") or _count(fields, "cached_tokens")
    reads = reads or _count(fields, "prompt_cache_hit_tokens")  # DeepSeek
    writes = _count(fields, "cache_write_tokens") or _count(prompt, "cache_write_tokens")
    read = _count(fields, "prompt_tokens")
    if reads + writes > read:
        # More cached than read: this host counts input without its cache, as Anthropic does.
        read += reads + writes
    return Usage(
        input_tokens=read,
        output_tokens=_count(fields, "completion_tokens"),
        cache_read_tokens=reads,
        cache_write_tokens=writes,
        cache_write_1h_tokens=_count(prompt, "cache_write_1h_tokens"),
        reasoning_tokens=_count(completion, "reasoning_tokens"),
    )


def _inner(fields: JsonObject, key: str) -> JsonObject:
    value = fields.get(key)
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def _count(fields: JsonObject, key: str) -> int:
    value = fields.get(key)
    return int(value) if isinstance(value, int | float) and 0 <= value < 1 << 53 else 0


def write_usage(usage: Usage) -> JsonObject:
    """Tokens as clients of this dialect count them."""
    prompt: JsonObject = {
        "cached_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
    }
    if usage.cache_write_1h_tokens:
        prompt["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def finish_word(reason: FinishReason, raw: str | None) -> str:
    """The wire's word; one that is new to us is passed on as the host said it."""
    return raw if reason == "unknown" and raw else FINISHES.write(reason)


def call_kinds(request: Request) -> dict[str, str]:
    """The ``type`` of calls that are no functions, by the tool's name."""
    return {tool.name: tool.kind for tool in request.tools if tool.kind != "function"}


def write_reply(response: Response, request: Request) -> JsonObject:
    """A whole reply for a client.

    Raises:
        Misfit: It holds what a reply of this dialect cannot.
    """
    kept = own_extras(response.extras)
    message = _write_message(response, call_kinds(request))
    choice: JsonObject = {
        "index": 0,
        "message": {**message, **kept.get("message", {})},
        "finish_reason": finish_word(response.finish_reason, response.raw_finish_reason),
        **kept.get("choice", {}),
    }
    if response.stop_sequence is not None:
        choice["stop_reason"] = response.stop_sequence
    reply: JsonObject = {
        "id": response.response_id,
        "object": "chat.completion",
        "created": response.created or 0,
        "model": response.model,
        "choices": [choice],
    }
    if response.usage is not None:
        reply["usage"] = write_usage(response.usage)
    return {**{k: v for k, v in kept.items() if k not in ("choice", "message")}, **reply}


def _write_message(response: Response, kinds: dict[str, str]) -> JsonObject:
    texts: list[str] = []
    thoughts: list[Reasoning] = []
    calls: list[JsonValue] = []
    for index, part in enumerate(response.parts):
        match part:
            case Text():
                texts.append(part.text)
            case Reasoning():
                thoughts.append(part)
            case ToolCall():
                call = write_call(part, keeps_extras=False)
                calls.append({**call, "type": kinds.get(part.name, "function")})
            case _:
                raise Misfit(f"a reply cannot hold {type(part).__name__}", "parts", index)
    content = "".join(texts)
    message: JsonObject = {"role": "assistant", "content": content if texts or not calls else None}
    write_reply_reasoning(message, thoughts)
    if calls:
        message["tool_calls"] = calls
    return message
