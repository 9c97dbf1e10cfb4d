"""A mode said in the host's own form.

A wish the model cannot follow was noted when the mode was chosen; a wish for what the model does
anyway is simply not written. Saying a wish in the host's own form changes nothing and is not noted;
what a form has no room for (an effort where there is only on and off) is dropped with a note.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, assert_never

from msgspec import structs

from kimiya.catalog.adaptation.anthropic_switch import write_anthropic
from kimiya.catalog.adaptation.draft import OPENAI, Draft
from kimiya.catalog.adaptation.efforts import nearest_effort
from kimiya.catalog.adaptation.mode import asked_mode, table_of
from kimiya.core.exchange import Thinking

Form: TypeAlias = Literal["body", "chat_template_kwargs", "anthropic", "effort", "native", "none"]


def write_switch(draft: Draft) -> None:
    """Put the mode into the host's own form."""
    thinking = draft.request.thinking
    form = _form(draft)
    if thinking == _NO_WISH and not (form == "body" and "thinking_explicit" in draft.card.quirks):
        return
    match form:
        case "anthropic":
            write_anthropic(draft, thinking)
        case "native":
            _write_native(draft, thinking)
        case "effort":
            _write_effort(draft, thinking)
        case "none":
            draft.change(thinking=_NO_WISH)
            _note_measures(draft, thinking)
        case "body":
            _write_body(draft, thinking)
        case "chat_template_kwargs":
            _write_template(draft, thinking)
        case _:
            assert_never(form)


_NO_WISH = Thinking()


def _form(draft: Draft) -> Form:
    """The card's form is that of the host's own dialect; Anthropic Messages brings its own."""
    form = draft.card.thinking.form
    if draft.dialect is None:
        return "native"
    if draft.dialect == "anthropic_messages" and form in ("body", "chat_template_kwargs"):
        return "anthropic"
    if form == "anthropic" and draft.dialect in OPENAI:
        return "native"
    return form


def _write_body(draft: Draft, thinking: Thinking) -> None:
    """On or off: the dialect's own switch, ``{"thinking": {"type": ...}}``."""
    _note_measures(draft, thinking)
    is_silent = draft.asked is None
    if is_silent and "thinking_explicit" not in draft.card.quirks:
        out = _NO_WISH
    else:
        out = Thinking(enabled=draft.mode == "thinking")
    if out != thinking:
        draft.change(thinking=out)
    if is_silent and out != _NO_WISH:
        draft.note(
            "thinking_explicit",
            f"{draft.mode} mode is the default of {draft.label}, but it stalls unless told",
            "thinking",
        )


def _write_template(draft: Draft, thinking: Thinking) -> None:
    """On or off, as an argument of the chat template."""
    _note_measures(draft, thinking)
    draft.change(thinking=_NO_WISH)
    if draft.asked is None:
        return
    extras: Mapping[str, Any] = (
        draft.request.extras if draft.request.dialect == draft.dialect else {}
    )
    name = "chat_template_kwargs"
    arguments = {**table_of(extras.get(name)), "thinking": draft.mode == "thinking"}
    draft.change(dialect=draft.dialect, extras={**extras, name: arguments})


def _note_measures(draft: Draft, thinking: Thinking) -> None:
    """How much to think, where the host knows only whether."""
    if draft.mode == "instant":
        return
    if thinking.effort not in (None, "none"):
        draft.note(
            "effort_dropped",
            f"{draft.label} thinks as much as it finds fit, not with {thinking.effort} effort",
            "thinking",
        )
    if thinking.adaptive:
        draft.note("adaptive_dropped", f"{draft.label} thinks at every turn or at none", "thinking")
    if thinking.budget_tokens is not None:
        draft.note(
            "budget_dropped",
            f"{draft.label} takes no budget of {thinking.budget_tokens} tokens",
            "thinking",
        )


def _write_effort(draft: Draft, thinking: Thinking) -> None:
    """``reasoning_effort``: the one knob of a model that always thinks."""
    wanted = thinking.effort
    effort = nearest_effort(wanted, draft.card.thinking.efforts)
    draft.change(thinking=Thinking(effort=effort))
    if wanted not in (None, "none", effort):
        draft.note(
            "effort_changed",
            f"{wanted} to {effort}: {draft.label} knows {', '.join(draft.card.thinking.efforts)}",
            "thinking",
        )
    _note_measures(draft, structs.replace(thinking, effort=None))


def _write_native(draft: Draft, thinking: Thinking) -> None:
    """A host nobody described: what was said in its dialect goes out as it is."""
    if draft.dialect not in OPENAI or draft.given.dialect in OPENAI or not draft.given.dialect:
        return
    kept = Thinking(effort=thinking.effort)
    if kept != thinking:
        draft.change(thinking=kept)
        draft.note(
            "thinking_unsaid",
            f"{draft.dialect} has no word for {asked_mode(thinking)} mode, and how"
            f" {draft.label} is told is not known; describe it under [[models]]",
            "thinking",
        )
