"""The stream of one reply, as a closed union of frozen events.

Order: ``StreamStart`` first, at most once; then parts; then exactly one ``Finish``; ``UsageReport``
any time after the start, and the last one counts. A stream that ends without ``Finish`` was cut.

Every part has a number, ``part``, unique in the reply; ``fold`` puts parts in the order of their
numbers. An upstream decoder may interleave parts (OpenAI hosts do). Events that leave the pipeline
are *serial*, and encoders rely on it: a call, once opened, gets all its deltas before any other
part gets one. Text and reasoning may pause for a call and go on after it; an encoder then opens a
new block.
"""

from typing import TypeAlias

from msgspec import Struct

from kimiya.core.exchange import FinishReason, Usage
from kimiya.core.messages import NO_EXTRAS, Extras


class StreamStart(Struct, frozen=True, tag="start"):
    """The host began to answer. Comes first, at most once."""

    response_id: str = ""
    model: str = ""
    created: int | None = None
    extras: Extras = NO_EXTRAS


class TextDelta(Struct, frozen=True, tag="text"):
    """More visible text. The first one of a ``part`` opens it."""

    part: int
    text: str


class ReasoningDelta(Struct, frozen=True, tag="reasoning"):
    """More reasoning. ``signature`` and ``redacted`` usually come alone, at the part's end."""

    part: int
    text: str = ""
    signature: str | None = None
    redacted: str | None = None


class ToolCallDelta(Struct, frozen=True, tag="tool_call"):
    """More of a call. The first one of a ``part`` opens it.

    A tame stream gives ``call_id`` and ``name`` whole in the first delta and leaves them empty
    after; raw streams may do anything: repeat, split or omit them.
    """

    part: int
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    """The next piece of raw JSON text."""


class PartEnd(Struct, frozen=True, tag="part_end"):
    """A part is complete. Optional: only dialects that say so on the wire send it."""

    part: int


class UsageReport(Struct, frozen=True, tag="usage"):
    """Tokens so far, as the host counts them; each report replaces the one before."""

    usage: Usage


class Finish(Struct, frozen=True, tag="finish"):
    """The model stopped. Exactly one ends the parts; only ``UsageReport`` may follow."""

    finish_reason: FinishReason
    raw_finish_reason: str | None = None
    stop_sequence: str | None = None
    extras: Extras = NO_EXTRAS


StreamEvent: TypeAlias = (
    StreamStart | TextDelta | ReasoningDelta | ToolCallDelta | PartEnd | UsageReport | Finish
)
