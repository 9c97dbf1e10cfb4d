"""Requests of Anthropic Messages, read and written.

What of a known object (``thinking``, ``output_config``, ``tool_choice``) has no value of ours stays
in ``Request.extras`` under that object's name, and joins it again when written.
"""

from typing import Any, Final, assert_never

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
from kimiya.core.messages import JsonValue, Message, Opaque, Part, Text
from kimiya.wire.anthropic_messages_blocks import (
    NAME,
    RawBlock,
    read_cache,
    read_content,
    write_cache,
    write_content,
)
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    leftovers,
    optional,
    optional_list,
    optional_object,
    parse_object,
    required,
    required_list,
    strings,
    write_json,
)
from kimiya.wire.tool_rounds import WireTurn, add_user_turn, leading_system, wire_turns

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
    _keep(extras, "tool_choice", choice, {"type", "name", "disable_parallel_tool_use"})
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
    _keep(extras, "output_config", config, known)
    return thinking, response_format


def read_thinking(fields: JsonObject, extras: JsonObject) -> Thinking:
    """The ``thinking`` object; what it says beyond our value goes to ``extras["thinking"]``.

    Raises:
        Misfit: A member has the wrong kind.
    """
    config = optional_object(fields, "thinking")
    if config is None:
        return Thinking()
    kind = config.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        extras["thinking"] = config
        return Thinking()
    try:
        budget = optional(config, "budget_tokens", int)
    except Misfit as misfit:
        misfit.under("thinking")
        raise
    known = {"type", "budget_tokens"} if kind == "enabled" else {"type"}
    _keep(extras, "thinking", config, known)
    return Thinking(
        enabled=kind != "disabled",
        budget_tokens=budget if kind == "enabled" else None,
        adaptive=kind == "adaptive",
    )


def _keep(extras: JsonObject, name: str, config: JsonObject, known: set[str]) -> None:
    rest = {k: v for k, v in config.items() if k not in known}
    if rest:
        extras[name] = rest


# --------------------------------------------------------------------------------------- writing


def write_request(request: Request) -> bytes:
    """A request as a host's body.

    Raises:
        Misfit: It says what Anthropic Messages cannot.
    """
    body = _write_prompt(request)
    sampling = request.sampling
    _refuse_sampling(sampling)
    if sampling.max_output_tokens is not None:
        body["max_tokens"] = sampling.max_output_tokens
    if request.stream:
        body["stream"] = True
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(sampling, name)
        if value is not None:
            body[name] = value
    if sampling.stop:
        body["stop_sequences"] = sampling.stop
    _write_metadata(request, body)
    return write_json(body)


def write_count_request(request: Request) -> bytes:
    """The same request as the body of a token count, which takes no output settings.

    Raises:
        Misfit: It says what Anthropic Messages cannot.
    """
    return write_json(_write_prompt(request))


def _write_prompt(request: Request) -> JsonObject:
    """Everything that is part of, or shapes, the prompt."""
    own = request.dialect == NAME
    extras: JsonObject = dict(request.extras) if own else {}
    body: JsonObject = {"model": request.model}
    start = leading_system(request.messages)
    system = [part for message in request.messages[:start] for part in message.parts]
    if system:
        body["system"] = _write_system(system, own)
    body["messages"] = [_write_turn(turn, own) for turn in wire_turns(request.messages, start)]
    if request.tools:
        body["tools"] = [_write_tool(tool, own) for tool in request.tools]
    joined = {
        "tool_choice": _write_choice(request),
        "thinking": write_thinking(request.thinking),
        "output_config": _write_output(request),
    }
    for name, value in joined.items():
        rest = extras.pop(name, None)
        if value or rest:
            body[name] = {**(value or {}), **(rest or {})}
    body.update(extras)
    return body


def _write_system(parts: list[Part], own: bool) -> JsonValue:
    for part in parts:
        if not isinstance(part, Text | Opaque):
            raise Misfit(f"a system prompt cannot hold a {type(part).__name__}", "system")
    return write_content(parts, own)


def _write_turn(turn: WireTurn, own: bool) -> JsonObject:
    try:
        if turn.role not in ("user", "assistant"):
            raise Misfit(
                f"a {turn.role} message after the conversation has begun cannot be said in "
                "Anthropic Messages; move it to the front or make it a user message",
                "role",
            )
        if turn.name is not None:
            raise Misfit("messages have no name here; put it into the text", "name")
        message: JsonObject = {"role": turn.role, "content": write_content(turn.parts, own)}
    except Misfit as misfit:
        misfit.under("messages", turn.index)
        raise
    if own:
        message.update(turn.extras)
    return message


def _write_tool(tool: ToolSpec, own: bool) -> JsonObject:
    if tool.kind != "function":
        if not own:
            raise Misfit(f"tool {tool.name!r} is of another host's kind ({tool.kind})", "tools")
        definition: JsonObject = dict(tool.extras)
    else:
        schema: Any = {"type": "object", "properties": {}}
        definition = {"name": tool.name}
        if tool.description is not None:
            definition["description"] = tool.description
        definition["input_schema"] = schema if tool.parameters is None else tool.parameters
        if tool.strict is not None:
            definition["strict"] = tool.strict
        if own:
            definition.update(tool.extras)
    if tool.cache is not None:
        definition["cache_control"] = write_cache(tool.cache)
    return definition


def _write_choice(request: Request) -> JsonObject | None:
    parallel = request.parallel_tool_calls
    match request.tool_choice:
        case None:
            if parallel is None or not request.tools:
                return None
            choice: JsonObject = {"type": "auto"}
        case AutoChoice():
            choice = {"type": "auto"}
        case RequiredChoice():
            choice = {"type": "any"}
        case NamedChoice(name=name):
            choice = {"type": "tool", "name": name}
        case NoChoice():
            return {"type": "none"}
        case _:
            assert_never(request.tool_choice)
    if parallel is not None:
        choice["disable_parallel_tool_use"] = not parallel
    return choice


def write_thinking(thinking: Thinking) -> JsonObject | None:
    """The ``thinking`` object; ``None`` where nothing was asked.

    Raises:
        Misfit: It contradicts itself.
    """
    if thinking.adaptive:
        if thinking.enabled is False or thinking.budget_tokens is not None:
            raise Misfit("adaptive thinking has no budget and cannot be off", "thinking")
        return {"type": "adaptive"}
    if thinking.enabled is False:
        if thinking.budget_tokens is not None:
            raise Misfit("thinking is off but has a budget", "thinking")
        return {"type": "disabled"}
    if thinking.budget_tokens is not None:
        return {"type": "enabled", "budget_tokens": thinking.budget_tokens}
    return {"type": "enabled"} if thinking.enabled else None


def _write_output(request: Request) -> JsonObject | None:
    config: JsonObject = {}
    effort = request.thinking.effort
    if effort is not None:
        if effort not in EFFORTS:
            raise Misfit(f"there is no effort {effort!r} here", "thinking", "effort")
        config["effort"] = effort
    wanted = request.response_format
    if wanted is not None:
        if wanted.kind != "json_schema":
            raise Misfit("only a JSON schema can be asked for, not any JSON", "response_format")
        # The format has no name, and is always strict; neither shapes the reply.
        config["format"] = {"type": "json_schema", "schema": wanted.schema}
    return config or None


def _refuse_sampling(sampling: Sampling) -> None:
    for name in ("seed", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) is not None:
            raise Misfit("Anthropic Messages has no such setting", "sampling", name)
    if sampling.n not in (None, 1):
        raise Misfit("Anthropic Messages gives one reply a call", "sampling", "n")


def _write_metadata(request: Request, body: JsonObject) -> None:
    metadata = dict(request.metadata)
    if "user_id" in metadata:
        raise Misfit("give the end user's id as `user`", "metadata", "user_id")
    if request.user is not None:
        metadata["user_id"] = request.user
    if metadata:
        body["metadata"] = metadata
