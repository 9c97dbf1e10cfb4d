"""A whole request of Chat Completions, both ways."""

from kimiya.core.exchange import Request, ResponseFormat
from kimiya.core.messages import NO_EXTRAS, Extras
from kimiya.wire.dialect import WireOptions
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    leftovers,
    optional,
    optional_list,
    optional_object,
    required,
    required_list,
)
from kimiya.wire.openai_chat_messages import read_messages, write_messages
from kimiya.wire.openai_chat_parts import CHAT, fill
from kimiya.wire.openai_chat_settings import (
    SAMPLING,
    SWITCHES,
    format_fields,
    read_effort,
    read_format,
    read_metadata,
    read_sampling,
    read_thinking,
    write_sampling,
    write_thinking,
)
from kimiya.wire.openai_chat_tools import read_choice, read_tools, write_choice, write_tools

_KNOWN = (
    SAMPLING
    | SWITCHES
    | {
        "model",
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "max_tokens",
        "max_completion_tokens",
        "reasoning_effort",
        "response_format",
        "stream",
        "stream_options",
        "user",
        "metadata",
    }
)

_LEGACY = {"functions": "tools", "function_call": "tool_choice"}


def read_request(fields: JsonObject, model: str | None, stream: bool | None) -> Request:
    """A client's request. ``Misfit`` carries the path of what cannot be read."""
    for legacy, modern in _LEGACY.items():
        if fields.get(legacy) is not None:
            raise Misfit(f"is no longer part of the API; use {modern}", legacy)
    thinking, kept = read_thinking(fields, read_effort(fields, "reasoning_effort"))
    streams = bool(optional(fields, "stream", bool)) if stream is None else stream
    usage_wanted = _read_stream_options(fields, kept)
    shape = fields.get("response_format")
    if shape is not None:
        shape = _read_shape(fields, kept)
    return Request(
        model=model or _model(fields),
        messages=read_messages(required_list(fields, "messages")),
        tools=read_tools(optional_list(fields, "tools")),
        tool_choice=read_choice(fields.get("tool_choice"), nested=True),
        parallel_tool_calls=optional(fields, "parallel_tool_calls", bool),
        sampling=read_sampling(fields, _max_output(fields)),
        thinking=thinking,
        response_format=shape,
        stream=streams,
        stream_usage=usage_wanted or not streams,
        user=optional(fields, "user", str),
        metadata=read_metadata(fields),
        dialect=CHAT,
        extras=_extras(fields, kept),
    )


def _model(fields: JsonObject) -> str:
    model = required(fields, "model", str)
    if not model:
        raise Misfit("is empty; name a model (`GET /v1/models` lists them)", "model")
    return model


def _max_output(fields: JsonObject) -> int | None:
    newer = optional(fields, "max_completion_tokens", int)
    older = optional(fields, "max_tokens", int)
    return older if newer is None else newer


def _read_stream_options(fields: JsonObject, kept: JsonObject) -> bool:
    options = optional_object(fields, "stream_options")
    if options is None:
        return False
    if rest := leftovers(options, frozenset({"include_usage"})):
        kept["stream_options"] = rest
    try:
        return bool(optional(options, "include_usage", bool))
    except Misfit as misfit:
        misfit.under("stream_options")
        raise


def _read_shape(fields: JsonObject, kept: JsonObject) -> ResponseFormat | None:
    shape = optional_object(fields, "response_format") or {}
    try:
        return read_format(shape, "json_schema")
    except KeyError:
        kept["response_format"] = shape
        return None
    except Misfit as misfit:
        misfit.under("response_format")
        raise


def _extras(fields: JsonObject, kept: JsonObject) -> Extras:
    rest = leftovers(fields, _KNOWN)
    return {**rest, **kept} if kept else rest or NO_EXTRAS


def write_request(request: Request, options: WireOptions) -> JsonObject:
    """A request for a host. ``Misfit`` carries the path of what cannot be said."""
    keeps_extras = request.dialect in ("", CHAT)
    body: JsonObject = {
        "model": request.model,
        "messages": write_messages(
            request.messages, options.reasoning_field, keeps_extras=keeps_extras
        ),
    }
    if request.tools:
        body["tools"] = write_tools(
            request.tools, keeps_extras=keeps_extras, dialect=request.dialect
        )
    if request.tool_choice is not None:
        body["tool_choice"] = write_choice(request.tool_choice, nested=True)
    _write_settings(body, request, options)
    if request.stream:
        body["stream"] = True
        if request.stream_usage and options.includes_stream_usage:
            body["stream_options"] = {"include_usage": True}
    if keeps_extras and request.extras:
        fill(body, request.extras)
    return body


def _write_settings(body: JsonObject, request: Request, options: WireOptions) -> None:
    sampling, shape = request.sampling, request.response_format
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    write_sampling(body, sampling)
    if sampling.max_output_tokens is not None:
        body[options.max_tokens_field] = sampling.max_output_tokens
    write_thinking(body, request.thinking)
    if request.thinking.effort is not None:
        body["reasoning_effort"] = request.thinking.effort
    if shape is not None:
        written: JsonObject = {"type": shape.kind}
        if shape.kind == "json_schema":
            written["json_schema"] = format_fields(shape)
        body["response_format"] = written
    if request.user is not None:
        body["user"] = request.user
    if request.metadata:
        body["metadata"] = dict(request.metadata)
