"""Request bodies of Anthropic Messages, written for a host.

What of a known object (``thinking``, ``output_config``, ``tool_choice``) was read without a value
of ours stands in ``Request.extras`` under that object's name, and joins it again here.
"""

from typing import Any, assert_never

from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    Sampling,
    ToolSpec,
)
from kimiya.core.messages import JsonValue, Opaque, Part, Text
from kimiya.wire.anthropic_messages_blocks import NAME, write_cache, write_content
from kimiya.wire.anthropic_messages_requests import EFFORTS
from kimiya.wire.anthropic_messages_thinking import write_thinking
from kimiya.wire.json_fields import JsonObject, Misfit, write_json
from kimiya.wire.tool_rounds import WireTurn, leading_system, wire_turns


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
