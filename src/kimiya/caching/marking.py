"""Breakpoints written into a request; nothing else of it changes.

A system text with a volatile word is sent as two texts where a breakpoint stands before the word:
the same characters, cut at a place that does not move with the word.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from kimiya.caching.prefix import Block
from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import Breakpoint, CacheTtl, Message, Part, Reasoning, Text

DEFAULT = Breakpoint()
"""Five minutes, said the way every host understands."""
_HOUR = Breakpoint("1h")


def with_marks(
    request: Request, blocks: Mapping[int, Block], ttls: Mapping[int, CacheTtl]
) -> Request:
    """``request`` with a breakpoint behind each block.

    Args:
        request: What the blocks were read from.
        blocks: By any name; none has a mark of the client's.
        ttls: Lifetime by the same name.
    """
    tools: list[ToolSpec] | None = None
    parts_of: dict[int, list[tuple[Block, Breakpoint]]] = {}
    for name, block in blocks.items():
        mark = _HOUR if ttls[name] == "1h" else DEFAULT
        if block.place == "tools":
            tools = tools if tools is not None else list(request.tools)
            tools[block.index] = replace(tools[block.index], cache=mark)
        else:
            parts_of.setdefault(block.index, []).append((block, mark))
    messages = request.messages
    if parts_of:
        changed = list(messages)
        for index, marks in parts_of.items():
            changed[index] = _marked(changed[index], marks)
        messages = tuple(changed)
    return replace(
        request, messages=messages, tools=request.tools if tools is None else tuple(tools)
    )


def _marked(message: Message, marks: list[tuple[Block, Breakpoint]]) -> Message:
    parts: list[Part] = list(message.parts)
    # From the back: a split makes the list longer.
    for block, mark in sorted(marks, key=_depth, reverse=True):
        part = parts[block.part]
        if block.cut is not None and isinstance(part, Text):
            head, tail = part.text[: block.cut], part.text[block.cut :]
            parts[block.part : block.part + 1] = [
                Text(head, mark),
                replace(part, text=tail),
            ]
        elif not isinstance(part, Reasoning):
            parts[block.part] = replace(part, cache=mark)
    return replace(message, parts=tuple(parts))


def _depth(item: tuple[Block, Breakpoint]) -> tuple[int, bool]:
    return (item[0].part, item[0].cut is None)
