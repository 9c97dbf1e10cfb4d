"""The seam of taming: everything passes through unchanged, made serial."""

from msgspec import Struct

from kimiya.catalog.card import ModelCard
from kimiya.core.events import StreamEvent
from kimiya.core.exchange import Adjustment, Request, Verdict
from kimiya.core.fold import Serialiser


class Prepared(Struct, frozen=True):
    """A request made ready for one target, and what was done to it."""

    request: Request
    adjustments: tuple[Adjustment, ...] = ()


def prepare(request: Request, card: ModelCard) -> Prepared:
    """Make a request's history safe for this target."""
    return Prepared(request)


class Tamer:
    """Turns the raw events of one reply into tame ones."""

    def __init__(self, prepared: Prepared, card: ModelCard) -> None:
        self._prepared = prepared
        self._card = card
        self._serial = Serialiser()
        self._verdict = Verdict()

    @property
    def verdict(self) -> Verdict:
        """How the turn came out; final after ``close``."""
        return self._verdict

    def feed(self, event: StreamEvent) -> list[StreamEvent]:
        """One raw event in; the tame events that may go out now."""
        return self._serial.feed(event)

    def close(self) -> list[StreamEvent]:
        """The raw stream ended; what is still held back."""
        return []
