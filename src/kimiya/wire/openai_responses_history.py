"""A history written as input items of the Responses API; ``openai_responses_items`` reads them."""

from collections.abc import Sequence
from typing import cast

from kimiya.core.messages import (
    NO_EXTRAS,
    Extras,
    HostFile,
    Image,
    JsonValue,
    Message,
    Opaque,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from kimiya.wire.json_fields import JsonObject, Misfit, as_object
from kimiya.wire.openai_chat_parts import fill, write_cache, write_source
from kimiya.wire.openai_responses_items import RESPONSES, custom_input


def write_items(messages: Sequence[Message], start: int, *, keeps_extras: bool) -> list[JsonValue]:
    """A history for a host, from message ``start`` on."""
    items: list[JsonValue] = []
    for index, message in enumerate(messages[start:], start):
        try:
            if message.name is not None:
                raise Misfit("a message has no speaker's name in this dialect", "name")
            items += _write_message(message, keeps_extras)
        except Misfit as misfit:
            misfit.under("messages", index)
            raise
    return items


def _write_message(message: Message, keeps_extras: bool) -> list[JsonValue]:
    if message.role == "tool":
        return [_write_output(part, keeps_extras) for part in message.parts]
    if message.role == "assistant":
        return _write_turn(message, keeps_extras)
    content = _write_content(message.parts, "input_text", "content", keeps_extras)
    item: JsonObject = {"type": "message", "role": message.role, "content": content}
    if keeps_extras:
        fill(item, message.extras)
    return [item]


def _write_turn(message: Message, keeps_extras: bool) -> list[JsonValue]:
    items: list[JsonValue] = []
    spoken: JsonObject | None = None
    for part in message.parts:
        match part:
            case Text():
                own = part.extras.get("item") if keeps_extras else None
                if spoken is None or own is not None:
                    spoken = {"type": "message", "role": "assistant", "content": []}
                    fill(spoken, cast("Extras", own) or NO_EXTRAS)
                    items.append(spoken)
                spoken["content"].append(_write_part(part, "output_text", keeps_extras))
                continue
            case Reasoning():
                items.append(_write_reasoning(part, keeps_extras))
            case ToolCall():
                items.append(_write_call(part, keeps_extras))
            case Opaque() if part.dialect == RESPONSES:
                items.append(part.block)
            case _:
                raise _unsayable(part)
        spoken = None
    return items


def _write_reasoning(part: Reasoning, keeps_extras: bool) -> JsonObject:
    """Encrypted reasoning is OpenAI's own, which goes with a summary; open hosts read the text."""
    form = part.extras.get("form") if keeps_extras else None
    if form is None:
        form = "content" if part.signature is None else "summary"
    summary = [{"type": "summary_text", "text": part.text}] if form == "summary" else []
    item: JsonObject = {"type": "reasoning", "summary": summary}
    if form == "content" and part.text:
        item["content"] = [{"type": "reasoning_text", "text": part.text}]
    encrypted = part.redacted if part.signature is None else part.signature
    if encrypted is not None:
        item["encrypted_content"] = encrypted
    if keeps_extras:
        fill(item, {key: value for key, value in part.extras.items() if key != "form"})
    return item


def _write_call(call: ToolCall, keeps_extras: bool) -> JsonObject:
    item: JsonObject = {"type": "function_call", "call_id": call.call_id, "name": call.name}
    if keeps_extras and call.extras.get("type") == "custom_tool_call":
        item["type"] = "custom_tool_call"
        item["input"] = custom_input(call.arguments)
    else:
        item["arguments"] = call.arguments
    write_cache(item, call.cache)
    if keeps_extras:
        fill(item, call.extras)
    return item


def _write_output(part: Part, keeps_extras: bool) -> JsonObject:
    if not isinstance(part, ToolResult):
        raise _unsayable(part)
    output: JsonValue = ""
    if len(part.content) == 1 and _is_plain(part.content[0], keeps_extras):
        output = cast("Text", part.content[0]).text
    elif part.content:
        output = _write_content(part.content, "input_text", "output", keeps_extras)
    item: JsonObject = {"type": "function_call_output", "call_id": part.call_id, "output": output}
    if keeps_extras and "type" in part.extras:
        item["type"] = part.extras["type"]
    write_cache(item, part.cache)
    if keeps_extras:
        fill(item, part.extras)
    return item


def _is_plain(part: Part, keeps_extras: bool) -> bool:
    return isinstance(part, Text) and part.cache is None and not (keeps_extras and part.extras)


def _write_content(
    parts: Sequence[Part], text_kind: str, key: str, keeps_extras: bool
) -> list[JsonValue]:
    entries: list[JsonValue] = []
    for index, part in enumerate(parts):
        try:
            entries.append(_write_part(part, text_kind, keeps_extras))
        except Misfit as misfit:
            misfit.under(key, index)
            raise
    return entries


def _write_part(part: Part, text_kind: str, keeps_extras: bool) -> JsonObject:
    match part:
        case Text():
            fields: JsonObject = {"type": text_kind, "text": part.text}
            if part.extras.get("type") == "refusal" and keeps_extras:
                fields = {"type": "refusal", "refusal": part.text}
            elif text_kind == "output_text":
                fields["annotations"] = []
        case Image():
            fields = {"type": "input_image"}
            if isinstance(part.source, HostFile):
                fields["file_id"] = part.source.file_id
            else:
                fields["image_url"] = write_source(part.source)
            if part.detail is not None:
                fields["detail"] = part.detail
        case Opaque() if part.dialect == RESPONSES:
            fields = dict(part.block)
            write_cache(fields, part.cache)
            return fields
        case _:
            raise _unsayable(part)
    write_cache(fields, part.cache)
    if keeps_extras and part.extras:
        kept = {key: value for key, value in part.extras.items() if key != "item"}
        fields.update(kept)
    return fields


def _unsayable(part: Part) -> Misfit:
    if isinstance(part, Opaque):
        kind = as_object(part.block).get("type", "unknown")
        return Misfit(f"content of kind {kind!r} exists only in {part.dialect}")
    return Misfit(f"{type(part).__name__} cannot stand here in {RESPONSES}")
