"""Messages of tool results, for wires that put results into the user's own message.

Ours stand apart: ``Message("tool", results)`` and then ``Message("user", rest)``. Splitting puts
the results first, as hosts demand, whatever order the client wrote them in, and two rounds of
results never stand side by side.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from kimiya.core.messages import Extras, Message, Part, ToolResult


def add_user_turn(messages: list[Message], parts: Sequence[Part], extras: Extras) -> None:
    """Append a wire's user message, split into results and the rest."""
    if ToolResult not in map(type, parts):
        messages.append(Message("user", tuple(parts), extras=extras))
        return
    results = tuple(part for part in parts if isinstance(part, ToolResult))
    rest = tuple(part for part in parts if not isinstance(part, ToolResult))
    own_extras: Extras = {} if rest else extras
    before = messages[-1] if messages else None
    if before is not None and before.role == "tool":
        messages[-1] = replace(
            before, parts=before.parts + results, extras={**before.extras, **own_extras}
        )
    else:
        messages.append(Message("tool", results, extras=own_extras))
    if rest:
        messages.append(Message("user", rest, extras=extras))


class WireTurn(Struct, frozen=True):
    """One message as these wires count them."""

    index: int
    """Where it begins among our messages, for error paths."""
    role: str
    parts: tuple[Part, ...]
    extras: Extras
    name: str | None = None


def wire_turns(messages: Sequence[Message], start: int) -> Iterator[WireTurn]:
    """Our messages from ``start`` on, results joined with the user message right after them."""
    index = start
    while index < len(messages):
        message = messages[index]
        follower = messages[index + 1] if index + 1 < len(messages) else None
        if message.role == "tool" and follower is not None and follower.role == "user":
            extras = {**message.extras, **follower.extras}
            parts = message.parts + follower.parts
            yield WireTurn(index, "user", parts, extras, message.name or follower.name)
            index += 2
        else:
            role = "user" if message.role == "tool" else message.role
            yield WireTurn(index, role, message.parts, message.extras, message.name)
            index += 1


def leading_system(messages: Sequence[Message]) -> int:
    """How many messages stand before the conversation proper."""
    for index, message in enumerate(messages):
        if message.role not in ("system", "developer"):
            return index
    return len(messages)
