"""Request bodies of Bedrock Converse, written for a host."""

import re
from typing import assert_never
from urllib.parse import quote

import msgspec

from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    Sampling,
    ToolChoice,
    ToolSpec,
)
from kimiya.core.messages import Opaque, Text
from kimiya.wire.anthropic_messages_thinking import write_thinking
from kimiya.wire.bedrock_converse_blocks import NAME, write_cache_point, write_content
from kimiya.wire.bedrock_converse_requests import USER_KEY
from kimiya.wire.json_fields import JsonObject, Misfit, as_object, write_json
from kimiya.wire.tool_rounds import WireTurn, leading_system, wire_turns

_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{0,256}")
"""What keys and values of ``requestMetadata`` may hold."""


def write_path(model: str, operation: str) -> str:
    """The path of a call; every byte of the id that is not unreserved is escaped, slashes too.

    >>> write_path("arn:aws:bedrock:us-east-1:1:application-inference-profile/a", "converse")
    '/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fa/converse'
    """
    return f"/model/{quote(model, safe='')}/{operation}"


def write_request(request: Request) -> bytes:
    """A request as a host's body.

    Raises:
        Misfit: It says what Converse cannot.
    """
    own = request.dialect == NAME
    extras: JsonObject = dict(request.extras) if own else {}
    body = write_prompt(request)
    joined = {
        "inferenceConfig": _write_inference(request.sampling),
        "additionalModelRequestFields": _write_additional(request, extras),
        "outputConfig": _write_output(request),
        "requestMetadata": _write_metadata(request),
        "toolConfig": body.get("toolConfig", {}),
    }
    for name, value in joined.items():
        rest = extras.get(name)
        if isinstance(rest, dict):
            value = {**value, **as_object(rest)}
            del extras[name]
        if value:
            body[name] = value
    body.update(extras)
    return write_json(body)


def write_prompt(request: Request) -> JsonObject:
    """What a token count takes too: messages, system and tools.

    Raises:
        Misfit: It says what Converse cannot.
    """
    own = request.dialect == NAME
    start = leading_system(request.messages)
    system = [part for message in request.messages[:start] for part in message.parts]
    for part in system:
        if not isinstance(part, Text | Opaque):
            raise Misfit(f"a system prompt cannot hold a {type(part).__name__}", "system")
    turns = wire_turns(request.messages, start)
    body: JsonObject = {"messages": [_write_turn(turn, own) for turn in turns]}
    if system:
        body["system"] = write_content(system, own)
    tools = _write_tools(request, own)
    if tools:
        body["toolConfig"] = tools
    return body


def _write_turn(turn: WireTurn, own: bool) -> JsonObject:
    try:
        if turn.role not in ("user", "assistant", "system"):
            raise Misfit(f"Converse has no {turn.role} messages once begun", "role")
        if turn.name is not None:
            raise Misfit("messages have no name here; put it into the text", "name")
        message: JsonObject = {"role": turn.role, "content": write_content(turn.parts, own)}
    except Misfit as misfit:
        misfit.under("messages", turn.index)
        raise
    return {**message, **turn.extras} if own else message


def _write_tools(request: Request, own: bool) -> JsonObject:
    entries: list[JsonObject] = []
    for tool in request.tools:
        entries.append(_write_tool(tool, own))
        if tool.cache is not None:
            entries.append(write_cache_point(tool.cache))
    config: JsonObject = {"tools": entries} if entries else {}
    if request.tool_choice is not None:
        config["toolChoice"] = _write_choice(request.tool_choice)
    if request.parallel_tool_calls is False and entries:
        raise Misfit("Converse cannot forbid parallel calls", "parallel_tool_calls")
    return config


def _write_tool(tool: ToolSpec, own: bool) -> JsonObject:
    if tool.kind != "function":
        if not own:
            raise Misfit(f"tool {tool.name!r} is of another host's kind ({tool.kind})", "tools")
        return dict(tool.extras)
    spec: JsonObject = {"name": tool.name}
    if tool.description is not None:
        spec["description"] = tool.description
    empty: JsonObject = {"type": "object", "properties": {}}
    spec["inputSchema"] = {"json": empty if tool.parameters is None else tool.parameters}
    if tool.strict is not None:
        spec["strict"] = tool.strict
    return {"toolSpec": {**spec, **tool.extras} if own else spec}


def _write_choice(choice: ToolChoice) -> JsonObject:
    match choice:
        case AutoChoice():
            return {"auto": {}}
        case RequiredChoice():
            return {"any": {}}
        case NamedChoice(name=name):
            return {"tool": {"name": name}}
        case NoChoice():
            raise Misfit("Converse cannot forbid calls; leave the tools out", "tool_choice")
        case _:
            assert_never(choice)


def _write_inference(sampling: Sampling) -> JsonObject:
    for name in ("seed", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) is not None:
            raise Misfit("Converse has no such setting", "sampling", name)
    if sampling.n not in (None, 1):
        raise Misfit("Converse gives one reply a call", "sampling", "n")
    values = {
        "maxTokens": sampling.max_output_tokens,
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "stopSequences": sampling.stop or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _write_additional(request: Request, extras: JsonObject) -> JsonObject:
    """Claude's own fields; members that were kept of ``thinking`` join it."""
    rest = extras.pop("additionalModelRequestFields", None)
    if rest is not None and not isinstance(rest, dict):
        extras["additionalModelRequestFields"] = rest
        return {}
    fields: JsonObject = dict(rest or {})  # pyright: ignore[reportUnknownArgumentType]
    thinking = write_thinking(request.thinking)
    if thinking is not None:
        kept = fields.get("thinking")
        fields["thinking"] = {**thinking, **(kept if isinstance(kept, dict) else {})}
    if request.sampling.top_k is not None:
        fields["top_k"] = request.sampling.top_k
    return fields


def _write_output(request: Request) -> JsonObject:
    config: JsonObject = {}
    if request.thinking.effort is not None:
        config["effort"] = request.thinking.effort
    wanted = request.response_format
    if wanted is not None:
        if wanted.kind != "json_schema":
            raise Misfit("only a JSON schema can be asked for, not any JSON", "response_format")
        # Always strict here, so whether the caller asked for it makes no difference.
        schema: JsonObject = {"schema": msgspec.json.encode(wanted.schema).decode()}
        for name in ("name", "description"):
            if getattr(wanted, name) is not None:
                schema[name] = getattr(wanted, name)
        config["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}
    return config


def _write_metadata(request: Request) -> JsonObject:
    metadata = dict(request.metadata)
    if request.user is not None:
        if USER_KEY in metadata:
            raise Misfit("the end user's id is given twice", "metadata", USER_KEY)
        metadata[USER_KEY] = request.user
    for key, value in metadata.items():
        if not (isinstance(value, str) and _METADATA.fullmatch(value) and _METADATA.fullmatch(key)):
            raise Misfit(
                "Converse takes metadata of at most 256 letters, digits, spaces and :_@$#=/+,.-",
                "user" if key == USER_KEY else f"metadata.{key}",
            )
    return metadata
