"""Tools of the Responses API, both ways.

Functions are flat here. A ``custom`` tool takes free text, perhaps of a grammar: it is read as a
function with one string ``input``, its definition kept in ``extras``, so that any host can be
offered it. Every other kind (``web_search``, ``namespace``, ``mcp``) stays verbatim in ``extras``
and only this dialect writes it.
"""

from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import JsonValue
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    leftovers,
    optional,
    optional_object,
    required,
)
from kimiya.wire.openai_chat_parts import fill, read_cache, write_cache
from kimiya.wire.openai_chat_tools import FUNCTION, foreign_tool, function_fields

_TOOL = FUNCTION | {"type", "cache_control"}

_FREE_TEXT: JsonObject = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def read_tools(values: list[JsonValue]) -> tuple[ToolSpec, ...]:
    """Declared tools."""
    tools: list[ToolSpec] = []
    for index, value in enumerate(values):
        try:
            tools.append(_read_tool(as_object(value)))
        except Misfit as misfit:
            misfit.under("tools", index)
            raise
    return tuple(tools)


def _read_tool(fields: JsonObject) -> ToolSpec:
    kind = required(fields, "type", str)
    if kind == "custom":
        description = optional(fields, "description", str)
        return ToolSpec(required(fields, "name", str), description, _FREE_TEXT, extras=fields)
    if kind != "function":
        return ToolSpec(optional(fields, "name", str) or kind, kind=kind, extras=fields)
    return ToolSpec(
        name=required(fields, "name", str),
        description=optional(fields, "description", str),
        parameters=optional_object(fields, "parameters"),
        strict=optional(fields, "strict", bool),
        cache=read_cache(fields),
        extras=leftovers(fields, _TOOL),
    )


def custom_names(request: Request) -> frozenset[str]:
    """Tools the client declared as taking free text."""
    return frozenset(tool.name for tool in request.tools if tool.extras.get("type") == "custom")


def write_tools(
    tools: tuple[ToolSpec, ...], *, keeps_extras: bool, dialect: str
) -> list[JsonValue]:
    """Declared tools for a host, or for the echo in a reply.

    Raises:
        Misfit: A tool is of a kind that only ``dialect``, where the request came from, knows.
    """
    entries: list[JsonValue] = []
    for index, tool in enumerate(tools):
        if keeps_extras and "type" in tool.extras:
            entries.append(dict(tool.extras))
        elif tool.kind == "function":
            fields: JsonObject = {"type": "function", **function_fields(tool)}
            write_cache(fields, tool.cache)
            if keeps_extras:
                fill(fields, tool.extras)
            entries.append(fields)
        else:
            raise foreign_tool(tool, dialect, index)
    return entries
