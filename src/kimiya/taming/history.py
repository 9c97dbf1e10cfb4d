"""What happens to a history on its way in: ids, reasoning, forged markers, names.

Most of Kimi's broken turns are made upstream of it: it copies the ids it sees, misses the reasoning
a client dropped, and takes a marker in a pasted file for one of its own. Every change here follows
from the history alone, so a conversation that grows keeps its prefix, and is an ``Adjustment``.

Sampling, tool choice, blanks and a host's other limits are ``catalog.adapt``'s, by card.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from kimiya.catalog.card import ModelCard
from kimiya.core.exchange import Adjustment, NamedChoice, Request, ToolSpec
from kimiya.core.messages import (
    Message,
    Part,
    Reasoning,
    ResultPart,
    Text,
    ToolCall,
    ToolResult,
)
from kimiya.taming.custody import ReasoningStore, Trail
from kimiya.taming.grammar import CONTROL
from kimiya.taming.ids import STYLES, IdPlan, canonical
from kimiya.taming.judgement import Loop, same_arguments

_P = TypeVar("_P", bound=Part)
replace = msgspec.structs.replace


class Mended(Struct, frozen=True):
    """A request whose history is fit to be sent, and how to undo what was renamed."""

    request: Request
    adjustments: tuple[Adjustment, ...]
    ids: IdPlan
    loop: Loop
    renamed: Mapping[str, str]
    """Tool names as they are sent to the client's own."""


def mend(request: Request, card: ModelCard, store: ReasoningStore | None = None) -> Mended:
    """Make a history safe for this target."""
    notes: list[Adjustment] = []
    plan = _id_plan(request, card)
    loop = repeating(request.messages)
    messages = request.messages
    if card.call_format != "none":
        messages = _with_reasoning(request, card, store, notes)
    renamed = _digit_names(request.tools) if card.call_format != "none" else {}
    tools, choice = request.tools, request.tool_choice
    if renamed:
        sent = {theirs: ours for ours, theirs in renamed.items()}
        tools = tuple(
            replace(tool, name=sent[tool.name]) if tool.name in sent else tool for tool in tools
        )
        if isinstance(choice, NamedChoice) and choice.name in sent:
            choice = NamedChoice(sent[choice.name])
        messages = tuple(_renamed_calls(message, sent) for message in messages)
        said = ", ".join(f"{theirs} as {ours}" for theirs, ours in sent.items())
        notes.append(Adjustment("tool_renamed", f"names may not begin with a digit: {said}"))
    if card.canonical_call_ids == "client":
        messages = _with_canonical_ids(messages, notes)
    if card.call_format != "none":
        messages = _without_markers(messages, notes)
    if messages is not request.messages or renamed:
        request = replace(request, messages=messages, tools=tools, tool_choice=choice)
    return Mended(request, tuple(notes), plan, loop, renamed)


# Ids --------------------------------------------------------------------------------------------


def _id_plan(request: Request, card: ModelCard) -> IdPlan:
    """The ids of the reply's calls; the history is read as the client wrote it."""
    count = 0
    last = ""
    taken: list[str] = []
    for message in request.messages:
        if message.role != "assistant":
            continue
        for part in message.parts:
            if isinstance(part, ToolCall):
                count += 1
                last = part.call_id
                taken.append(part.call_id)
    opening = next((m.text for m in request.messages if m.role == "user"), "")
    seed = f"{opening[:2000]}\0{last}\0{len(request.messages)}".encode(errors="surrogatepass")
    style = STYLES.get(request.dialect, STYLES[""])
    mints = card.canonical_call_ids == "client"
    return IdPlan(style, seed, count, mints, frozenset(taken))


def _with_canonical_ids(
    messages: tuple[Message, ...], notes: list[Adjustment]
) -> tuple[Message, ...]:
    """Every call and its result renamed together, counted through the conversation."""
    index = 0
    changed = orphans = 0
    waiting: dict[str, list[str]] = {}
    out: list[Message] = []
    for message in messages:
        parts: list[Part] = []
        is_new = False
        if message.role == "assistant":
            for call in message.tool_calls:
                waiting.pop(call.call_id, None)  # some clients count their ids anew each round
        for part in message.parts:
            if isinstance(part, ToolCall):
                name = canonical(part.name, index)
                index += 1
                waiting.setdefault(part.call_id, []).append(name)
                if name != part.call_id:
                    part, is_new, changed = replace(part, call_id=name), True, changed + 1
            elif isinstance(part, ToolResult):
                queue = waiting.get(part.call_id)
                if not queue:
                    orphans += 1
                else:
                    # The last name stays for a result that is sent twice.
                    name = queue.pop(0) if len(queue) > 1 else queue[0]
                    if name != part.call_id:
                        part, is_new = replace(part, call_id=name), True
            parts.append(part)
        out.append(replace(message, parts=tuple(parts)) if is_new else message)
    if changed:
        notes.append(Adjustment("call_ids_canonical", f"{changed} call ids renamed for the model"))
    if orphans:
        what = f"{orphans} tool results answer no call of this history; their ids stayed"
        notes.append(Adjustment("orphan_results", what))
    return tuple(out) if changed else messages


def _digit_names(tools: Sequence[ToolSpec]) -> dict[str, str]:
    """Sent name to the client's, for names that begin with a digit (kimi-cli#2531)."""
    names = {tool.name for tool in tools}
    out: dict[str, str] = {}
    for tool in tools:
        if tool.name[:1].isdigit() and tool.kind == "function":
            sent = f"tool_{tool.name}"
            while sent in names or sent in out:
                sent = f"tool_{sent}"
            out[sent] = tool.name
    return out


def _renamed_calls(message: Message, sent: Mapping[str, str]) -> Message:
    if not any(isinstance(p, ToolCall) and p.name in sent for p in message.parts):
        return message
    parts = tuple(
        replace(part, name=sent[part.name])
        if isinstance(part, ToolCall) and part.name in sent
        else part
        for part in message.parts
    )
    return replace(message, parts=parts)


# Reasoning --------------------------------------------------------------------------------------


def _with_reasoning(
    request: Request, card: ModelCard, store: ReasoningStore | None, notes: list[Adjustment]
) -> tuple[Message, ...]:
    """Give back the reasoning of the running tool loop, or say that it is gone."""
    thinking = request.thinking.enabled
    mode = card.thinking.default if thinking is None else "thinking" if thinking else "instant"
    if card.reasoning_replay in ("refused", "signed") or mode != "thinking":
        return request.messages
    start = _loop_start(request.messages)
    bare = [n for n in range(start, len(request.messages)) if _is_bare(request.messages[n])]
    if not bare:
        return request.messages
    kept = _kept(request.messages[: bare[-1] + 1], start, store) if store is not None else {}
    restored = lost = 0
    out = list(request.messages)
    for place in bare:
        message = out[place]
        found = kept.get(place)
        if found:
            restored += 1
        elif card.reasoning_replay == "required" and card.reasoning_placeholder is not None:
            found = card.reasoning_placeholder
            lost += 1
        if found:
            others = tuple(part for part in message.parts if not isinstance(part, Reasoning))
            out[place] = replace(message, parts=(Reasoning(found), *others))
    if restored:
        what = f"put back the reasoning of {restored} steps the client had dropped"
        notes.append(Adjustment("reasoning_restored", what))
    if lost:
        what = f"the reasoning of {lost} steps is lost; sent the placeholder the host accepts"
        notes.append(Adjustment("reasoning_placeholder", what))
    return tuple(out) if restored or lost else request.messages


def _is_bare(message: Message) -> bool:
    """Whether a message has calls and none of the reasoning that led to them."""
    return message.role == "assistant" and bool(message.tool_calls) and not message.reasoning


def _kept(messages: Sequence[Message], start: int, store: ReasoningStore) -> dict[int, str]:
    """The reasoning of bare messages from ``start`` on, by place, where the store still has it."""
    trail = Trail()
    found: dict[int, str] = {}
    for place, message in enumerate(messages):
        first = trail.take(message)
        if place < start or not _is_bare(message):
            continue
        keys = (
            trail.key(position, call.name, call.arguments)
            for position, call in enumerate(message.tool_calls, first)
        )
        reasoning = next((said for key in keys if (said := store.get(key))), None)
        if reasoning is not None:
            found[place] = reasoning
    return found


def _loop_start(messages: Sequence[Message]) -> int:
    """Where the running tool loop begins: behind the last user message or final answer."""
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if message.role == "user" and not message.tool_results:
            return place + 1
        if message.role == "assistant" and not message.tool_calls:
            return place + 1
    return 0


# Markers ----------------------------------------------------------------------------------------


def harmless(text: str) -> str:
    """Text without control tokens: a broken bar for each bar, so that people can still read it.

    >>> harmless("see <|tool_call_begin|> and <|x|>")
    'see <¦tool_call_begin¦> and <|x|>'
    """
    return CONTROL.sub(lambda found: f"<¦{found.group()[2:-2]}¦>", text)


def _without_markers(messages: tuple[Message, ...], notes: list[Adjustment]) -> tuple[Message, ...]:
    if not any(map(_may_be_marked, messages)):
        return messages
    out = tuple(_defused(message) for message in messages)
    paths = [f"messages[{n}]" for n, m in enumerate(out) if m is not messages[n]]
    if not paths:
        return messages
    what = f"control markers in {len(paths)} messages are shown to the model as <¦...¦>"
    notes.append(Adjustment("markers_neutralised", what, paths[0]))
    return out


def _may_be_marked(message: Message) -> bool:
    """Whether a message needs a closer look; most are plain text without a marker's first bytes."""
    for part in message.parts:
        if not isinstance(part, Text) or "<|" in part.text or "<｜" in part.text:
            return True
    return False


def _defused(message: Message) -> Message:
    parts = tuple(_defused_part(part) for part in message.parts)
    return replace(message, parts=parts) if _differs(parts, message.parts) else message


def _differs(new: Sequence[object], old: Sequence[object]) -> bool:
    return any(ours is not theirs for ours, theirs in zip(new, old, strict=True))


def _looks_marked(text: str) -> bool:
    return "<|" in text or "<｜" in text


def _defused_part(part: Part) -> Part:
    if isinstance(part, Text):
        return _defused_text(part)
    if isinstance(part, Reasoning):
        return _defused_text(part)
    if isinstance(part, ToolCall):
        if _looks_marked(part.arguments) and (text := harmless(part.arguments)) != part.arguments:
            return replace(part, arguments=text)
        return part
    if isinstance(part, ToolResult):
        content: tuple[ResultPart, ...] = tuple(
            _defused_text(p) if isinstance(p, Text) else p for p in part.content
        )
        return replace(part, content=content) if _differs(content, part.content) else part
    return part


def _defused_text(part: "_T") -> "_T":
    if _looks_marked(part.text) and (text := harmless(part.text)) != part.text:
        return replace(part, text=text)
    return part


_T = TypeVar("_T", Text, Reasoning)


# Loops ------------------------------------------------------------------------------------------


_SHORTEST_LOOP = 4
"""Messages of two calls and their results."""


def repeating(messages: Sequence[Message]) -> Loop:
    """The one call a history ends with, how often in a row it stands there with one result."""
    if len(messages) < _SHORTEST_LOOP:
        return Loop()
    results: dict[str, str] = {}
    last: tuple[str, str, str] | None = None
    count = 0
    for message in reversed(messages):
        for result in message.tool_results:
            results[result.call_id] = "\0".join(
                p.text if isinstance(p, Text) else "?" for p in result.content
            )
        calls = message.tool_calls
        if message.role != "assistant":
            if message.role == "user" and not message.tool_results:
                break
            continue
        if len(calls) != 1:
            break
        call = calls[0]
        seen = (call.name, call.arguments, results.pop(call.call_id, ""))
        if last is not None and seen != last:
            break
        last = seen
        count += 1
    if last is None or count < 2:
        return Loop()
    return Loop(last[0], same_arguments(last[1]), count)
