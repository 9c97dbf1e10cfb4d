"""A whole request of the Responses API, both ways.

Nothing is stored between calls, so ``previous_response_id`` and its like are refused with the
remedy. Settings this API has no word for (``stop``, ``seed``, ``top_k``, penalties, the thinking
switch) are spelt as in Chat Completions, which is what open hosts read.
"""

from typing import cast

from kimiya.core.exchange import Effort, Request, ResponseFormat
from kimiya.core.messages import NO_EXTRAS, Extras, JsonValue, Message, Text
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    kind_of,
    leftovers,
    optional,
    optional_list,
    optional_object,
    required,
)
from kimiya.wire.openai_chat_parts import fill
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
from kimiya.wire.openai_chat_tools import read_choice, write_choice
from kimiya.wire.openai_responses_history import write_items
from kimiya.wire.openai_responses_items import RESPONSES, read_items
from kimiya.wire.openai_responses_tools import read_tools, write_tools

_KNOWN = (
    SAMPLING
    | SWITCHES
    | {
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "max_output_tokens",
        "reasoning",
        "text",
        "stream",
        "user",
        "metadata",
        "previous_response_id",
        "conversation",
        "prompt",
        "background",
        "store",
    }
)

_KNOWN_BUT_STORE = _KNOWN - {"store"}
"""``store: false`` is what happens anyway; anything else is for the host to hear."""

_STATEFUL = {
    "previous_response_id": "replies are not stored; send the whole input again with store=false",
    "conversation": "conversations are not stored; send the whole input with store=false",
    "prompt": "stored prompts are not known here; send instructions and input",
    "background": "calls are answered at once; leave it out, or stream",
}


def read_request(fields: JsonObject, model: str | None, stream: bool | None) -> Request:
    """A client's request. ``Misfit`` carries the path of what cannot be read."""
    for key, remedy in _STATEFUL.items():
        if fields.get(key):
            raise Misfit(f"is not supported: {remedy}", key)
    kept: JsonObject = {}
    effort = _read_reasoning(fields, kept)
    thinking, switches = read_thinking(fields, effort)
    kept.update(switches)
    shape = _read_text(fields, kept)
    streams = bool(optional(fields, "stream", bool)) if stream is None else stream
    rest = leftovers(fields, _KNOWN if fields.get("store") is False else _KNOWN_BUT_STORE)
    return Request(
        model=model or _model(fields),
        messages=_read_input(fields),
        tools=read_tools(optional_list(fields, "tools")),
        tool_choice=read_choice(fields.get("tool_choice"), nested=False),
        parallel_tool_calls=optional(fields, "parallel_tool_calls", bool),
        sampling=read_sampling(fields, optional(fields, "max_output_tokens", int)),
        thinking=thinking,
        response_format=shape,
        stream=streams,
        user=optional(fields, "user", str),
        metadata=read_metadata(fields),
        dialect=RESPONSES,
        extras={**rest, **kept} if kept else rest or NO_EXTRAS,
    )


def _model(fields: JsonObject) -> str:
    model = required(fields, "model", str)
    if not model:
        raise Misfit("is empty; name a model (`GET /v1/models` lists them)", "model")
    return model


def _read_input(fields: JsonObject) -> tuple[Message, ...]:
    messages: list[Message] = []
    instructions = optional(fields, "instructions", str)
    if instructions is not None:
        messages.append(Message("system", (Text(instructions),)))
    given = fields.get("input")
    if isinstance(given, str):
        messages.append(Message("user", (Text(given),)))
    elif isinstance(given, list):
        messages += read_items(cast("list[JsonValue]", given))
    else:
        raise Misfit(f"must be a string or a list of items, not {kind_of(given)}", "input")
    return tuple(messages)


def _read_reasoning(fields: JsonObject, kept: JsonObject) -> Effort | None:
    reasoning = optional_object(fields, "reasoning")
    if reasoning is None:
        return None
    if rest := leftovers(reasoning, frozenset({"effort"})):
        kept["reasoning"] = rest
    try:
        return read_effort(reasoning, "effort")
    except Misfit as misfit:
        misfit.under("reasoning")
        raise


def _read_text(fields: JsonObject, kept: JsonObject) -> ResponseFormat | None:
    text = optional_object(fields, "text")
    if text is None:
        return None
    rest: Extras = leftovers(text, frozenset({"format"}))
    try:
        shape = optional_object(text, "format")
        try:
            return None if shape is None else read_format(shape, None)
        except KeyError:
            rest = {**rest, "format": shape}
            return None
        except Misfit as misfit:
            misfit.under("format")
            raise
    except Misfit as misfit:
        misfit.under("text")
        raise
    finally:
        if rest:
            kept["text"] = rest


def write_request(request: Request) -> JsonObject:
    """A request for a host. ``Misfit`` carries the path of what cannot be said."""
    keeps_extras = request.dialect in ("", RESPONSES)
    messages = request.messages
    body: JsonObject = {"model": request.model}
    start = 0
    if messages and _is_instructions(messages[0]):
        body["instructions"] = messages[0].text
        start = 1
    body["input"] = write_items(messages, start, keeps_extras=keeps_extras)
    if request.tools:
        body["tools"] = write_tools(
            request.tools, keeps_extras=keeps_extras, dialect=request.dialect
        )
    if request.tool_choice is not None:
        body["tool_choice"] = write_choice(request.tool_choice, nested=False)
    _write_settings(body, request)
    if keeps_extras and request.extras:
        fill(body, request.extras)
    # Stated, because the API's own default is to keep the reply.
    body.setdefault("store", False)
    return body


def _is_instructions(message: Message) -> bool:
    if message.role != "system" or len(message.parts) != 1 or message.extras or message.name:
        return False
    part = message.parts[0]
    return isinstance(part, Text) and part.cache is None and not part.extras


def _write_settings(body: JsonObject, request: Request) -> None:
    sampling, shape = request.sampling, request.response_format
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    write_sampling(body, sampling)
    if sampling.max_output_tokens is not None:
        body["max_output_tokens"] = sampling.max_output_tokens
    write_thinking(body, request.thinking)
    if request.thinking.effort is not None:
        body["reasoning"] = {"effort": request.thinking.effort}
    if shape is not None:
        body["text"] = {"format": {"type": shape.kind, **format_fields(shape)}}
    if request.stream:
        body["stream"] = True
    if request.user is not None:
        body["user"] = request.user
    if request.metadata:
        body["metadata"] = dict(request.metadata)
