"""Cache marks and call ids: small things hosts are strict about.

Marks go where the host would refuse them or has its own cache. Ids that do not fit the host's
pattern are rewritten alike in call and result, from the id alone: a conversation that goes on keeps
the prefix it had.
"""

import re
from hashlib import sha256
from typing import Any

from msgspec import structs

from kimiya.catalog.adaptation.draft import Draft
from kimiya.core.messages import Breakpoint, Message, Reasoning, ToolCall, ToolResult

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def settle_marks(draft: Draft) -> None:
    """Remove marks from hosts without explicit caching, and lifetimes they do not know."""
    if not draft.survey.has_marks:
        return
    rule = draft.card.cache
    if rule.kind == "explicit" and draft.dialect is not None:
        _settle_lifetimes(draft, rule.ttls)
        return
    counter = [0]

    def without(mark: Breakpoint) -> None:
        counter[0] += 1

    _each_mark(draft, without)
    own = "it caches by itself" if rule.kind == "implicit" else "it has no prompt cache"
    draft.note("cache_marks_removed", f"{counter[0]} mark(s): {draft.label} takes none, {own}")


def _settle_lifetimes(draft: Draft, known: tuple[str, ...]) -> None:
    changed: list[str] = []
    before = draft.request

    def fitting(mark: Breakpoint) -> Breakpoint:
        if mark.ttl is None or mark.ttl in known:
            return mark
        changed.append(mark.ttl)
        return Breakpoint()

    _each_mark(draft, fitting)
    if not changed:
        draft.request = before
    else:
        draft.note(
            "cache_ttl_dropped",
            f"{len(changed)} mark(s) of {changed[0]}: {draft.label} knows"
            f" {', '.join(known) or 'one lifetime only'}",
        )


def _each_mark(draft: Draft, change: Any) -> None:
    def marked(thing: Any) -> Any:
        if isinstance(thing, ToolResult) and thing.content:
            content = tuple(marked(inner) for inner in thing.content)
            if any(a is not b for a, b in zip(content, thing.content, strict=True)):
                thing = structs.replace(thing, content=content)
        if isinstance(thing, Reasoning) or thing.cache is None:
            return thing
        new = change(thing.cache)
        return thing if new is thing.cache else structs.replace(thing, cache=new)

    messages: list[Message] = []
    for message in draft.request.messages:
        parts = tuple(marked(part) for part in message.parts)
        same = all(a is b for a, b in zip(parts, message.parts, strict=True))
        messages.append(message if same else structs.replace(message, parts=parts))
    tools = tuple(marked(tool) for tool in draft.request.tools)
    draft.change(messages=tuple(messages), tools=tools)


def fit_call_ids(draft: Draft) -> None:
    """Rewrite ids the host's pattern refuses; ``draft.call_ids`` leads back.

    Raises:
        InvalidRequest: The host's pattern takes no id made of letters and digits.
    """
    pattern = draft.card.call_id_pattern
    if pattern is None or not draft.survey.kinds & {ToolCall, ToolResult}:
        return
    fits = re.compile(pattern).fullmatch
    made: dict[str, str] = {}
    for message in draft.request.messages:
        for part in message.parts:
            if isinstance(part, ToolCall | ToolResult) and part.call_id not in made:
                made[part.call_id] = _fitting_id(draft, part.call_id, fits)
    changed = {old: new for old, new in made.items() if old != new}
    if not changed:
        return
    draft.call_ids = {new: old for old, new in changed.items()}
    draft.change(messages=tuple(_renamed(m, changed) for m in draft.request.messages))
    draft.note(
        "call_ids_rewritten", f"{len(changed)} id(s) that {draft.card.host} refuses", "messages"
    )


def _fitting_id(draft: Draft, call_id: str, fits: Any) -> str:
    if fits(call_id):
        return call_id
    digest = sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    for candidate in (f"{_UNSAFE.sub('_', call_id)[:50]}_{digest}", f"call_{digest}", digest):
        if fits(candidate):
            return candidate
    raise draft.refuse(f"no id fits the pattern {draft.card.call_id_pattern!r} of {draft.label}")


def _renamed(message: Message, names: dict[str, str]) -> Message:
    parts = tuple(
        structs.replace(part, call_id=names[part.call_id])
        if isinstance(part, ToolCall | ToolResult) and part.call_id in names
        else part
        for part in message.parts
    )
    same = all(a is b for a, b in zip(parts, message.parts, strict=True))
    return message if same else structs.replace(message, parts=parts)
