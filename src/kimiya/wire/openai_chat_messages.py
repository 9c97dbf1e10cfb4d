"""Messages of Chat Completions, both ways.

Invariants of the values hold after reading: the results of one round share a message; ``""`` and
``null`` as the content of an assistant or a tool mean no part.

What this wire cannot say, and what becomes of it: channels of an assistant's turn have no common
order, so each keeps its own; a tool's failure has no flag, its content says how.
"""

from collections.abc import Callable, Mapping

from kimiya.core.messages import (
    JsonValue,
    Message,
    Opaque,
    Part,
    Reasoning,
    ResultPart,
    Text,
    ToolCall,
    ToolResult,
)
from kimiya.wire import openai_chat_parts as parts_of
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    kind_of,
    leftovers,
    optional,
    optional_list,
    required,
    required_object,
    write_json,
)
from kimiya.wire.openai_chat_reasoning import FIELDS, read_reasoning, write_reasoning

_PLAIN = frozenset({"role", "content", "name"})
_ASSISTANT = _PLAIN | FIELDS | {"tool_calls", "function_call"}
_TOOL = _PLAIN | {"tool_call_id", "cache_control"}
_CALL = frozenset({"id", "type", "function", "cache_control"})
_FUNCTION = frozenset({"name", "arguments"})


def read_messages(values: list[JsonValue]) -> tuple[Message, ...]:
    """A history. ``Misfit`` carries the path of what cannot be read."""
    messages: list[Message] = []
    for index, value in enumerate(values):
        try:
            message = _read_message(as_object(value))
        except Misfit as misfit:
            misfit.under("messages", index)
            raise
        if message.role == "tool" and messages and messages[-1].role == "tool":
            messages[-1] = Message("tool", messages[-1].parts + message.parts)
        else:
            messages.append(message)
    return tuple(messages)


def _read_message(fields: JsonObject) -> Message:
    role = required(fields, "role", str)
    reader = _READERS.get(role)
    if reader is None:
        raise Misfit(f"is {role!r}, but must be one of {', '.join(_READERS)}", "role")
    return reader(fields)


def _read_plain(fields: JsonObject) -> Message:
    role = fields["role"]
    content = parts_of.read_content(fields.get("content"))
    name = optional(fields, "name", str)
    return Message(role, content, name, leftovers(fields, _PLAIN))


def _read_assistant(fields: JsonObject) -> Message:
    content = fields.get("content")
    parts: list[Part] = [*read_reasoning(fields)]
    if content is not None and content != "":
        parts += parts_of.read_content(content)
    for index, value in enumerate(optional_list(fields, "tool_calls")):
        try:
            parts.append(read_call(as_object(value)))
        except Misfit as misfit:
            misfit.under("tool_calls", index)
            raise
    legacy = fields.get("function_call")
    if legacy is not None:
        parts.append(read_call({"function": legacy}))
    extras = parts_of.known_values(fields, _ASSISTANT)
    return Message("assistant", tuple(parts), optional(fields, "name", str), extras)


def read_call(fields: JsonObject) -> ToolCall | Opaque:
    """One call of a message; one that has no ``function`` is kept as it is.

    Another ``type`` with a ``function`` is a host's own (Moonshot's ``builtin_function``).
    """
    kind = optional(fields, "type", str) or "function"
    if kind != "function" and "function" not in fields:
        return Opaque(parts_of.CHAT, fields)
    function = required_object(fields, "function")
    extras = leftovers(fields, _CALL)
    if kind != "function":
        extras = {**extras, "type": kind}
    unknown = leftovers(function, _FUNCTION)
    try:
        name = required(function, "name", str)
        arguments = read_arguments(function)
    except Misfit as misfit:
        misfit.under("function")
        raise
    return ToolCall(
        optional(fields, "id", str) or "",
        name,
        arguments,
        parts_of.read_cache(fields),
        {**extras, "function": unknown} if unknown else extras,
    )


def read_arguments(function: JsonObject) -> str:
    """Raw JSON text; where the object itself was sent, its text."""
    value = function.get("arguments")
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        return write_json(value).decode()
    raise Misfit(f"must be a string of JSON, not {kind_of(value)}", "arguments")


def _read_tool(fields: JsonObject) -> Message:
    content = fields.get("content")
    parts = () if content is None or content == "" else parts_of.read_content(content)
    result = ToolResult(
        call_id=required(fields, "tool_call_id", str),
        content=tuple(_result_part(part, index) for index, part in enumerate(parts)),
        name=optional(fields, "name", str),
        cache=parts_of.read_cache(fields),
        extras=leftovers(fields, _TOOL),
    )
    return Message("tool", (result,))


def _result_part(part: Part, index: int) -> ResultPart:
    if isinstance(part, Reasoning | ToolCall | ToolResult):
        raise Misfit("cannot stand in a tool's result", "content", index)
    return part


_READERS: Mapping[str, Callable[[JsonObject], Message]] = {
    "system": _read_plain,
    "developer": _read_plain,
    "user": _read_plain,
    "assistant": _read_assistant,
    "tool": _read_tool,
}


def write_messages(
    messages: tuple[Message, ...], reasoning_field: str | None, *, keeps_extras: bool
) -> list[JsonValue]:
    """A history for a host. ``Misfit`` carries the path of what cannot be said."""
    entries: list[JsonValue] = []
    for index, message in enumerate(messages):
        try:
            if message.role == "tool":
                entries += _write_results(message, keeps_extras=keeps_extras)
            elif message.role == "assistant":
                entries.append(_write_assistant(message, reasoning_field, keeps_extras))
            else:
                entries.append(_write_plain(message, keeps_extras=keeps_extras))
        except Misfit as misfit:
            misfit.under("messages", index)
            raise
    return entries


def _write_plain(message: Message, *, keeps_extras: bool) -> JsonObject:
    content = parts_of.write_content(message.parts, keeps_extras=keeps_extras)
    fields: JsonObject = {"role": message.role, "content": content}
    return _finished(fields, message, keeps_extras)


def _write_assistant(message: Message, field: str | None, keeps_extras: bool) -> JsonObject:
    thoughts: list[Reasoning] = []
    calls: list[JsonValue] = []
    said: list[Part] = []
    for part in message.parts:
        match part:
            case Reasoning():
                thoughts.append(part)
            case ToolCall():
                calls.append(write_call(part, keeps_extras=keeps_extras))
            case Opaque() if part.dialect == parts_of.CHAT and "custom" in part.block:
                calls.append(part.block)
            case Text() | Opaque():
                said.append(part)
            case _:
                raise Misfit(f"{type(part).__name__} cannot stand in an assistant's message")
    # null is what clients send beside calls, and what chat templates expect there.
    content = parts_of.write_content(tuple(said), keeps_extras=keeps_extras)
    fields: JsonObject = {"role": "assistant", "content": content if said or not calls else None}
    write_reasoning(fields, thoughts, field, keeps_extras=keeps_extras)
    if calls:
        fields["tool_calls"] = calls
    return _finished(fields, message, keeps_extras)


def write_call(call: ToolCall, *, keeps_extras: bool) -> JsonObject:
    """One call of a message."""
    kind = call.extras.get("type", "function") if keeps_extras else "function"
    fields: JsonObject = {
        "id": call.call_id,
        "type": kind,
        "function": {"name": call.name, "arguments": call.arguments},
    }
    parts_of.write_cache(fields, call.cache)
    if keeps_extras and call.extras:
        parts_of.fill(fields, call.extras)
    return fields


def _write_results(message: Message, *, keeps_extras: bool) -> list[JsonValue]:
    entries: list[JsonValue] = []
    for part in message.parts:
        if not isinstance(part, ToolResult):
            raise Misfit(f"{type(part).__name__} cannot stand beside tool results")
        content = parts_of.write_content(part.content, keeps_extras=keeps_extras)
        fields: JsonObject = {"role": "tool", "tool_call_id": part.call_id, "content": content}
        if part.name is not None:
            fields["name"] = part.name
        parts_of.write_cache(fields, part.cache)
        if keeps_extras:
            parts_of.fill(fields, part.extras)
        entries.append(fields)
    return entries


def _finished(fields: JsonObject, message: Message, keeps_extras: bool) -> JsonObject:
    if message.name is not None:
        fields["name"] = message.name
    if keeps_extras and message.extras:
        parts_of.fill(fields, message.extras)
    return fields
