"""Request bodies of Bedrock Converse, read from a client.

The model stands in the path. ``additionalModelRequestFields`` carries what a model takes beside
Converse's own fields; of it we know Claude's ``thinking`` and ``top_k``, and the rest stays in
``Request.extras`` under its name, as do the rests of other known objects.
"""

from urllib.parse import unquote

import msgspec

from kimiya.core.exchange import (
    AutoChoice,
    Effort,
    NamedChoice,
    Request,
    RequiredChoice,
    ResponseFormat,
    Sampling,
    Thinking,
    ToolChoice,
    ToolSpec,
)
from kimiya.core.messages import Breakpoint, JsonValue, Message
from kimiya.wire.anthropic_messages_thinking import read_thinking
from kimiya.wire.bedrock_converse_blocks import NAME, RawBlock, read_cache_point, read_content
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
    required_object,
    strings,
)
from kimiya.wire.tool_rounds import add_user_turn

_KNOWN = frozenset(
    {
        "messages",
        "system",
        "inferenceConfig",
        "toolConfig",
        "outputConfig",
        "additionalModelRequestFields",
        "requestMetadata",
    }
)
_MESSAGE = frozenset({"role", "content"})
_TOOL_SPEC = frozenset({"name", "description", "inputSchema", "strict"})
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
USER_KEY = "user_id"
"""Key of ``requestMetadata`` that the end user's id stands under."""


class _RawMessage(msgspec.Struct):
    content: list[RawBlock] = []


class _RawBody(msgspec.Struct):
    messages: list[_RawMessage] = []


_raw_body = msgspec.json.Decoder(_RawBody)


def read_request(body: bytes, model: str | None, stream: bool | None) -> Request:
    """A client's body as a request.

    Raises:
        Misfit: With the path of the field.
    """
    if not model:
        raise Misfit("the model's id is required in the path")
    fields = parse_object(body) if body.strip() else {}
    extras: JsonObject = dict(leftovers(fields, _KNOWN))
    thinking, top_k = _read_additional(fields, extras)
    effort, response_format = _read_output(fields, extras)
    tools, choice = _read_tools(fields, extras)
    metadata = dict(optional_object(fields, "requestMetadata") or {})
    user = metadata.pop(USER_KEY) if isinstance(metadata.get(USER_KEY), str) else None
    return Request(
        model=unquote(model),
        messages=tuple(_read_system(fields) + _read_messages(fields, body)),
        tools=tools,
        tool_choice=choice,
        sampling=_read_sampling(fields, extras, top_k),
        thinking=msgspec.structs.replace(thinking, effort=effort),
        response_format=response_format,
        stream=bool(stream),
        user=user,
        metadata=metadata,
        dialect=NAME,
        extras=extras,
    )


def _read_system(fields: JsonObject) -> list[Message]:
    blocks = optional_list(fields, "system")
    try:
        return [Message("system", tuple(read_content(blocks, None)))] if blocks else []
    except Misfit as misfit:
        misfit.under("system")
        raise


def _read_messages(fields: JsonObject, body: bytes) -> list[Message]:
    raws = _raw_messages(body)
    messages: list[Message] = []
    for index, value in enumerate(optional_list(fields, "messages")):
        try:
            _read_message(messages, as_object(value), raws[index].content if raws else None)
        except Misfit as misfit:
            misfit.under("messages", index)
            raise
    return messages


def _raw_messages(body: bytes) -> list[_RawMessage] | None:
    if b'"toolUse"' not in body:
        return None
    try:
        return _raw_body.decode(body).messages
    except msgspec.ValidationError:
        return None  # the reading proper names what is wrong


def _read_message(messages: list[Message], fields: JsonObject, raws: list[RawBlock] | None) -> None:
    role = required(fields, "role", str)
    try:
        parts = read_content(required_list(fields, "content"), raws)
    except Misfit as misfit:
        if misfit.segments[:1] != ["content"]:
            misfit.under("content")
        raise
    extras = leftovers(fields, _MESSAGE)
    if role == "user":
        add_user_turn(messages, parts, extras)
    elif role == "assistant" or role == "system":
        messages.append(Message(role, tuple(parts), extras=extras))
    else:
        raise Misfit(f"must be user, assistant or system, not {role!r}", "role")


def _read_sampling(fields: JsonObject, extras: JsonObject, top_k: int | None) -> Sampling:
    config = optional_object(fields, "inferenceConfig") or {}
    known = {"maxTokens", "temperature", "topP", "stopSequences"}
    keep_rest(extras, "inferenceConfig", config, known)
    try:
        return Sampling(
            temperature=optional(config, "temperature", float),
            top_p=optional(config, "topP", float),
            top_k=top_k,
            max_output_tokens=optional(config, "maxTokens", int),
            stop=strings(config, "stopSequences"),
        )
    except Misfit as misfit:
        misfit.under("inferenceConfig")
        raise


def _read_additional(fields: JsonObject, extras: JsonObject) -> tuple[Thinking, int | None]:
    """Thinking and top_k, where they have the form Claude takes; all else is kept."""
    more = fields.get("additionalModelRequestFields")
    if not isinstance(more, dict):
        if more is not None:
            extras["additionalModelRequestFields"] = more
        return Thinking(), None
    more = as_object(more)
    rest = {k: v for k, v in more.items() if k != "thinking"}
    try:
        thinking = read_thinking(more, rest)
    except Misfit:
        thinking, rest = Thinking(), dict(more)
    top_k = rest.pop("top_k") if type(rest.get("top_k")) is int else None
    if rest:
        extras["additionalModelRequestFields"] = rest
    return thinking, top_k


def _read_output(
    fields: JsonObject, extras: JsonObject
) -> tuple[Effort | None, ResponseFormat | None]:
    config = optional_object(fields, "outputConfig") or {}
    known: set[str] = set()
    effort = config.get("effort")
    if effort in EFFORTS:
        known.add("effort")
    else:
        effort = None
    response_format = _read_format(config.get("textFormat"))
    if response_format is not None:
        known.add("textFormat")
    keep_rest(extras, "outputConfig", config, known)
    return effort, response_format


def _read_format(text_format: JsonValue) -> ResponseFormat | None:
    match text_format:
        case {
            "type": "json_schema",
            "structure": {"jsonSchema": {"schema": str() as schema, **named}, **rest},
            **more,
        } if not rest and not more and named.keys() <= {"name", "description"}:
            try:
                parsed = msgspec.json.decode(schema)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                path = "outputConfig.textFormat.structure.jsonSchema.schema"
                raise Misfit(f"is not JSON: {error}", path) from error
            return ResponseFormat(
                "json_schema", parsed, named.get("name"), named.get("description")
            )
        case _:
            return None


def _read_tools(
    fields: JsonObject, extras: JsonObject
) -> tuple[tuple[ToolSpec, ...], ToolChoice | None]:
    config = optional_object(fields, "toolConfig") or {}
    keep_rest(extras, "toolConfig", config, {"tools", "toolChoice"})
    tools: list[ToolSpec] = []
    try:
        for index, value in enumerate(optional_list(config, "tools")):
            try:
                _read_tool(tools, as_object(value))
            except Misfit as misfit:
                misfit.under("tools", index)
                raise
        return tuple(tools), _read_choice(optional_object(config, "toolChoice"))
    except Misfit as misfit:
        misfit.under("toolConfig")
        raise


def _read_tool(tools: list[ToolSpec], entry: JsonObject) -> None:
    mark: Breakpoint | None = read_cache_point(entry)
    if mark is not None and tools and tools[-1].cache is None:
        tools[-1] = msgspec.structs.replace(tools[-1], cache=mark)
        return
    if entry.keys() != {"toolSpec"}:
        if len(entry) != 1:
            raise Misfit(f"a tool has exactly one member, not {len(entry)}")
        kind, definition = next(iter(entry.items()))
        name = definition.get("name") if isinstance(definition, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        tools.append(ToolSpec(name if isinstance(name, str) else kind, kind=kind, extras=entry))
        return
    try:
        spec = required_object(entry, "toolSpec")
        schema = optional_object(spec, "inputSchema") or {}
        tools.append(
            ToolSpec(
                name=required(spec, "name", str),
                description=optional(spec, "description", str),
                parameters=schema.get("json"),
                strict=optional(spec, "strict", bool),
                extras=leftovers(spec, _TOOL_SPEC),
            )
        )
    except Misfit as misfit:
        misfit.under("toolSpec")
        raise


def _read_choice(choice: JsonObject | None) -> ToolChoice | None:
    match choice:
        case None:
            return None
        case {"auto": {}}:
            return AutoChoice()
        case {"any": {}}:
            return RequiredChoice()
        case {"tool": {"name": str() as name}}:
            return NamedChoice(name)
        case _:
            raise Misfit(
                "must be one of {auto: {}}, {any: {}} and {tool: {name: ...}}", "toolChoice"
            )
