"""Input items of the Responses API, both ways.

A history is a flat list: messages, reasoning, calls, outputs. Ours are messages, so items of one
assistant's turn (reasoning, its message, its calls) gather into one, and so do outputs that follow
each other. Items keep their order. Their ids and states refer to what a server stored, and nothing
is stored here, so only those of reasoning are kept, for the host that encrypted it.

Custom tools take free text instead of JSON. A ``custom_tool_call`` is read as a call whose
arguments are ``{"input": text}``, so that every host can be offered such a tool as a function;
``extras`` say what it was. Kinds we have no value for (``web_search_call``) are kept verbatim.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from kimiya.core.messages import (
    NO_EXTRAS,
    Extras,
    HostFile,
    Image,
    JsonValue,
    MediaSource,
    Message,
    Opaque,
    Part,
    Reasoning,
    ResultPart,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    kind_of,
    leftovers,
    optional,
    optional_list,
    required,
)
from kimiya.wire.openai_chat_messages import read_arguments
from kimiya.wire.openai_chat_parts import (
    fill,
    known_values,
    read_cache,
    read_source,
    write_cache,
    write_source,
)

RESPONSES = "openai_responses"

_ROLES = ("system", "developer", "user", "assistant")
_MESSAGE = frozenset({"type", "role", "content", "id", "status"})
_TEXT = frozenset({"type", "text", "cache_control", "annotations", "logprobs"})
_IMAGE = frozenset({"type", "image_url", "file_id", "detail", "cache_control"})
_REASONING = frozenset({"type", "summary", "content", "encrypted_content"})
_CALL = frozenset({"type", "call_id", "name", "arguments", "cache_control", "id", "status"})
_CUSTOM_CALL = frozenset({"type", "call_id", "name", "input", "cache_control", "id", "status"})
_OUTPUT = frozenset({"type", "call_id", "output", "cache_control", "id", "status"})

_encode = msgspec.json.Encoder().encode
_custom_input = msgspec.json.Decoder(dict[str, str])


def read_items(values: Sequence[JsonValue]) -> list[Message]:
    """A history. ``Misfit`` carries the path of what cannot be read."""
    turns: list[tuple[Role, list[Part], Extras]] = []
    for index, value in enumerate(values):
        try:
            role, parts, extras = _read_item(as_object(value))
        except Misfit as misfit:
            misfit.under("input", index)
            raise
        if turns and turns[-1][0] == role and role in ("assistant", "tool"):
            turns[-1][1].extend(parts)
        else:
            turns.append((role, parts, extras))
    return [Message(role, tuple(parts), extras=extras) for role, parts, extras in turns]


def _read_item(fields: JsonObject) -> tuple[Role, list[Part], Extras]:
    kind = optional(fields, "type", str) or ("message" if "role" in fields else "")
    if kind == "message":
        return _read_message(fields)
    if kind in ("function_call_output", "custom_tool_call_output"):
        return "tool", [_read_output(fields, kind)], NO_EXTRAS
    reader = _TURN_READERS.get(kind)
    if reader is not None:
        return "assistant", list(reader(fields)), NO_EXTRAS
    if not kind:
        raise Misfit("is required and must be a string", "type")
    if kind == "item_reference":
        raise Misfit("refers to a stored item, but none are stored: send the item itself", "type")
    return "assistant", [Opaque(RESPONSES, fields)], NO_EXTRAS


def _read_message(fields: JsonObject) -> tuple[Role, list[Part], Extras]:
    role = required(fields, "role", str)
    if role not in _ROLES:
        raise Misfit(f"is {role!r}, but must be one of {', '.join(_ROLES)}", "role")
    content = fields.get("content")
    parts: list[Part]
    if isinstance(content, str):
        parts = [Text(content)] if content or role != "assistant" else []
    elif isinstance(content, list):
        parts = _read_content(cast("list[JsonValue]", content), "content")
    else:
        raise Misfit(f"must be a string or a list, not {kind_of(content)}", "content")
    extras = known_values(fields, _MESSAGE)
    if role == "assistant":
        return role, _own_parts(parts, extras), NO_EXTRAS
    return cast("Role", role), parts, extras


def _own_parts(parts: list[Part], extras: Extras) -> list[Part]:
    """What an assistant said: texts, a refusal among them.

    A turn may hold several items, so what belongs to this one stays with its first text.
    """
    texts: list[Part] = []
    for index, part in enumerate(parts):
        if isinstance(part, Opaque) and part.block.get("type") == "refusal":
            part = Text(required(part.block, "refusal", str), extras={"type": "refusal"})
        if not isinstance(part, Text):
            raise Misfit("cannot stand in an assistant's message", "content", index)
        if extras and not texts:
            part = msgspec.structs.replace(part, extras={**part.extras, "item": extras})
        texts.append(part)
    return texts


def _read_content(values: list[JsonValue], key: str) -> list[Part]:
    parts: list[Part] = []
    for index, value in enumerate(values):
        try:
            parts.append(_read_part(as_object(value)))
        except Misfit as misfit:
            misfit.under(key, index)
            raise
    return parts


def _read_part(fields: JsonObject) -> Text | Image | Opaque:
    kind = required(fields, "type", str)
    if kind in ("input_text", "output_text", "text"):
        extras = leftovers(fields, _TEXT)
        noted = {key: fields[key] for key in ("annotations", "logprobs") if fields.get(key)}
        text = required(fields, "text", str)
        return Text(text, read_cache(fields), {**extras, **noted} if noted else extras)
    if kind == "input_image":
        return Image(
            _read_image_source(fields),
            optional(fields, "detail", str),
            read_cache(fields),
            leftovers(fields, _IMAGE),
        )
    return Opaque(RESPONSES, fields)


def _read_image_source(fields: JsonObject) -> MediaSource:
    file_id = optional(fields, "file_id", str)
    if file_id is not None:
        return HostFile(file_id)
    try:
        return read_source(required(fields, "image_url", str))
    except Misfit as misfit:
        if misfit.segments == ["url"]:
            misfit.segments[:] = ["image_url"]
        raise


def read_reasoning(fields: JsonObject) -> list[Reasoning]:
    """A reasoning item: its summary and its text are a part each, what is encrypted signs the last.

    Raises:
        Misfit: It cannot be read.
    """
    encrypted = optional(fields, "encrypted_content", str)
    extras = known_values(fields, _REASONING)
    summary = "\n\n".join(_texts(fields, "summary"))
    content = "".join(_texts(fields, "content"))
    parts = [Reasoning(text) for text in (summary, content) if text]
    if summary and not content and encrypted is None:
        extras = {**extras, "form": "summary"}
    if content and encrypted is not None:
        extras = {**extras, "form": "content"}
    if not parts:
        return [Reasoning(redacted=encrypted, extras=extras)]
    if len(parts) == 2:
        parts[0] = Reasoning(summary, extras={"form": "summary"})
    parts[-1] = Reasoning(parts[-1].text, encrypted, extras=extras)
    return parts


def _texts(fields: JsonObject, key: str) -> list[str]:
    texts: list[str] = []
    for index, value in enumerate(optional_list(fields, key)):
        try:
            texts.append(required(as_object(value), "text", str))
        except Misfit as misfit:
            misfit.under(key, index)
            raise
    return texts


def read_call(fields: JsonObject) -> list[ToolCall]:
    """A function call of a history."""
    return [
        ToolCall(
            required(fields, "call_id", str),
            required(fields, "name", str),
            read_arguments(fields),
            read_cache(fields),
            known_values(fields, _CALL),
        )
    ]


def _read_custom_call(fields: JsonObject) -> list[ToolCall]:
    return [
        ToolCall(
            required(fields, "call_id", str),
            required(fields, "name", str),
            custom_arguments(required(fields, "input", str)),
            read_cache(fields),
            {"type": "custom_tool_call", **known_values(fields, _CUSTOM_CALL)},
        )
    ]


_TURN_READERS: Mapping[str, Callable[[JsonObject], Sequence[Part]]] = {
    "reasoning": read_reasoning,
    "function_call": read_call,
    "custom_tool_call": _read_custom_call,
}


def _read_output(fields: JsonObject, kind: str) -> ToolResult:
    output = fields.get("output")
    content: list[Part]
    if output is None or isinstance(output, str):
        content = [Text(output)] if output else []
    elif isinstance(output, list):
        content = _read_content(cast("list[JsonValue]", output), "output")
    else:
        raise Misfit(f"must be a string or a list, not {kind_of(output)}", "output")
    extras = known_values(fields, _OUTPUT)
    if kind != "function_call_output":
        extras = {"type": kind, **extras}
    return ToolResult(
        required(fields, "call_id", str),
        cast("tuple[ResultPart, ...]", tuple(content)),
        cache=read_cache(fields),
        extras=extras,
    )


def custom_arguments(text: str) -> str:
    """Free text as the arguments of a function with one ``input``.

    >>> custom_input(custom_arguments("*** Begin")), custom_input("not json")
    ('*** Begin', 'not json')
    """
    return _encode({"input": text}).decode()


def custom_input(arguments: str) -> str:
    """The free text in arguments; all of them where they are not in that form."""
    try:
        return _custom_input.decode(arguments)["input"]
    except (msgspec.DecodeError, KeyError, UnicodeError, RecursionError):
        return arguments


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
