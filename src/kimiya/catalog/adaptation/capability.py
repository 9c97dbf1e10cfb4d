"""What the model or its host cannot do at all: refused before anything is sent.

Only content and tools are refused, because leaving them out would change the question. Limits and
forms of the reply are lowered, with a note.
"""

from msgspec import structs

from kimiya.catalog.adaptation.draft import Draft
from kimiya.core.messages import Image, ToolResult, Video

_NO_JSON_OBJECT = frozenset({"anthropic_messages", "bedrock_converse"})
"""Dialects that can ask for a JSON schema but not for any JSON."""


def refuse_media(draft: Draft) -> None:
    """Pictures for a model without eyes, videos for a host that takes none.

    Raises:
        InvalidRequest: Naming model and part.
    """
    card, kinds = draft.card, draft.survey.kinds
    if Image in kinds and not card.has_vision:
        raise draft.refuse(
            f"{draft.label} takes no images, but {_place(draft, Image)} is one."
            " Choose a model with vision (`kimiya models`) or leave it out"
        )
    if Video in kinds and not card.has_video:
        raise draft.refuse(
            f"{draft.label} takes no video, but {_place(draft, Video)} is one."
            " Choose a host that does (`kimiya models`) or send frames as images"
        )


def refuse_tools(draft: Draft) -> None:
    """More tools than the host takes, or any for a model that has none.

    Raises:
        InvalidRequest: Naming model and count.
    """
    tools, card = draft.request.tools, draft.card
    if not tools:
        return
    if not card.has_tools:
        raise draft.refuse(f"{draft.label} cannot call tools, but {len(tools)} are declared")
    if card.max_tools is not None and len(tools) > card.max_tools:
        raise draft.refuse(
            f"{draft.label} takes at most {card.max_tools} tools, but {len(tools)} are declared."
            " Leave out those this call does not need"
        )


def lower_output_limit(draft: Draft) -> None:
    """``max_output_tokens`` the model cannot reach, or that the dialect cannot do without."""
    sampling, most = draft.request.sampling, draft.card.max_output_tokens
    wanted = sampling.max_output_tokens
    if wanted is None:
        if draft.dialect == "anthropic_messages":
            limit = min(most or _ANTHROPIC_DEFAULT, _ANTHROPIC_DEFAULT)
            draft.change(sampling=structs.replace(sampling, max_output_tokens=limit))
            draft.note("max_tokens_filled", f"{draft.dialect} demands a limit: {limit}")
    elif most is not None and wanted > most:
        draft.change(sampling=structs.replace(sampling, max_output_tokens=most))
        draft.note("max_tokens_clamped", f"{wanted} to {most}, the most {draft.label} writes")


_ANTHROPIC_DEFAULT = 32_000
"""Room for a long answer with reasoning; more would only raise what a runaway reply costs."""


def lower_format(draft: Draft) -> None:
    """A reply format the host cannot promise is asked for in the next best form, or not at all."""
    wanted = draft.request.response_format
    if wanted is None:
        return
    offered = draft.card.structured_outputs
    if offered == "none":
        draft.change(response_format=None)
        draft.note(
            "format_dropped",
            f"{draft.label} cannot be held to {wanted.kind}; checking is left to the caller",
            "response_format",
        )
    elif wanted.kind == "json_schema" and offered == "json_object":
        draft.change(
            response_format=structs.replace(
                wanted, kind="json_object", schema=None, name=None, description=None, strict=None
            )
        )
        draft.note(
            "format_loosened",
            f"{draft.label} can be held to JSON, not to a schema",
            "response_format",
        )
    elif wanted.kind == "json_object" and draft.dialect in _NO_JSON_OBJECT:
        draft.change(response_format=None)
        draft.note(
            "format_dropped",
            f"{draft.dialect} can ask for a schema, not for any JSON",
            "response_format",
        )


def _place(draft: Draft, kind: type) -> str:
    for m, message in enumerate(draft.request.messages):
        for p, part in enumerate(message.parts):
            if isinstance(part, kind):
                return f"messages[{m}].parts[{p}]"
            if isinstance(part, ToolResult):
                for c, inner in enumerate(part.content):
                    if isinstance(inner, kind):
                        return f"messages[{m}].parts[{p}].content[{c}]"
    return "a part"
