"""A request on its way to a host: what it holds, what was changed so far."""

from typing import Any

from msgspec import structs

from kimiya.catalog.card import ModelCard
from kimiya.core.exchange import Adjustment, Mode, Request
from kimiya.core.messages import Opaque, Reasoning, Text, ToolResult
from kimiya.errors import InvalidRequest

OPENAI = frozenset({"openai_chat", "openai_responses"})
"""Dialects whose clients say the mode in extras."""


class Draft:
    """The request as it stands, and the notes."""

    __slots__ = (
        "adjustments",
        "asked",
        "call_ids",
        "card",
        "dialect",
        "given",
        "mode",
        "request",
        "survey",
    )

    def __init__(self, request: Request, card: ModelCard, dialect: str | None) -> None:
        self.given = request
        """As the caller wrote it."""
        self.request = request
        """As it stands."""
        self.card = card
        self.dialect = dialect
        """Name of the dialect it will be written in; ``None`` where no wire is involved."""
        self.survey = Survey(request)
        self.adjustments: list[Adjustment] = []
        self.asked: Mode | None = None
        """The mode the caller asked for."""
        self.mode: Mode = card.thinking.default
        """The mode the call will run in."""
        self.call_ids: dict[str, str] = {}
        """Call ids as sent, to the caller's own, where they differ."""

    def change(self, **fields: Any) -> None:
        """Replace fields of the request."""
        self.request = structs.replace(self.request, **fields)

    def note(self, code: str, detail: str, path: str | None = None) -> None:
        """Report a change."""
        self.adjustments.append(Adjustment(code, detail, path))

    def refuse(self, message: str) -> InvalidRequest:
        """An error raised before anything is sent; another route may do better."""
        return InvalidRequest(message, code="unfit_for_model")

    @property
    def label(self) -> str:
        """The model, as messages name it."""
        return f"{self.card.model_id} at {self.card.host}"


class Survey:
    """What a request holds, learnt in one pass, so that each step need not look for itself."""

    __slots__ = (
        "has_blank",
        "has_extras",
        "has_late_system",
        "has_marks",
        "has_names",
        "has_neighbours",
        "kinds",
        "result_kinds",
        "roles",
    )

    def __init__(self, request: Request) -> None:
        self.roles: set[str] = set()
        self.kinds: set[type] = set()
        """Types of parts, those inside tool results included."""
        self.result_kinds: set[type] = set()
        """Types of parts inside tool results."""
        self.has_blank = False
        """A text of nothing but space, or a message or result with no part."""
        self.has_extras = False
        """A message, part or tool with fields a dialect kept."""
        self.has_late_system = False
        """A system or developer message after the conversation has begun."""
        self.has_marks = False
        self.has_names = False
        self.has_neighbours = False
        """Two messages of one role side by side."""
        before = ""
        has_begun = False
        for message in request.messages:
            role = message.role
            self.roles.add(role)
            if role == before:
                self.has_neighbours = True
            before = role
            if role == "system" or role == "developer":
                self.has_late_system |= has_begun
            else:
                has_begun = True
            if message.name is not None:
                self.has_names = True
            if message.extras:
                self.has_extras = True
            if not message.parts:
                self.has_blank = True
            self._look(message.parts, self.kinds)
        for tool in request.tools:
            if tool.cache is not None:
                self.has_marks = True
            if tool.extras:
                self.has_extras = True

    def _look(self, parts: tuple[Any, ...], kinds: set[type]) -> None:
        for part in parts:
            kind: type = part.__class__
            kinds.add(kind)
            if kind is Text:
                if not part.text or part.text.isspace():
                    self.has_blank = True
            elif kind is ToolResult:
                if not part.content:
                    self.has_blank = True
                self._look(part.content, self.result_kinds)
                kinds |= self.result_kinds
            if kind is not Reasoning and part.cache is not None:
                self.has_marks = True
            if kind is not Opaque and part.extras:
                self.has_extras = True
