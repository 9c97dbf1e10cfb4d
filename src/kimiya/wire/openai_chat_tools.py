"""Tools and tool choice of Chat Completions, both ways.

A tool that is no function (``builtin_function`` such as Moonshot's ``$web_search``, ``custom``) is
kept verbatim in its spec's ``extras`` and written only by this dialect.
"""

from typing import assert_never, cast

from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    RequiredChoice,
    ToolChoice,
    ToolSpec,
)
from kimiya.core.messages import JsonValue
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    leftovers,
    optional,
    optional_object,
    required,
    required_object,
)
from kimiya.wire.openai_chat_parts import fill, read_cache, write_cache

_TOOL = frozenset({"type", "function", "cache_control"})
FUNCTION = frozenset({"name", "description", "parameters", "strict"})

_CHOICES: dict[str, ToolChoice] = {
    "auto": AutoChoice(),
    "none": NoChoice(),
    "required": RequiredChoice(),
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
    if kind != "function":
        return ToolSpec(_foreign_name(fields, kind), kind=kind, extras=fields)
    function = required_object(fields, "function")
    extras = leftovers(fields, _TOOL)
    unknown = leftovers(function, FUNCTION)
    try:
        return ToolSpec(
            name=required(function, "name", str),
            description=optional(function, "description", str),
            parameters=optional_object(function, "parameters"),
            strict=optional(function, "strict", bool),
            cache=read_cache(fields),
            extras={**extras, "function": unknown} if unknown else extras,
        )
    except Misfit as misfit:
        misfit.under("function")
        raise


def _foreign_name(fields: JsonObject, kind: str) -> str:
    for holder in (fields, fields.get("function"), fields.get(kind)):
        if isinstance(holder, dict):
            name = cast("JsonObject", holder).get("name")
            if isinstance(name, str) and name:
                return name
    return kind


def write_tools(
    tools: tuple[ToolSpec, ...], *, keeps_extras: bool, dialect: str
) -> list[JsonValue]:
    """Declared tools for a host.

    Raises:
        Misfit: A tool is of a kind that only ``dialect``, where the request came from, knows.
    """
    entries: list[JsonValue] = []
    for index, tool in enumerate(tools):
        if tool.kind == "function":
            entries.append(_write_tool(tool, keeps_extras))
        elif keeps_extras and tool.extras:
            entries.append(dict(tool.extras))
        else:
            raise foreign_tool(tool, dialect, index)
    return entries


def foreign_tool(tool: ToolSpec, dialect: str, index: int) -> Misfit:
    """A tool whose kind cannot be said here."""
    home = dialect or "its own host"
    return Misfit(
        f"the tool {tool.name!r} is of kind {tool.kind!r}, which only {home} knows",
        "tools",
        index,
        "type",
    )


def _write_tool(tool: ToolSpec, keeps_extras: bool) -> JsonObject:
    fields: JsonObject = {"type": "function", "function": function_fields(tool)}
    write_cache(fields, tool.cache)
    if keeps_extras and tool.extras:
        fill(fields, tool.extras)
    return fields


def function_fields(tool: ToolSpec) -> JsonObject:
    """Name, description, parameters and ``strict``, those that are there."""
    fields: JsonObject = {"name": tool.name}
    if tool.description is not None:
        fields["description"] = tool.description
    if tool.parameters is not None:
        fields["parameters"] = tool.parameters
    if tool.strict is not None:
        fields["strict"] = tool.strict
    return fields


def read_choice(value: JsonValue, *, nested: bool) -> ToolChoice | None:
    """``auto``, ``none``, ``required``, or a function; ``nested`` is Chat's form of the last."""
    if value is None:
        return None
    if isinstance(value, str) and value in _CHOICES:
        return _CHOICES[value]
    if isinstance(value, str):
        raise Misfit(f"is {value!r}, but must be auto, none, required or a function", "tool_choice")
    try:
        fields = as_object(value)
        if required(fields, "type", str) != "function":
            raise Misfit("must be function; nothing else can be chosen by name", "type")
        holder = required_object(fields, "function") if nested else fields
        return NamedChoice(required(holder, "name", str))
    except Misfit as misfit:
        misfit.under("tool_choice")
        raise


def write_choice(choice: ToolChoice, *, nested: bool) -> JsonValue:
    """Our choice in the wire's words."""
    match choice:
        case AutoChoice():
            return "auto"
        case NoChoice():
            return "none"
        case RequiredChoice():
            return "required"
        case NamedChoice():
            named = {"name": choice.name}
            return {"type": "function", **({"function": named} if nested else named)}
        case _:
            assert_never(choice)
