"""Input items of the Responses API, read; ``openai_responses_history`` writes them.

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
    known_values,
    read_cache,
    read_source,
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
