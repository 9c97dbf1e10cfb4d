"""Reasoning in Chat Completions: three fields, of which a host knows one.

``reasoning_content`` (Moonshot, SGLang, DeepSeek), ``reasoning`` (newer vLLM, OpenRouter) and
``reasoning_details`` (OpenRouter), the only one with room for a signature or for encrypted
reasoning. Hosts repeat the same text in several of them, so exactly one is read: the details where
they carry more than text, otherwise the first of the others that is not empty.
"""

from collections.abc import Sequence
from typing import cast

from kimiya.core.messages import JsonValue, Reasoning
from kimiya.wire.json_fields import JsonObject, Misfit, leftovers, optional, optional_list

_KNOWN = frozenset({"type", "text", "summary", "signature", "data"})
FIELDS = frozenset({"reasoning_content", "reasoning", "reasoning_details"})


def read_reasoning(fields: JsonObject) -> tuple[Reasoning, ...]:
    """The reasoning of a message, in parts where its details say so."""
    details = _details(fields)
    if any("signature" in entry or "data" in entry for entry in details):
        return tuple(_read_entry(entry) for entry in details)
    text = _plain(fields) or "".join(_entry_text(entry) for entry in details)
    return (Reasoning(text),) if text else ()


def read_piece(fields: JsonObject) -> Reasoning | None:
    """The reasoning of a reply or of a delta, as one part, so that streamed and whole agree."""
    details = _details(fields) if "reasoning_details" in fields else []
    text = _plain(fields) or "".join(_entry_text(entry) for entry in details)
    signature = "".join(optional(entry, "signature", str) or "" for entry in details)
    redacted = "".join(optional(entry, "data", str) or "" for entry in details)
    if not (text or signature or redacted):
        return None
    return Reasoning(text, signature or None, redacted or None)


def write_reasoning(
    fields: JsonObject, parts: Sequence[Reasoning], field: str | None, *, keeps_extras: bool
) -> None:
    """Set the reasoning of a message in a history.

    Raises:
        Misfit: The host takes none, or its field has no room for a signature.
    """
    if not parts:
        return
    if field is None:
        raise Misfit("this host takes no reasoning back", "reasoning")
    if field == "reasoning_details":
        fields[field] = [
            {**entry, **(part.extras if keeps_extras else {})}
            for part in parts
            for entry in detail_entries(part)
        ]
        return
    if any(part.signature or part.redacted for part in parts):
        raise Misfit(
            "signed or encrypted reasoning can travel only in reasoning_details, "
            f"which this host does not read (it reads {field})",
            field,
        )
    fields[field] = "".join(part.text for part in parts)


def write_reply_reasoning(fields: JsonObject, parts: Sequence[Reasoning]) -> None:
    """Set a reply's reasoning in the field clients of Kimi read; what that lacks, in details."""
    text = "".join(part.text for part in parts)
    if text:
        fields["reasoning_content"] = text
    if any(part.signature or part.redacted for part in parts):
        fields["reasoning_details"] = [entry for part in parts for entry in detail_entries(part)]


def detail_entries(part: Reasoning) -> list[JsonObject]:
    """One part as entries of ``reasoning_details``."""
    entries: list[JsonObject] = []
    if part.text or part.signature is not None or part.redacted is None:
        entry: JsonObject = {"type": "reasoning.text", "text": part.text}
        if part.signature is not None:
            entry["signature"] = part.signature
        entries.append(entry)
    if part.redacted is not None:
        entries.append({"type": "reasoning.encrypted", "data": part.redacted})
    return entries


def _plain(fields: JsonObject) -> str:
    return optional(fields, "reasoning_content", str) or optional(fields, "reasoning", str) or ""


def _details(fields: JsonObject) -> list[JsonObject]:
    entries = optional_list(fields, "reasoning_details")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise Misfit("must be an object", "reasoning_details", index)
    return cast("list[JsonObject]", entries)


def _entry_text(entry: JsonObject) -> str:
    return optional(entry, "text", str) or optional(entry, "summary", str) or ""


def _read_entry(entry: JsonObject) -> Reasoning:
    extras: dict[str, JsonValue] = dict(leftovers(entry, _KNOWN))
    if entry.get("type") not in ("reasoning.text", "reasoning.encrypted"):
        extras["type"] = entry.get("type")
    return Reasoning(
        _entry_text(entry),
        optional(entry, "signature", str),
        optional(entry, "data", str),
        extras,
    )
