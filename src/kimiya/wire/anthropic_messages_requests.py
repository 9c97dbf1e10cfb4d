"""Request bodies of Anthropic Messages, read from a client.

What of a known object (``thinking``, ``output_config``, ``tool_choice``) has no value of ours stays
in ``Request.extras`` under that object's name.
"""

from typing import Final

import msgspec

from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    ResponseFormat,
    Sampling,
    Thinking,
    ToolChoice,
    ToolSpec,
)
from kimiya.core.messages import Message
from kimiya.wire.anthropic_messages_blocks import (
    NAME,
    RawBlock,
    read_cache,
    read_content,
)
from kimiya.wire.anthropic_messages_thinking import read_thinking
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    keep_rest,
    leftovers,
    optional,
    optional_list,
    optional_object,
    parse_object,
    required,
    required_list,
    strings,
)
from kimiya.wire.tool_rounds import add_user_turn

_KNOWN = frozenset(
    {
        "model",
        "messages",
        "system",
        "max_tokens",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "metadata",
        "output_config",
    }
)
_MESSAGE = frozenset({"role", "content"})
_TOOL = frozenset({"name", "description", "input_schema", "cache_control", "strict", "type"})
EFFORTS: Final = frozenset({"low", "medium", "high", "xhigh", "max"})


class _RawMessage(msgspec.Struct):
    content: list[RawBlock] | str | None = None


class _RawBody(msgspec.Struct):
    messages: list[_RawMessage] = []


_raw_body = msgspec.json.Decoder(_RawBody)


# --------------------------------------------------------------------------------------- reading


def read_request(body: bytes, model: str | None, stream: bool | None) -> Request:
    """A client's body as a request.

    Raises:
        Misfit: With the path of the field.
    """
    fields = parse_object(body)
    extras = dict(leftovers(fields, _KNOWN))
    choice, parallel = _read_choice(fields, extras)
    user, metadata = _read_metadata(fields)
    thinking, response_format = _read_output(fields, extras)
    return Request(
        model=model or required(fields, "model", str),
        messages=tuple(_read_system(fields) + _read_messages(fields, body)),
        tools=tuple(_read_tools(fields)),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        sampling=_read_sampling(fields),
        thinking=thinking,
        response_format=response_format,
        stream=bool(optional(fields, "stream", bool)) if stream is None else stream,
        user=user,
        metadata=metadata,
        dialect=NAME,
        extras=extras,
    )


def _read_system(fields: JsonObject) -> list[Message]:
    system = fields.get("system")
    if system is None or system == []:
        return []
    try:
        return [Message("system", tuple(read_content(system, None)))]
    except Misfit as misfit:
        misfit.under("system")
        raise


def _read_messages(fields: JsonObject, body: bytes) -> list[Message]:
    raws = _raw_inputs(body)
    messages: list[Message] = []
    for index, value in enumerate(required_list(fields, "messages")):
        try:
            content = raws[index].content if raws else None
            _read_message(messages, as_object(value), content)
        except Misfit as misfit:
            misfit.under("messages", index)
            raise
    return messages


def _raw_inputs(body: bytes) -> list[_RawMessage] | None:
    """The messages once more, with the inputs of calls verbatim; only where there are any."""
    if b'"tool_use"' not in body:
        return None
    try:
        return _raw_body.decode(body).messages
    except msgspec.ValidationError:
        return None  # the reading proper names what is wrong


def _read_message(
    messages: list[Message], fields: JsonObject, raws: list[RawBlock] | str | None
) -> None:
    role = required(fields, "role", str)
    try:
        parts = read_content(fields.get("content"), raws if isinstance(raws, list) else None)
    except Misfit as misfit:
        misfit.under("content")
        raise
    extras = leftovers(fields, _MESSAGE)
    if role == "user":
        add_user_turn(messages, parts, extras)
    elif role == "assistant" or role == "system":
        messages.append(Message(role, tuple(parts), extras=extras))
    else:
        raise Misfit(f"must be user, assistant or system, not {role!r}", "role")


def _read_sampling(fields: JsonObject) -> Sampling:
    return Sampling(
        temperature=optional(fields, "temperature", float),
        top_p=optional(fields, "top_p", float),
        top_k=optional(fields, "top_k", int),
        max_output_tokens=optional(fields, "max_tokens", int),
        stop=strings(fields, "stop_sequences"),
    )


def _read_tools(fields: JsonObject) -> list[ToolSpec]:
    tools: list[ToolSpec] = []
    for index, value in enumerate(optional_list(fields, "tools")):
        try:
            tools.append(_read_tool(as_object(value)))
        except Misfit as misfit:
            misfit.under("tools", index)
            raise
    return tools


def _read_tool(tool: JsonObject) -> ToolSpec:
    kind = optional(tool, "type", str)
    cache = read_cache(tool)
    if kind not in (None, "custom"):
        definition = {k: v for k, v in tool.items() if k != "cache_control" or cache is None}
        name = optional(tool, "name", str) or optional(tool, "mcp_server_name", str) or kind
        return ToolSpec(name, cache=cache, kind=kind, extras=definition)
    extras = leftovers(tool, _TOOL)
    if cache is None and tool.get("cache_control") is not None:
        extras = {**extras, "cache_control": tool["cache_control"]}
    return ToolSpec(
        name=required(tool, "name", str),
        description=optional(tool, "description", str),
        parameters=optional_object(tool, "input_schema"),
        strict=optional(tool, "strict", bool),
        cache=cache,
        extras=extras,
    )


def _read_choice(fields: JsonObject, extras: JsonObject) -> tuple[ToolChoice | None, bool | None]:
    choice = optional_object(fields, "tool_choice")
    if choice is None:
        return None, None
    kind = choice.get("type")
    match choice:
        case {"type": "auto"}:
            value: ToolChoice = AutoChoice()
        case {"type": "any"}:
            value = RequiredChoice()
        case {"type": "none"}:
            value = NoChoice()
        case {"type": "tool", "name": str() as name}:
            value = NamedChoice(name)
        case _:
            raise Misfit(
                f"no tool choice {kind!r} (auto, any, none, or tool with a name)", "tool_choice"
            )
    serial = optional(choice, "disable_parallel_tool_use", bool)
    keep_rest(extras, "tool_choice", choice, {"type", "name", "disable_parallel_tool_use"})
    return value, None if serial is None else not serial


def _read_metadata(fields: JsonObject) -> tuple[str | None, JsonObject]:
    metadata = optional_object(fields, "metadata") or {}
    user = optional(metadata, "user_id", str)
    return user, {k: v for k, v in metadata.items() if k != "user_id"}


def _read_output(fields: JsonObject, extras: JsonObject) -> tuple[Thinking, ResponseFormat | None]:
    thinking = read_thinking(fields, extras)
    config = optional_object(fields, "output_config") or {}
    known: set[str] = set()
    effort = config.get("effort")
    if effort in EFFORTS:
        thinking = msgspec.structs.replace(thinking, effort=effort)
        known.add("effort")
    response_format = None
    match config.get("format"):
        case {"type": "json_schema", "schema": schema, **rest} if not rest:
            response_format = ResponseFormat("json_schema", schema)
            known.add("format")
        case _:
            pass
    keep_rest(extras, "output_config", config, known)
    return thinking, response_format
