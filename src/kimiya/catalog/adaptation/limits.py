"""What the dialect has no words for, whatever the model: small things, each with a note.

Left in place they would make the dialect refuse the whole call.
"""

import re
from typing import Any

from msgspec import structs

from kimiya.catalog.adaptation.draft import Draft
from kimiya.core.exchange import AutoChoice, NoChoice
from kimiya.core.messages import Image, Message, Part, ToolCall, ToolResult

_NAMELESS = frozenset({"anthropic_messages", "bedrock_converse", "openai_responses"})
_NO_DETAIL = frozenset({"anthropic_messages", "bedrock_converse"})
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{0,256}")
"""What Converse takes as a key or value of ``requestMetadata``."""


def drop_names(draft: Draft) -> None:
    """Speakers' names, where messages have none on the wire."""
    if not draft.survey.has_names or draft.dialect not in _NAMELESS:
        return
    for index, message in enumerate(draft.request.messages):
        if message.name is not None:
            draft.note(
                "name_dropped",
                f"messages have no speaker's name in {draft.dialect}: {message.name[:80]!r}",
                f"messages[{index}]",
            )
    draft.change(
        messages=tuple(
            structs.replace(m, name=None) if m.name is not None else m
            for m in draft.request.messages
        )
    )


def settle_choice_words(draft: Draft) -> None:
    """Converse can neither forbid calls nor forbid making several at once."""
    request = draft.request
    if draft.dialect != "bedrock_converse":
        return
    if request.parallel_tool_calls is not None:
        draft.change(parallel_tool_calls=None)
        if request.parallel_tool_calls is False and request.tools:
            draft.note(
                "parallel_calls_allowed",
                f"{draft.dialect} cannot forbid them",
                "parallel_tool_calls",
            )
    if not isinstance(request.tool_choice, NoChoice):
        if request.tool_choice is not None and not request.tools:
            draft.change(tool_choice=None)
        return
    if draft.survey.kinds & {ToolCall, ToolResult}:
        # A history with calls must declare tools, so they stay and the choice is the model's.
        draft.change(tool_choice=AutoChoice())
        draft.note("tool_choice_auto", f"{draft.dialect} cannot forbid calls", "tool_choice")
    else:
        draft.change(tool_choice=None, tools=())
        draft.note(
            "tools_left_out", f"{draft.dialect} cannot forbid calls otherwise", "tool_choice"
        )


def drop_image_detail(draft: Draft) -> None:
    """OpenAI's hint how closely to look."""
    if Image not in draft.survey.kinds or draft.dialect not in _NO_DETAIL:
        return
    count = [0]

    def plain(part: Any) -> Any:
        if isinstance(part, ToolResult):
            content = tuple(plain(inner) for inner in part.content)
            return part if content == part.content else structs.replace(part, content=content)
        if isinstance(part, Image) and part.detail is not None:
            count[0] += part.detail != "auto"
            return structs.replace(part, detail=None)
        return part

    messages = tuple(
        structs.replace(m, parts=tuple(plain(part) for part in m.parts))
        for m in draft.request.messages
    )
    if messages != draft.request.messages:
        draft.change(messages=messages)
    if count[0]:
        draft.note("image_detail_dropped", f"{count[0]} image(s): not known to {draft.dialect}")


def lift_result_marks(draft: Draft) -> None:
    """Converse takes a cache mark after a result, not inside it."""
    if draft.dialect != "bedrock_converse" or not draft.survey.has_marks:
        return
    out: list[Message] = []
    count = 0
    for message in draft.request.messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult) and any(inner.cache for inner in part.content):
                count += 1
                mark = part.cache or next(i.cache for i in reversed(part.content) if i.cache)
                content = tuple(structs.replace(inner, cache=None) for inner in part.content)
                part = structs.replace(part, content=content, cache=mark)
            parts.append(part)
        out.append(structs.replace(message, parts=tuple(parts)))
    if count:
        draft.change(messages=tuple(out))
        draft.note("cache_marks_moved", f"{count} mark(s) from inside a tool result to its end")


def fit_metadata(draft: Draft) -> None:
    """Labels the host would refuse: they change no reply, so they stay behind."""
    request = draft.request
    if not request.metadata and request.user is None:
        return
    dropped: list[str] = []
    if draft.dialect == "bedrock_converse":
        fitting = {k: v for k, v in request.metadata.items() if _is_label(k) and _is_label(v)}
        user = request.user if _is_label(request.user) else None
        if "user_id" in fitting and user is not None:
            del fitting["user_id"]
    elif draft.dialect == "anthropic_messages" and request.dialect != draft.dialect:
        fitting, user = {}, request.user
    else:
        return
    dropped = [k for k in request.metadata if k not in fitting]
    dropped += ["user"] if user != request.user else []
    if dropped:
        draft.change(metadata=fitting, user=user)
        names = ", ".join(str(name)[:60] for name in dropped[:8])
        draft.note("metadata_dropped", f"{names}: {draft.dialect} would refuse it", "metadata")


def _is_label(value: object) -> bool:
    return isinstance(value, str) and _METADATA.fullmatch(value) is not None
