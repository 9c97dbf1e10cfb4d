"""Requests given one spelling, so that the same tools always make the same prefix.

Safe in that nothing is lost or added: tools stand in the order of their names, the keys of their
schemas in alphabetical order. Off unless asked for, because a model may read order as emphasis.
"""

import operator
from collections.abc import Sequence
from typing import cast

from msgspec import Struct
from msgspec.structs import replace

from kimiya.core.exchange import Adjustment, Request, ToolSpec
from kimiya.core.messages import JsonValue


class Mended(Struct, frozen=True):
    """A request in one spelling, and what was changed for it."""

    request: Request
    adjustments: tuple[Adjustment, ...] = ()


def mend(request: Request) -> Mended:
    """Sort tools and the keys of their schemas; the same object where all is sorted.

    Tools of which one is marked by the client stay in their order: a mark means the tools before
    it. Mending a mended request changes nothing.
    """
    notes: list[Adjustment] = []
    tools = tuple(map(_sorted_keys, request.tools))
    if any(a is not b for a, b in zip(tools, request.tools, strict=True)):
        notes.append(
            Adjustment("schema_keys_sorted", "keys of tool schemas, in alphabetical order", "tools")
        )
    if not any(tool.cache for tool in tools):
        ordered = tuple(sorted(tools, key=lambda tool: tool.name))
        if [tool.name for tool in ordered] != [tool.name for tool in tools]:
            tools = ordered
            notes.append(Adjustment("tools_sorted", f"{len(tools)} tools, by name", "tools"))
    if not notes:
        return Mended(request)
    return Mended(replace(request, tools=tools), tuple(notes))


def _sorted_keys(tool: ToolSpec) -> ToolSpec:
    parameters = _ordered(tool.parameters)
    return tool if parameters is tool.parameters else replace(tool, parameters=parameters)


def _ordered(value: JsonValue) -> JsonValue:
    """``value`` with sorted keys throughout; the very same where they are sorted already."""
    if isinstance(value, dict):
        fields = cast("dict[str, JsonValue]", value)
        inner = {key: _ordered(fields[key]) for key in sorted(fields)}
        same = list(inner) == list(fields) and all(inner[key] is fields[key] for key in inner)
        return fields if same else inner
    if isinstance(value, list | tuple):
        items = cast("Sequence[JsonValue]", value)
        ordered = [_ordered(item) for item in items]
        return items if all(map(operator.is_, ordered, items)) else ordered
    return value
