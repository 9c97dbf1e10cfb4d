"""A request as the chat template of any GGUF takes it: system, user and assistant, in plain text.

Small models' templates know no tools. So the tools are described in the system message, calls of
the history stand in the text the model would have written them in, and results come back as the
user's. ``grammar_for`` holds new calls to that same text, and ``llama_cpp_reply`` reads it.

Reasoning of earlier turns is left out, as the chat templates of reasoning models do themselves.
"""

import json
from collections.abc import Mapping, Sequence
from typing import assert_never, cast

from msgspec import Struct

from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    ToolSpec,
)
from kimiya.core.messages import (
    Image,
    JsonValue,
    Message,
    Opaque,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Video,
)
from kimiya.errors import InvalidRequest
from kimiya.providers.gbnf import literal, unlike
from kimiya.providers.schema_grammar import Grammar

CALL_MARKER = "<tool_call>"
"""A reply is a call if and only if it begins with this."""
CALL_MIDDLE = ', "arguments": '
"""Between the name of a call and its arguments, which one ``}`` follows."""


class ChatLine(Struct, frozen=True):
    """One message as a chat template takes it."""

    role: str
    content: str


def call_text(name: str, arguments: str) -> str:
    """A call as the model writes it.

    >>> call_text("add", '{"a": 1}')
    '<tool_call>{"name": "add", "arguments": {"a": 1}}'
    """
    return f"{call_head(name)}{arguments or '{}'}}}"


def call_head(name: str) -> str:
    """The part of a call before its arguments."""
    return f'{CALL_MARKER}{{"name": {json.dumps(name, ensure_ascii=False)}{CALL_MIDDLE}'


def offered_tools(request: Request) -> tuple[ToolSpec, ...]:
    """The tools the model may call under the request's ``tool_choice``.

    Raises:
        InvalidRequest: The named tool is not declared, none is although one is required, or a tool
            is a host's own kind, which this engine has not.
    """
    for tool in request.tools:
        if tool.kind != "function":
            raise InvalidRequest(
                f"the embedded model has no tool of kind {tool.kind!r} ({tool.name!r}); "
                "leave it out or use a host that has it"
            )
    match request.tool_choice:
        case NoChoice():
            return ()
        case NamedChoice(name):
            found = tuple(tool for tool in request.tools if tool.name == name)
            if not found:
                raise InvalidRequest(f"tool_choice names {name!r}, which is not among the tools")
            return found
        case RequiredChoice():
            if not request.tools:
                raise InvalidRequest("tool_choice requires a call, but no tool is declared")
            return request.tools
        case AutoChoice() | None:
            return request.tools
        case _ as never:
            assert_never(never)


def chat_lines(request: Request, tools: Sequence[ToolSpec]) -> list[ChatLine]:
    """The conversation, with ``tools`` described in its system message.

    Raises:
        InvalidRequest: A message holds what the model cannot take, such as an image.
    """
    names = {call.call_id: call.name for message in request.messages for call in message.tool_calls}
    lines = [
        ChatLine(_ROLES[message.role], _content(message, f"messages[{place}]", names))
        for place, message in enumerate(request.messages)
    ]
    leading: list[str] = []
    while lines and lines[0].role == "system":
        leading.append(lines.pop(0).content)
    if tools:
        leading.append(_tools_text(tools, request))
    if leading:
        lines.insert(0, ChatLine("system", "\n\n".join(leading)))
    if not any(line.role != "system" for line in lines):
        raise InvalidRequest("messages: the embedded model needs a message to answer")
    return lines


_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
}


def grammar_for(request: Request, tools: Sequence[ToolSpec]) -> str | None:
    """What the reply is held to; ``None`` where it is free.

    A required or named choice allows one call and nothing else. Otherwise every text is allowed but
    one that begins with the marker: after that, only a whole call of a declared tool can follow.
    """
    grammar = Grammar(unlike(CALL_MARKER, "text"))
    calls = [
        " ".join((literal(call_head(tool.name)), grammar.schema(parameters, where), '"}"'))
        for tool in tools
        for parameters, where in [(_parameters(tool), f"tool {tool.name!r}")]
    ]
    if tools and isinstance(request.tool_choice, (RequiredChoice, NamedChoice)):
        return grammar.text(" | ".join(calls))
    shape = request.response_format
    if shape is None:
        return grammar.text(" | ".join([*calls, "text"])) if tools else None
    schema = shape.schema if shape.kind == "json_schema" else {"type": "object"}
    return grammar.text(" | ".join([*calls, grammar.schema(schema, "response_format")]))


def _parameters(tool: ToolSpec) -> JsonValue:
    if tool.parameters is None:
        return {"type": "object", "additionalProperties": False}
    given: JsonValue = tool.parameters
    if not isinstance(given, dict):
        raise InvalidRequest(f"tool {tool.name!r}: its parameters are not a JSON Schema object")
    return {**cast("dict[str, JsonValue]", given), "type": "object"}


def _tools_text(tools: Sequence[ToolSpec], request: Request) -> str:
    listed = "\n".join(
        json.dumps(
            {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.parameters,
            },
            ensure_ascii=False,
        )
        for tool in tools
    )
    example = call_text("NAME", '{"KEY": "VALUE"}')
    forced = isinstance(request.tool_choice, (RequiredChoice, NamedChoice))
    when = "Answer with one call, written" if forced else "When a tool is needed, answer only with"
    return f"You can call these tools, given as JSON:\n{listed}\n{when} {example}"


def _content(message: Message, where: str, names: Mapping[str, str]) -> str:
    pieces = [_piece(part, where, names) for part in message.parts]
    return "\n".join(piece for piece in pieces if piece)


def _piece(part: Part, where: str, names: Mapping[str, str]) -> str:
    match part:
        case Text(text):
            return text
        case Reasoning():
            return ""
        case ToolCall():
            return call_text(part.name, part.arguments)
        case ToolResult():
            body = "\n".join(_piece(piece, where, names) for piece in part.content)
            name = part.name or names.get(part.call_id, part.call_id)
            return f"{name} {'failed' if part.is_error else 'gave'}: {body}"
        case Image() | Video() | Opaque():
            raise InvalidRequest(
                f"{where}: the embedded model reads text only, not {type(part).__name__.lower()}; "
                "send this to a model with vision"
            )
        case _ as never:
            assert_never(never)
