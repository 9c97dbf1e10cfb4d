"""How tokens are drawn: what is fixed, refused, bounded or scaled at this host.

The caller's values win wherever the host takes them. What is left open is filled with the model's
recommended values only where the card says so, because most hosts do that themselves.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from kimiya.catalog.adaptation.draft import Draft
from kimiya.catalog.card import SamplingRule
from kimiya.core.exchange import Sampling

_UNSAID: Mapping[str, tuple[str, ...]] = {
    "anthropic_messages": ("seed", "presence_penalty", "frequency_penalty", "n"),
    "bedrock_converse": ("seed", "presence_penalty", "frequency_penalty", "n"),
    "openai_responses": (
        "seed", "presence_penalty", "frequency_penalty", "n", "top_k", "stop",
    ),
}  # fmt: skip
"""Settings a dialect has no field for."""

_HARMLESS: Mapping[str, float] = {"presence_penalty": 0, "frequency_penalty": 0, "n": 1}
"""Values that mean the same as leaving the setting out."""

_TOP_LEVEL = Sampling()


def adapt_sampling(draft: Draft) -> None:
    """Apply dialect, card and mode to every setting."""
    before = draft.request.sampling
    card = draft.card
    if before == _TOP_LEVEL and not card.fills_sampling:
        return
    changes: dict[str, Any] = {}
    _leave_out_unsaid(draft, before, changes)
    for rule in card.sampling:
        value = changes.get(rule.setting, getattr(before, rule.setting))
        if value is not None and value != ():
            _apply(draft, rule, value, changes)
    after = structs.replace(before, **changes) if changes else before
    after = _pin_while_thinking(draft, after)
    after = _fill(draft, after)
    after = _scale(draft, after)
    if after is not before:
        draft.change(sampling=after)


def _leave_out_unsaid(draft: Draft, before: Sampling, changes: dict[str, Any]) -> None:
    for setting in _UNSAID.get(draft.dialect or "", ()):
        value = getattr(before, setting)
        if value is None or value == ():
            continue
        changes[setting] = () if setting == "stop" else None
        if _HARMLESS.get(setting) != value:
            draft.note(
                f"{setting}_dropped",
                f"{setting} {value} has no field in {draft.dialect}",
                f"sampling.{setting}",
            )


def _apply(draft: Draft, rule: SamplingRule, value: Any, changes: dict[str, Any]) -> None:
    setting, path = rule.setting, f"sampling.{rule.setting}"
    match rule.rule:
        case "fixed":
            changes[setting] = None
            recommended = draft.card.recommended.get(draft.mode)
            fixed = getattr(recommended, setting) if recommended else None
            # Left out although it is the very value: hosts differ in whether they take that.
            if value != fixed:
                text = f"{value} left out: {draft.label} fixes it to {_shown(fixed)}"
                draft.note(f"{setting}_fixed", f"{setting} {text} in {draft.mode} mode", path)
        case "refused":
            changes[setting] = () if setting == "stop" else None
            draft.note(f"{setting}_refused", f"{setting} left out: {draft.label} takes none", path)
        case "range":
            clamped = _clamped(value, rule)
            if clamped != value:
                changes[setting] = clamped
                draft.note(
                    f"{setting}_clamped",
                    f"{setting} {value} to {clamped:g}, the nearest {draft.label} takes",
                    path,
                )


def _shown(fixed: object) -> str:
    return "its own value" if fixed is None else str(fixed)


def _clamped(value: float, rule: SamplingRule) -> float:
    if rule.minimum is not None and value < rule.minimum:
        return rule.minimum
    if rule.maximum is not None and value > rule.maximum:
        return rule.maximum
    return value


def _pin_while_thinking(draft: Draft, sampling: Sampling) -> Sampling:
    """Claude's own rules: while it thinks temperature is 1; otherwise temperature or top_p."""
    quirks = draft.card.quirks
    changes: dict[str, Any] = {}
    if "thinking_pins_sampling" in quirks and draft.mode == "thinking":
        for setting, allowed in (("temperature", 1.0), ("top_k", None)):
            value = getattr(sampling, setting)
            if value is not None and value != allowed:
                changes[setting] = None
                draft.note(
                    f"{setting}_fixed",
                    f"{setting} {value} left out: {draft.label} fixes it while it thinks",
                    f"sampling.{setting}",
                )
        if sampling.top_p is not None and sampling.top_p < _LEAST_TOP_P:
            changes["top_p"] = _LEAST_TOP_P
            draft.note(
                "top_p_clamped",
                f"top_p {sampling.top_p} to {_LEAST_TOP_P}, the least while it thinks",
                "sampling.top_p",
            )
    has_both = sampling.temperature is not None and sampling.top_p is not None
    if "temperature_or_top_p" in quirks and has_both and "temperature" not in changes:
        changes["top_p"] = None
        draft.note(
            "top_p_dropped",
            f"{draft.label} takes temperature or top_p; temperature {sampling.temperature} stays",
            "sampling.top_p",
        )
    return structs.replace(sampling, **changes) if changes else sampling


_LEAST_TOP_P = 0.95


def _fill(draft: Draft, sampling: Sampling) -> Sampling:
    recommended = draft.card.recommended.get(draft.mode)
    if not draft.card.fills_sampling or recommended is None:
        return sampling
    filled = {
        setting: getattr(recommended, setting)
        for setting in ("temperature", "top_p", "top_k")
        if getattr(sampling, setting) is None and getattr(recommended, setting) is not None
    }
    if not filled:
        return sampling
    said = ", ".join(f"{setting} {value:g}" for setting, value in filled.items())
    draft.note("sampling_filled", f"{said}: recommended for {draft.mode} mode", "sampling")
    return structs.replace(sampling, **filled)


def _scale(draft: Draft, sampling: Sampling) -> Sampling:
    """Undo what the host does to a temperature, so that it means the same everywhere."""
    factor = draft.card.temperature_factor.get(draft.dialect or "")
    wanted = sampling.temperature
    if not factor or wanted is None:
        return sampling
    sent = round(wanted / factor, 6)
    if sent > _MOST_TEMPERATURE:
        sent = _MOST_TEMPERATURE
        draft.note(
            "temperature_clamped",
            f"temperature {wanted:g} to {sent * factor:g}, the most that can be reached where"
            f" {draft.card.host} multiplies it by {factor:g}",
            "sampling.temperature",
        )
    else:
        draft.note(
            "temperature_scaled",
            f"{wanted:g} sent as {sent:g}, because {draft.card.host} multiplies it by {factor:g}",
            "sampling.temperature",
        )
    return structs.replace(sampling, temperature=sent)


_MOST_TEMPERATURE = 1.0
"""Anthropic Messages, the one dialect with a factor, takes temperatures from 0 to 1."""
