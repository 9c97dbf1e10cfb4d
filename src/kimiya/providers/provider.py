"""What a provider is: something that answers a ``Request`` with events.

The contract, which ``tests/contracts/provider.py`` runs against every implementation:

* ``stream`` yields raw events in the order of ``core.events`` and ends after ``Finish``. A cut
  stream raises ``RemoteProtocolError``; it never just ends.
* ``complete`` gives the same reply whole. ``fold(stream(x))`` and ``complete(x)`` agree.
* Failures are ``ProviderError`` or ``RemoteProtocolError``, named for what happened, before the
  first event where that is possible. No other exception leaves a provider.
* Cancelling the consumer, or closing the iterator, closes the connection to the host. A provider
  holds no task of its own after ``aclose``.
* A provider retries nothing: ``providers.retry`` does, above it.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from msgspec import Struct

from kimiya.catalog.card import ModelCard
from kimiya.core.events import StreamEvent
from kimiya.core.exchange import Request, Response
from kimiya.wire.dialect import Dialect


class Target(Struct, frozen=True):
    """One model at one provider: what a route points at."""

    provider: str
    """Name in the configuration."""
    card: ModelCard
    profile: str | None = None
    """Inference profile the call goes through, as id or ARN, where the host has such."""
    tags: Mapping[str, str] = {}
    """What the profile's owner sorts its cost by."""

    @property
    def label(self) -> str:
        """``provider:model_id``, as routes are written and reports name it."""
        return f"{self.provider}:{self.card.model_id}"


class Provider(Protocol):
    """A host of models. See the module docstring for the contract."""

    @property
    def name(self) -> str:
        """Name in the configuration."""
        ...

    def dialect_for(self, card: ModelCard) -> Dialect | None:
        """The dialect this card is spoken to in; ``None`` where no wire is involved."""
        ...

    def stream(self, request: Request, card: ModelCard) -> AsyncGenerator[StreamEvent, None]:
        """Answer as a stream. ``request.model`` is already ``card.model_id``."""
        ...

    async def complete(self, request: Request, card: ModelCard) -> Response:
        """Answer whole."""
        ...

    async def count_tokens(self, request: Request, card: ModelCard) -> int | None:
        """Input tokens as the host counts them; ``None`` where it does not count."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
