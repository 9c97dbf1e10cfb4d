"""A message and its parts, free of any wire format.

Invariants, which dialects establish when they decode and may rely on when they encode:

* A ``ToolResult`` stands only in a message of role ``tool``; a ``ToolCall`` and ``Reasoning`` only
  in one of role ``assistant``.
* Two messages of role ``tool`` never stand side by side: results of one round share a message.
* ``ToolCall.arguments`` is the model's raw JSON text. Taming validates it, a dialect never does.
* What a dialect does not know is kept verbatim, either in ``extras`` or as an ``Opaque`` part, and
  can be written again only by the dialect that read it.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct

JsonValue: TypeAlias = Any
"""Decoded JSON. ``Any`` because the type is recursive and checked at the wire, not here."""

Extras: TypeAlias = Mapping[str, JsonValue]
"""Fields a dialect read but does not know, by their wire name."""

NO_EXTRAS: Extras = {}

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
CacheTtl: TypeAlias = Literal["5m", "1h"]


class Breakpoint(Struct, frozen=True):
    """A cache mark: the prefix up to and including the marked thing may be cached."""

    ttl: CacheTtl | None = None
    """Lifetime asked for; ``None`` leaves it to the host's default."""


class Url(Struct, frozen=True, tag="url"):
    """Media at an address: ``https:``, or a host's own scheme such as ``ms://FILE_ID``."""

    url: str


class Inline(Struct, frozen=True, tag="inline"):
    """Media carried in the body."""

    media_type: str
    """IANA type, such as ``image/png``."""
    data: str
    """Standard base64, as on the wire; decoded only where a host wants bytes."""


class HostFile(Struct, frozen=True, tag="file"):
    """Media the host already holds, by its own id."""

    file_id: str


MediaSource: TypeAlias = Url | Inline | HostFile


class Text(Struct, frozen=True, tag="text"):
    """Visible text."""

    text: str
    cache: Breakpoint | None = None
    extras: Extras = NO_EXTRAS


class Reasoning(Struct, frozen=True, tag="reasoning"):
    """Visible chain of thought, or its opaque stand-in.

    Exactly one of ``text`` and ``redacted`` carries content; ``signature`` proves ``text`` to the
    host that made it and must travel back unchanged.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    """Encrypted reasoning, verbatim as the host sent it (base64)."""
    extras: Extras = NO_EXTRAS


class Image(Struct, frozen=True, tag="image"):
    """A picture."""

    source: MediaSource
    detail: str | None = None
    """OpenAI's ``low`` / ``high`` / ``auto`` hint."""
    cache: Breakpoint | None = None
    extras: Extras = NO_EXTRAS


class Video(Struct, frozen=True, tag="video"):
    """A moving picture, as Kimi K2.5 takes it (``video_url``)."""

    source: MediaSource
    cache: Breakpoint | None = None
    extras: Extras = NO_EXTRAS


class Opaque(Struct, frozen=True, tag="opaque"):
    """A content block of a kind we have no value for, kept verbatim.

    Only ``dialect`` can write it; every other dialect raises ``LocalProtocolError``.
    """

    dialect: str
    block: JsonValue
    cache: Breakpoint | None = None


class ToolCall(Struct, frozen=True, tag="tool_call"):
    """The model asks for a tool to be run."""

    call_id: str
    name: str
    arguments: str
    """Raw JSON text as the model wrote it; ``""`` is what some hosts send for no arguments."""
    cache: Breakpoint | None = None
    extras: Extras = NO_EXTRAS


ResultPart: TypeAlias = Text | Image | Video | Opaque


class ToolResult(Struct, frozen=True, tag="tool_result"):
    """What running a tool gave."""

    call_id: str
    content: tuple[ResultPart, ...] = ()
    is_error: bool = False
    """The tool failed; its content says how. Data for the model, not an exception."""
    name: str | None = None
    """The tool's name where the wire repeats it."""
    cache: Breakpoint | None = None
    extras: Extras = NO_EXTRAS


Part: TypeAlias = Text | Reasoning | Image | Video | Opaque | ToolCall | ToolResult


class Message(Struct, frozen=True):
    """One turn of one speaker."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    """The speaker's name, where the dialect has one."""
    extras: Extras = NO_EXTRAS

    @property
    def text(self) -> str:
        """All visible text, joined.

        >>> Message("user", (Text("a"), Text("b"))).text
        'ab'
        """
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def reasoning(self) -> str:
        """All readable reasoning, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Reasoning))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls in the order the model made them."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """The results in the order the client gave them."""
        return tuple(part for part in self.parts if isinstance(part, ToolResult))


def user(text: str) -> Message:
    """A user's message of plain text.

    >>> user("hello").text
    'hello'
    """
    return Message("user", (Text(text),))


def system(text: str) -> Message:
    """A system message of plain text."""
    return Message("system", (Text(text),))
