"""What the scanner finds in a channel, in order: text, thoughts, calls it may hold, remarks."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from kimiya.core.exchange import Defect, Repair
from kimiya.core.messages import JsonValue

Channel: TypeAlias = Literal["content", "reasoning", "name", "arguments"]


class Thought(Struct, frozen=True):
    """Reasoning that stood in the visible text between think tags."""

    text: str


class Candidate(Struct, frozen=True):
    """Something that looks like a call; whether it is one is for the schemas to say."""

    header: str
    """Name, id or both, as the model wrote it."""
    arguments: str
    """Raw text of the arguments; ``""`` where there were none."""
    channel: Channel
    dialect: str = "kimi_k2"
    fields: Mapping[str, JsonValue] | None = None
    """Arguments a dialect gives one by one, as text (XML); their types are the schema's to say."""
    is_closed: bool = False
    """The model itself said that the call is complete, by a marker or by going on."""
    is_soft: bool = False
    """It may as well be plain text: shown as such where no declared tool is meant."""
    call_id: str = ""
    raw: str = ""
    """The text it came from, for showing again and for records."""


class Typed(Struct, frozen=True):
    """A bare JSON object that opens the visible text and has a declared tool's keys."""

    raw: str


class Dictated(Struct, frozen=True):
    """An argument that was typed as prose; ``tool`` declared how it looks."""

    tool: str
    argument: str
    text: str
    is_complete: bool = True


Finding: TypeAlias = str | Thought | Candidate | Typed | Dictated | Repair | Defect
"""``str`` is text of the channel's own kind."""


def excerpt(text: str) -> str:
    """At most 200 characters of a text, for records.

    >>> excerpt("a" * 300)[-3:], len(excerpt("a" * 300))
    ('aa…', 200)
    """
    return text if len(text) <= 200 else text[:199] + "…"
