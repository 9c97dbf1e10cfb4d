"""The messages themselves: roles, reasoning and emptiness as this host takes them.

No visible word is lost here: messages are merged, moved or turned, empty ones that say nothing are
left out, and reasoning a host would refuse stays behind, each with a note.
"""

from collections.abc import Callable

from msgspec import structs

from kimiya.catalog.adaptation.draft import Draft
from kimiya.core.messages import (
    Image,
    Message,
    Part,
    Reasoning,
    ResultPart,
    Text,
    ToolResult,
    Video,
)

_SYSTEM_FIRST = frozenset({"anthropic_messages", "bedrock_converse"})
"""Dialects in which instructions stand only before the conversation."""

_NO_OUTPUT = "(no output)"
"""Stands for the empty result of a tool at hosts that refuse empty content."""


def turn_late_system(draft: Draft) -> None:
    """Instructions in the middle become the user's words, where they stood."""
    if not draft.survey.has_late_system or draft.dialect not in _SYSTEM_FIRST:
        return
    out: list[Message] = []
    has_begun = False
    for index, message in enumerate(draft.request.messages):
        if message.role not in ("system", "developer"):
            has_begun = True
        elif has_begun:
            draft.note(
                "system_to_user",
                f"{draft.dialect} has {message.role} messages only at the start; it is sent as the"
                " user's",
                f"messages[{index}]",
            )
            message = structs.replace(message, role="user")
        out.append(message)
    draft.change(messages=tuple(out))


def rename_developer(draft: Draft) -> None:
    """``developer`` is ``system`` to models that were not taught the word."""
    roles = draft.survey.roles
    if "developer" not in roles or "no_developer_role" not in draft.card.quirks:
        return
    if draft.dialect in _SYSTEM_FIRST:
        return  # both roles become the same field there
    draft.change(
        messages=tuple(
            structs.replace(m, role="system") if m.role == "developer" else m
            for m in draft.request.messages
        )
    )
    draft.note("developer_to_system", f"{draft.label} knows no developer role", "messages")


def drop_reasoning(draft: Draft) -> None:
    """Reasoning that this host would refuse: any, unsigned, or signed by another."""
    if Reasoning not in draft.survey.kinds:
        return
    fits = _fitting_reasoning(draft)
    count = 0
    out: list[Message] = []
    for message in draft.request.messages:
        kept: list[Part] = []
        for part in message.parts:
            if isinstance(part, Reasoning):
                kept_part = fits(part)
                count += kept_part is not part
                if kept_part is None:
                    continue
                part = kept_part
            kept.append(part)
        same = len(kept) == len(message.parts) and all(
            a is b for a, b in zip(kept, message.parts, strict=True)
        )
        if kept or not message.parts:
            out.append(message if same else structs.replace(message, parts=tuple(kept)))
    if count:
        draft.change(messages=tuple(out))
        draft.note("reasoning_dropped", f"{count} part(s): {_why(draft)}", "messages")


def _fitting_reasoning(draft: Draft) -> Callable[[Reasoning], Reasoning | None]:
    """A function from a part to what may be sent of it; ``None`` where nothing may."""
    card = draft.card
    if card.reasoning_replay == "refused":
        return _nothing
    if card.reasoning_replay == "signed":
        return _signed
    if draft.dialect in ("openai_chat", "openai_responses"):
        if card.reasoning_field is None:
            return _nothing
        if card.reasoning_field != "reasoning_details" and draft.dialect == "openai_chat":
            return _unsigned
    return _all


def _nothing(part: Reasoning) -> Reasoning | None:
    return None


def _all(part: Reasoning) -> Reasoning | None:
    return part


def _signed(part: Reasoning) -> Reasoning | None:
    return part if part.signature or part.redacted else None


def _unsigned(part: Reasoning) -> Reasoning | None:
    """The readable text; a signature proves something only to the host that made it."""
    if part.signature is None and part.redacted is None:
        return part
    return Reasoning(part.text, extras=part.extras) if part.text else None


def _why(draft: Draft) -> str:
    if draft.card.reasoning_replay == "signed":
        return f"{draft.label} takes back only reasoning it signed itself"
    if draft.card.reasoning_replay == "refused" or draft.card.reasoning_field is None:
        return f"{draft.label} takes no reasoning back"
    return f"{draft.label} has no room for signatures and encrypted reasoning of another host"


def move_media(draft: Draft) -> None:
    """Pictures inside tool results stand in a user message after them, where a host wants that."""
    if not draft.survey.result_kinds & {Image, Video}:
        return
    if "no_media_in_tool_results" not in draft.card.quirks:
        return
    out: list[Message] = []
    for index, message in enumerate(draft.request.messages):
        moved: list[Part] = []
        parts = tuple(
            _without_media(part, moved) if isinstance(part, ToolResult) else part
            for part in message.parts
        )
        if not moved:
            out.append(message)
            continue
        out += [structs.replace(message, parts=parts), Message("user", tuple(moved))]
        draft.note(
            "media_moved",
            f"{draft.label} takes no media inside a tool result; it follows as the user's",
            f"messages[{index}]",
        )
    draft.change(messages=tuple(out))
    draft.survey.has_neighbours = True


def _without_media(result: ToolResult, moved: list[Part]) -> ToolResult:
    kept: list[ResultPart] = []
    for part in result.content:
        if isinstance(part, Image | Video):
            moved += [Text(f"From the result of {result.call_id}:"), part]
        else:
            kept.append(part)
    if len(kept) == len(result.content):
        return result
    return structs.replace(result, content=tuple(kept) or (Text("(see below)"),))


def drop_blanks(draft: Draft) -> None:
    """Content of nothing but space, at hosts that refuse it.

    Raises:
        InvalidRequest: Nothing is left to say.
    """
    if not draft.survey.has_blank or "empty_content_refused" not in draft.card.quirks:
        return
    out: list[Message] = []
    for index, message in enumerate(draft.request.messages):
        parts = tuple(
            _filled_result(part) if isinstance(part, ToolResult) else part
            for part in message.parts
            if not (isinstance(part, Text) and _is_blank(part))
        )
        if parts == message.parts and parts:
            out.append(message)
            continue
        path = f"messages[{index}]"
        if parts:
            out.append(structs.replace(message, parts=parts))
            draft.note("blank_dropped", "content of nothing but space", path)
        else:
            draft.survey.has_neighbours = True
            draft.note("empty_message_dropped", f"a {message.role} message that says nothing", path)
    if not any(message.role in ("user", "tool") for message in out):
        raise draft.refuse(
            f"{draft.label} refuses empty content, and nothing the user said is left. Send text"
        )
    draft.change(messages=tuple(out))


def _is_blank(part: Text) -> bool:
    return not part.text or part.text.isspace()


def _filled_result(result: ToolResult) -> ToolResult:
    kept = tuple(p for p in result.content if not (isinstance(p, Text) and _is_blank(p)))
    if kept == result.content and kept:
        return result
    return structs.replace(result, content=kept or (Text(_NO_OUTPUT),))


def merge_neighbours(draft: Draft) -> None:
    """Two messages of one role in a row become one, where roles must alternate."""
    if not draft.survey.has_neighbours and not draft.survey.has_late_system:
        return
    if "alternating_roles" not in draft.card.quirks and draft.dialect != "bedrock_converse":
        return
    out: list[Message] = []
    count = 0
    for message in draft.request.messages:
        last = out[-1] if out else None
        if last is not None and last.role == message.role and message.role in _MERGED:
            count += 1
            out[-1] = structs.replace(
                last, parts=last.parts + message.parts, extras={**last.extras, **message.extras}
            )
        else:
            out.append(message)
    if count:
        draft.change(messages=tuple(out))
        draft.note(
            "messages_merged",
            f"{count} message(s) joined to one of the same role before",
            "messages",
        )


_MERGED = frozenset({"user", "assistant"})
