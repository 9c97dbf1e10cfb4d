"""Modes: what the caller wants of the model's reasoning, and whether it can be had.

Wishes arrive as ``Request.thinking``, or inside the extras of an OpenAI-speaking client in any of
the forms hosts invented (``thinking``, ``chat_template_kwargs``, ``enable_thinking``); here they
become one mode, which ``switch`` then says in the host's own form.
"""

from collections.abc import Mapping
from typing import Any, assert_never, cast

from msgspec import structs

from kimiya.catalog.adaptation.draft import OPENAI, Draft
from kimiya.core.exchange import AutoChoice, Mode, NamedChoice, RequiredChoice, Thinking


def lift_switch(draft: Draft) -> None:
    """Read the mode out of an OpenAI-speaking client's extras, whatever form it was said in.

    Only where the host's own form is another: what it understands anyway stays untouched.
    """
    request = draft.request
    extras = request.extras
    if not extras or request.dialect not in OPENAI or draft.card.thinking.form == "native":
        return
    said: bool | None = None
    rest = dict(extras)
    switch = table_of(extras.get("thinking"))
    if switch.get("type") in ("enabled", "disabled"):
        said = switch["type"] == "enabled"
        left = {k: v for k, v in switch.items() if k != "type"}
        rest["thinking"] = left
        if not left or draft.card.thinking.form != "body":
            del rest["thinking"]
    words = table_of(extras.get("chat_template_kwargs"))
    if words:
        for word in ("thinking", "enable_thinking"):
            if isinstance(words.get(word), bool):
                said = words[word]
        left = {k: v for k, v in words.items() if k not in ("thinking", "enable_thinking")}
        rest["chat_template_kwargs"] = left
        if not left:
            del rest["chat_template_kwargs"]
    if isinstance(extras.get("enable_thinking"), bool):
        said = rest.pop("enable_thinking")
    if said is None:
        return
    thinking = request.thinking
    if thinking.enabled is None:
        thinking = structs.replace(thinking, enabled=said)
    draft.change(thinking=thinking, extras=rest)


def table_of(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def asked_mode(thinking: Thinking) -> Mode | None:
    """The mode a caller's wish amounts to; ``None`` where there is none.

    >>> asked_mode(Thinking(effort="high")), asked_mode(Thinking(effort="none"))
    ('thinking', 'instant')
    """
    if thinking.enabled is not None:
        return "thinking" if thinking.enabled else "instant"
    if thinking.adaptive or thinking.budget_tokens is not None:
        return "thinking"
    if thinking.effort is not None:
        return "instant" if thinking.effort == "none" else "thinking"
    return None


def choose_mode(draft: Draft) -> None:
    """Settle the mode, then whether a tool may be forced in it.

    Where a forced call and thinking exclude each other, the caller's own word wins: thinking that
    nobody asked for is switched off, because code that forces a call relies on getting one;
    thinking that was asked for stays, and the call is left to the model. An effort alone says how
    much to think, not whether, so it gives way too.
    """
    card, thinking = draft.card, draft.request.thinking
    asked = asked_mode(thinking)
    if draft.given.dialect in _EFFORT_IS_NO_WISH and _is_effort_alone(thinking):
        asked = None
    draft.asked = asked
    if asked in card.thinking.modes:
        draft.mode = asked
    elif asked is not None:
        draft.mode = card.thinking.default
        verb = "always thinks" if asked == "instant" else "does not think"
        draft.note(
            "thinking_always_on" if asked == "instant" else "thinking_unavailable",
            f"{draft.label} {verb}, so {asked} mode cannot be had",
            "thinking",
        )
    choice = draft.request.tool_choice
    if isinstance(choice, RequiredChoice | NamedChoice):
        _settle_choice(draft, choice)


_EFFORT_IS_NO_WISH = frozenset({"anthropic_messages", "bedrock_converse"})
"""Dialects where effort also shapes replies without thought, so alone it does not ask for any."""


def _is_effort_alone(thinking: Thinking) -> bool:
    return thinking.effort not in (None, "none") and thinking == Thinking(effort=thinking.effort)


def _settle_choice(draft: Draft, choice: RequiredChoice | NamedChoice) -> None:
    match draft.card.forced_tool_choice:
        case "yes":
            return
        case "required_only":
            if isinstance(choice, NamedChoice):
                draft.change(tool_choice=RequiredChoice())
                draft.note(
                    "tool_choice_required",
                    f"{draft.label} cannot be held to one tool ({choice.name}), only to some tool",
                    "tool_choice",
                )
            return
        case "not_while_thinking":
            if draft.mode == "instant":
                return
            has_insisted = draft.asked is not None and not _is_effort_alone(draft.request.thinking)
            if not has_insisted and "instant" in draft.card.thinking.modes:
                draft.mode = "instant"
                draft.asked = "instant"
                effort = draft.request.thinking.effort
                draft.change(thinking=Thinking(enabled=False))
                draft.note(
                    "thinking_off_for_tool_choice",
                    f"{draft.label} cannot be forced to call a tool while it thinks, and nobody"
                    f" insisted on thinking{f' (effort {effort} is left out)' if effort else ''}",
                    "thinking",
                )
                return
        case "no":
            pass
        case _:
            assert_never(draft.card.forced_tool_choice)
    draft.change(tool_choice=AutoChoice())
    draft.note(
        "tool_choice_auto",
        f"{draft.label} cannot be forced to call a tool here; the choice is left to it",
        "tool_choice",
    )
