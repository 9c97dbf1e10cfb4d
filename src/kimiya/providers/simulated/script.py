"""What a simulated host says: settings, and replies that are chosen by condition.

Values only; ``parser`` reads them from a file, ``conditions`` chooses, ``host`` plays. The format
is described in ``docs/simulate.md``.
"""

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from kimiya.core.exchange import FinishReason, Usage

IdStyle: TypeAlias = Literal["canonical", "call", "toolu", "tooluse"]
"""How call ids look: ``functions.NAME:IDX`` (Kimi's own), ``call_…`` (OpenAI), ``toolu_…``
(Anthropic), ``tooluse_…`` (Bedrock)."""

Subject: TypeAlias = Literal["user", "system", "result", "model"]


class Matches(Struct, frozen=True):
    """A text of the request is searched for a pattern."""

    subject: Subject
    pattern: re.Pattern[str]


class HasResult(Struct, frozen=True):
    """Tool results came since the model last spoke."""


class Declares(Struct, frozen=True):
    """The request declares tools; this one, where ``name`` is given."""

    name: str | None = None


class Turn(Struct, frozen=True):
    """The model speaks for the ``number``-th time in this conversation, counted in its history."""

    number: int


class Nth(Struct, frozen=True):
    """The host answers its ``number``-th request, from any client."""

    number: int


class Streamed(Struct, frozen=True):
    """The request asks for a stream."""


Fact: TypeAlias = Matches | HasResult | Declares | Turn | Nth | Streamed


class Condition(Struct, frozen=True):
    """A fact about a request, or its absence."""

    fact: Fact
    is_negated: bool = False


class Say(Struct, frozen=True):
    """Words of the model."""

    channel: Literal["text", "reasoning"]
    text: str
    is_template: bool = True
    """``raw`` words are said as they stand."""


class CallTool(Struct, frozen=True):
    """A tool call as the host's own wire carries it."""

    name: str
    arguments: str
    """JSON text; a template."""
    call_id: str | None = None
    """``None`` makes one up in the script's style."""


class ReportUsage(Struct, frozen=True):
    """Token counts; ``None`` reports none."""

    usage: Usage | None


class End(Struct, frozen=True):
    """Why the model stopped, where it is not what follows from the reply."""

    finish_reason: FinishReason
    raw: str | None = None


class Fail(Struct, frozen=True):
    """The host answers with an error; after words, in the middle of the stream."""

    status: int
    code: str | None = None
    message: str = "scripted error"
    retry_after_s: float | None = None


class Page(Struct, frozen=True):
    """Something before the host answers with an HTML page instead."""

    status: int


class Pause(Struct, frozen=True):
    """Nothing is sent for a while; ``None`` is for ever."""

    delay_s: float | None


class Cut(Struct, frozen=True):
    """The connection breaks."""


class Befall(Struct, frozen=True):
    """A fault strikes this reply: a family (``B``) or one of its forms (``B.spaced``)."""

    fault: str


Step: TypeAlias = Say | CallTool | ReportUsage | End | Fail | Page | Pause | Cut | Befall


class Settings(Struct, frozen=True):
    """What holds until a reply says otherwise."""

    ids: IdStyle = "canonical"
    piece_chars: int | None = 24
    """Characters of one delta; ``None`` sends each part whole."""
    delay_s: float = 0.0
    """Between two deltas."""


class ScriptedReply(Struct, frozen=True):
    """One thing the host may answer."""

    line: int
    """Where it begins in the file."""
    steps: tuple[Step, ...]
    settings: Settings
    conditions: tuple[Condition, ...] = ()
    """All must hold."""
    is_once: bool = False
    """Said at most once in the life of the host."""


class Script(Struct, frozen=True):
    """Everything a simulated host knows."""

    name: str
    """Name of its file, for messages."""
    replies: tuple[ScriptedReply, ...]
    """The first whose conditions hold is said."""
    models: tuple[str, ...] = ("kimi-simulated",)
    """What the host lists; it answers to any name."""
    rates: Mapping[str, float] = {}
    """Fault name to the share of replies it strikes."""
    retry_after_s: float = 1.0
    """What a 429 by chance asks for."""
    seed: int | None = None
    """``None`` leaves it to who runs the script."""
