"""What belongs to another dialect: its fields, its tools, its content.

Fields nobody here understands are taken out and named. Content is never dropped: a part only
another dialect can write makes the call fail before it is sent. A field that holds nothing (null,
or an empty list or object, as SDKs echo them) leaves without a note.
"""

from typing import Any

from msgspec import structs

from kimiya.catalog.adaptation.draft import Draft
from kimiya.catalog.adaptation.mode import table_of
from kimiya.core.exchange import AutoChoice, NamedChoice, ToolSpec
from kimiya.core.messages import NO_EXTRAS, Message, Opaque, Part, Reasoning, ToolResult

_MOST_NAMES = 8
"""Names of dropped fields given in one note; a hostile request may hold thousands."""


def refuse_foreign_content(draft: Draft) -> None:
    """A part kept verbatim from another dialect cannot be said.

    Raises:
        InvalidRequest: Naming the part and its kind.
    """
    if Opaque not in draft.survey.kinds:
        return
    for path, part in _parts(draft.request.messages):
        if isinstance(part, Opaque) and part.dialect != draft.dialect:
            kind = str(table_of(part.block).get("type"))[:80]
            raise draft.refuse(
                f"{path} is a block of kind {kind!r}, which only {part.dialect} has;"
                f" {draft.label} cannot be given it. Send its content as text or as an image"
            )


def drop_foreign_fields(draft: Draft) -> None:
    """Extras of the dialect the request was read from, where another one will write it."""
    request = draft.request
    if request.dialect == draft.dialect:
        return
    dropped = [name for name, value in request.extras.items() if _says_something(value)]
    if request.extras:
        draft.change(extras=NO_EXTRAS)
    if draft.survey.has_extras:
        messages = tuple(
            _bare_message(message, f"messages[{index}]", dropped)
            for index, message in enumerate(draft.request.messages)
        )
        tools = tuple(_bare_tool(tool, index, dropped) for index, tool in enumerate(request.tools))
        draft.change(messages=messages, tools=tools)
    if dropped:
        names = ", ".join(dropped[:_MOST_NAMES])
        more = f" and {len(dropped) - _MOST_NAMES} more" if len(dropped) > _MOST_NAMES else ""
        source = request.dialect or "no dialect"
        draft.note(
            "extras_dropped",
            f"{names}{more}: read from {source}, not known to {draft.dialect or draft.card.host}",
        )


def drop_foreign_tools(draft: Draft) -> None:
    """Tools another host would have run itself; the model simply does not get them."""
    tools = draft.request.tools
    if not tools or all(tool.kind == "function" for tool in tools):
        return
    kept = tuple(tool for tool in tools if _is_known(tool, draft))
    if len(kept) == len(tools):
        return
    for index, tool in enumerate(tools):
        if tool not in kept:
            draft.note(
                "tool_dropped",
                f"{tool.name} ({tool.kind}) runs at another host; {draft.label} has no such tool",
                f"tools[{index}]",
            )
    draft.change(tools=kept)
    choice = draft.request.tool_choice
    if choice is not None and not kept:
        draft.change(tool_choice=None, parallel_tool_calls=None)
    elif isinstance(choice, NamedChoice) and all(tool.name != choice.name for tool in kept):
        draft.change(tool_choice=AutoChoice())
        draft.note("tool_choice_auto", f"the chosen tool {choice.name} was dropped", "tool_choice")


def _is_known(tool: ToolSpec, draft: Draft) -> bool:
    if tool.kind == "function":
        return True
    kinds = draft.card.tool_kinds
    return draft.request.dialect == draft.dialect and (kinds is None or tool.kind in kinds)


def _parts(messages: tuple[Message, ...]) -> list[tuple[str, Part]]:
    found: list[tuple[str, Part]] = []
    for m, message in enumerate(messages):
        for p, part in enumerate(message.parts):
            path = f"messages[{m}].parts[{p}]"
            found.append((path, part))
            if isinstance(part, ToolResult):
                found += [(f"{path}.content[{c}]", inner) for c, inner in enumerate(part.content)]
    return found


def _says_something(value: Any) -> bool:
    return value is not None and value != [] and value != {}


def _bare_message(message: Message, path: str, dropped: list[str]) -> Message:
    parts = tuple(
        _bare_part(part, f"{path}.parts[{index}]", dropped)
        for index, part in enumerate(message.parts)
    )
    dropped += [
        f"{path}.{name}" for name, value in message.extras.items() if _says_something(value)
    ]
    return structs.replace(message, parts=parts, extras=NO_EXTRAS)


def _bare_part(part: Part, path: str, dropped: list[str]) -> Part:
    if isinstance(part, Opaque):
        return part
    if isinstance(part, ToolResult):
        content: Any = tuple(
            _bare_part(inner, f"{path}.content[{index}]", dropped)
            for index, inner in enumerate(part.content)
        )
        part = structs.replace(part, content=content)
    if not part.extras:
        return part
    if not isinstance(part, Reasoning):
        # How a host labelled its reasoning means nothing to another; all else is named.
        dropped += [
            f"{path}.{name}" for name, value in part.extras.items() if _says_something(value)
        ]
    return structs.replace(part, extras=NO_EXTRAS)


def _bare_tool(tool: ToolSpec, index: int, dropped: list[str]) -> ToolSpec:
    if not tool.extras or tool.kind != "function":
        return tool  # a foreign tool is all extras; ``drop_foreign_tools`` decides about it
    dropped += [
        f"tools[{index}].{name}" for name, value in tool.extras.items() if _says_something(value)
    ]
    return structs.replace(tool, extras=NO_EXTRAS)
