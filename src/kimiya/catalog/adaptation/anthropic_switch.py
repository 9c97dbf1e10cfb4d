"""Anthropic's own switch: adaptive, or with a budget, or off, as each model knows them."""

from collections.abc import Mapping

from kimiya.catalog.adaptation.draft import Draft
from kimiya.catalog.adaptation.efforts import nearest_effort
from kimiya.core.exchange import Thinking

_BUDGETS: Mapping[str, int] = {
    "minimal": 1024,
    "low": 4096,
    "medium": 10_000,
    "high": 24_000,
    "xhigh": 32_000,
    "max": 48_000,
}
"""Tokens of thought for an effort, where a host knows budgets only."""

_LEAST_BUDGET = 1024
_NO_WISH = Thinking()


def write_anthropic(draft: Draft, thinking: Thinking) -> None:
    """``{"type": "adaptive"}``, or a budget, or off, as the model knows them."""
    is_on_by_default = draft.card.thinking.default == "thinking"
    if draft.asked == "instant" and draft.mode == "instant":
        # Off is written only where the model would think otherwise: some refuse to hear it.
        out = Thinking(enabled=False if is_on_by_default else None)
    elif draft.asked == "thinking":
        out = _anthropic_wish(draft, thinking)
    elif draft.asked is None:
        out = Thinking(effort=nearest_effort(thinking.effort, draft.card.thinking.efforts))
    else:
        out = _NO_WISH  # the wish could not be followed; what the model does needs no word
    if out == thinking:
        return
    draft.change(thinking=out)
    _drop_stray_switch(draft, out)
    _note_anthropic(draft, thinking, out)


def _anthropic_wish(draft: Draft, thinking: Thinking) -> Thinking:
    switch = draft.card.thinking
    wanted = None if thinking.effort == "none" else thinking.effort
    effort = nearest_effort(wanted, switch.efforts)
    if "budget" not in switch.styles or (
        "adaptive" in switch.styles and thinking.budget_tokens is None
    ):
        says_it = thinking != Thinking(effort=thinking.effort) or switch.default == "instant"
        return Thinking(enabled=True if says_it else None, adaptive=says_it, effort=effort)
    limit = draft.request.sampling.max_output_tokens
    if limit is not None and limit <= _LEAST_BUDGET:
        draft.mode = "instant"
        draft.note(
            "thinking_unavailable",
            f"{limit} tokens in all leave no room for the {_LEAST_BUDGET} of the least thought",
            "thinking",
        )
        return _NO_WISH
    budget = thinking.budget_tokens or _BUDGETS.get(wanted or "medium", _LEAST_BUDGET)
    # A budget must leave room for the answer.
    budget = max(_LEAST_BUDGET, min(budget, limit - 1) if limit else budget)
    return Thinking(enabled=True, budget_tokens=budget, effort=effort)


def _drop_stray_switch(draft: Draft, out: Thinking) -> None:
    """Details of a switch (``display``) mean nothing once the switch itself is gone."""
    extras = draft.request.extras
    is_silent = out.enabled is None and not out.adaptive and out.budget_tokens is None
    if is_silent and "thinking" in extras and draft.request.dialect == draft.dialect:
        draft.change(extras={k: v for k, v in extras.items() if k != "thinking"})
        draft.note("extras_dropped", "thinking: details of a switch that is not sent", "thinking")


def _note_anthropic(draft: Draft, before: Thinking, after: Thinking) -> None:
    if before.budget_tokens is not None and after.budget_tokens != before.budget_tokens:
        draft.note(
            "budget_dropped" if after.budget_tokens is None else "budget_changed",
            f"{draft.label}: {before.budget_tokens} tokens of thought to"
            f" {after.budget_tokens or 'what it finds fit'}",
            "thinking",
        )
    elif before.adaptive and after.budget_tokens is not None:
        draft.note(
            "thinking_switch",
            f"{draft.label} does not adapt; it thinks up to {after.budget_tokens} tokens",
            "thinking",
        )
    elif draft.mode == "thinking" and (after.enabled, after.adaptive) != (
        before.enabled,
        before.adaptive,
    ):
        words = "adaptive" if after.adaptive else f"a budget of {after.budget_tokens} tokens"
        if after.enabled:
            draft.note("thinking_switch", f"thinking mode is said as {words}", "thinking")
    if before.effort not in (None, "none", after.effort):
        draft.note(
            "effort_changed" if after.effort else "effort_dropped",
            f"{draft.label}: {before.effort} to {after.effort or 'none'}",
            "thinking",
        )
