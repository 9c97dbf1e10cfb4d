"""A whole reply of the Responses API, both ways, and what it shares with a streamed one.

A reply's ``status`` says whether it is whole, and only its items say whether a tool is called.
Reasoning goes to clients as readable ``reasoning_text``; a summary and a text of one item are two
parts here. Items we have no value for survive under ``Response.extras["openai_responses"]``.
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
from kimiya.errors import RemoteProtocolError
from kimiya.wire.dialect import TwoWay
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    optional,
    optional_list,
    optional_object,
    required_list,
)
from kimiya.wire.openai_chat_errors import error_in_reply
from kimiya.wire.openai_chat_messages import read_arguments
from kimiya.wire.openai_chat_reply import read_created, read_usage, write_usage
from kimiya.wire.openai_chat_tools import write_choice
from kimiya.wire.openai_responses_items import (
    RESPONSES,
    custom_arguments,
    custom_input,
    read_reasoning,
)
from kimiya.wire.openai_responses_tools import custom_names, write_tools

INCOMPLETE: TwoWay[FinishReason, str] = TwoWay(
    {
        "length": "max_output_tokens",
        "content_filter": "content_filter",
        "context_window": "max_output_tokens",
        "refusal": "content_filter",
    },
    also={"max_tokens": "length"},
)
"""Why a reply is ``incomplete``; every other finish reason is ``completed``."""

_KEPT = frozenset({"output", "service_tier"})


def read_reply(fields: JsonObject) -> Response:
    """A host's whole reply. ``Misfit`` carries the path of what cannot be read.

    Raises:
        ProviderError: The reply failed.
        RemoteProtocolError: The reply has not ended.
    """
    parts: list[Part] = []
    foreign: list[JsonValue] = []
    refused = False
    for index, value in enumerate(required_list(fields, "output")):
        try:
            item = as_object(value)
            read = read_item(item)
            refused = refused or _refuses(item)
        except Misfit as misfit:
            misfit.under("output", index)
            raise
        if read is None:
            foreign.append(value)
        else:
            parts += read
    has_calls = any(isinstance(part, ToolCall) for part in parts)
    reason, raw = read_status(fields, has_calls=has_calls, refused=refused)
    return Response(
        response_id=optional(fields, "id", str) or "",
        model=optional(fields, "model", str) or "",
        parts=tuple(parts),
        finish_reason=reason,
        raw_finish_reason=raw,
        usage=read_reply_usage(fields.get("usage")),
        created=read_created(fields.get("created_at")),
        extras=kept_extras(foreign),
    )


def read_item(item: JsonObject) -> list[Part] | None:
    """The parts of one output item; ``None`` for a kind we have no value for."""
    match item.get("type"):
        case "message":
            return [Text(text) for text in content_texts(item).values() if text]
        case "reasoning":
            return [
                Reasoning(part.text, part.signature, part.redacted)
                for part in read_reasoning(item)
                if part.text or part.redacted
            ]
        case "function_call":
            return [read_call(item)]
        case "custom_tool_call":
            arguments = custom_arguments(optional(item, "input", str) or "")
            return [ToolCall(*call_name(item), arguments)]
        case _:
            return None


def content_texts(item: JsonObject) -> dict[int, str]:
    """What a message says, by position; a refusal is said too."""
    texts: dict[int, str] = {}
    for index, value in enumerate(optional_list(item, "content")):
        try:
            part = as_object(value)
            texts[index] = optional(part, "text", str) or optional(part, "refusal", str) or ""
        except Misfit as misfit:
            misfit.under("content", index)
            raise
    return texts


def _refuses(item: JsonObject) -> bool:
    return item.get("type") == "message" and any(
        isinstance(part, dict) and cast("JsonObject", part).get("type") == "refusal"
        for part in optional_list(item, "content")
    )


def read_call(item: JsonObject) -> ToolCall:
    """A call as the model made it; a missing name or id is for taming to judge."""
    return ToolCall(*call_name(item), read_arguments(item))


def call_name(item: JsonObject) -> tuple[str, str]:
    """Id and name of a call."""
    return optional(item, "call_id", str) or "", optional(item, "name", str) or ""


def read_status(
    fields: JsonObject, *, has_calls: bool, refused: bool
) -> tuple[FinishReason, str | None]:
    """Why the model stopped, and the host's word for it.

    Raises:
        ProviderError: It failed.
        RemoteProtocolError: It has not ended.
    """
    status = optional(fields, "status", str) or "completed"
    if status == "failed":
        raise error_in_reply({"error": fields.get("error") or "the reply failed"})
    if status in ("in_progress", "queued"):
        raise RemoteProtocolError(f"the reply is {status}, but a finished one was asked for")
    if status == "incomplete":
        details = optional_object(fields, "incomplete_details") or {}
        raw = optional(details, "reason", str) or status
        return INCOMPLETE.read(raw) or "unknown", raw
    if status != "completed":
        return "unknown", status
    if refused:
        return "refusal", status
    return ("tool_calls" if has_calls else "stop"), status


def read_reply_usage(value: JsonValue) -> Usage | None:
    """Tokens as the host counts them; ``None`` where it reports none."""
    if not isinstance(value, dict):
        return None
    fields = cast("JsonObject", value)
    renamed = {_CHAT_NAMES.get(key, key): count for key, count in fields.items()}
    return read_usage(renamed)


_CHAT_NAMES = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
}
_OUR_NAMES = {theirs: ours for ours, theirs in _CHAT_NAMES.items()}


def write_reply_usage(usage: Usage | None) -> JsonValue:
    """Tokens as clients of this API count them."""
    if usage is None:
        return None
    return {_OUR_NAMES.get(key, key): value for key, value in write_usage(usage).items()}


def kept_extras(foreign: list[JsonValue]) -> Extras:
    """Items we have no value for."""
    return {RESPONSES: {"output": foreign}} if foreign else NO_EXTRAS


def foreign_items(extras: Extras) -> list[JsonValue]:
    """What ``kept_extras`` kept."""
    kept = extras.get(RESPONSES)
    return optional_list(cast("JsonObject", kept), "output") if isinstance(kept, dict) else []


def write_reply(response: Response, request: Request) -> JsonObject:
    """A whole reply for a client.

    Raises:
        Misfit: It holds what a reply of this API cannot.
    """
    custom = custom_names(request)
    output: list[JsonValue] = []
    for index, part in enumerate(response.parts):
        item_id = f"{response.response_id}_{index}"
        match part:
            case Text():
                output.append(message_item(item_id, part.text))
            case Reasoning():
                output.append(reasoning_item(item_id, part))
            case ToolCall():
                output.append(call_item(item_id, part, is_custom=part.name in custom))
            case _:
                raise Misfit(f"a reply cannot hold {type(part).__name__}", "parts", index)
    return {
        **envelope(request, response.response_id, response.model, response.created),
        **ending(response.finish_reason, response.raw_finish_reason),
        "output": output + foreign_items(response.extras),
        "usage": write_reply_usage(response.usage),
    }


def envelope(request: Request, response_id: str, model: str, created: int | None) -> JsonObject:
    """What a reply says of its call; clients check that it is there."""
    choice = request.tool_choice
    keeps_extras = request.dialect in ("", RESPONSES)
    return {
        "id": response_id,
        "object": "response",
        "created_at": created or 0,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": dict(request.metadata),
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "temperature": request.sampling.temperature,
        "tool_choice": "auto" if choice is None else write_choice(choice, nested=False),
        "tools": write_tools(request.tools, keeps_extras=keeps_extras, dialect=request.dialect),
        "top_p": request.sampling.top_p,
        "max_output_tokens": request.sampling.max_output_tokens,
        "previous_response_id": None,
        "store": False,
        "usage": None,
    }


def ending(reason: FinishReason, raw: str | None) -> JsonObject:
    """``status``, and why it is not ``completed``."""
    if reason in INCOMPLETE.ours:
        return {"status": "incomplete", "incomplete_details": {"reason": INCOMPLETE.write(reason)}}
    if reason == "unknown" and raw:
        return {"status": "incomplete", "incomplete_details": {"reason": raw}}
    return {"status": "completed"}


def text_part(text: str) -> JsonObject:
    """A message's content."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(item_id: str, text: str | None) -> JsonObject:
    """What the model says; ``None`` while nothing is said yet."""
    return {
        "type": "message",
        "id": f"msg_{item_id}",
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "content": [] if text is None else [text_part(text)],
    }


def reasoning_item(item_id: str, part: Reasoning) -> JsonObject:
    """What the model thinks."""
    item: JsonObject = {"type": "reasoning", "id": f"rs_{item_id}", "summary": []}
    if part.text:
        item["content"] = [{"type": "reasoning_text", "text": part.text}]
    encrypted = part.redacted if part.signature is None else part.signature
    if encrypted is not None:
        item["encrypted_content"] = encrypted
    return item


def call_item(
    item_id: str, call: ToolCall, *, is_custom: bool, is_open: bool = False
) -> JsonObject:
    """A call the model makes."""
    item: JsonObject = {
        "type": "custom_tool_call" if is_custom else "function_call",
        "id": f"{'ctc' if is_custom else 'fc'}_{item_id}",
        "call_id": call.call_id,
        "name": call.name,
        "status": "in_progress" if is_open else "completed",
    }
    if is_custom:
        item["input"] = custom_input(call.arguments) if call.arguments else ""
    else:
        item["arguments"] = call.arguments
    return item
