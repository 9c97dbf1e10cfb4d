"""Waiting for a prefix another call is writing: ``caching.single_flight`` on the event loop."""

import asyncio
from collections.abc import Sequence

from kimiya.caching.single_flight import Go, SingleFlight
from kimiya.core.clock import Clock


class Flights:
    """Calls that write a prefix, and those that wait for them."""

    def __init__(self, clock: Clock, flight: SingleFlight | None = None) -> None:
        self._clock = clock
        self._flight = flight or SingleFlight()
        self._landings: dict[int, asyncio.Event] = {}

    async def board(self, gates: Sequence[bytes]) -> int:
        """Wait until no other call is writing a prefix of this one.

        Returns:
            A ticket for ``written`` or ``abandoned``.
        """
        while True:
            admission = self._flight.admit(gates, self._clock.monotonic())
            if isinstance(admission, Go):
                return admission.ticket
            landing = self._landings.setdefault(admission.ticket, asyncio.Event())
            left_s = admission.until_s - self._clock.monotonic()
            try:
                await asyncio.wait_for(landing.wait(), left_s)
            except TimeoutError:
                self._land(admission.ticket)

    def written(self, ticket: int) -> None:
        """The reply has begun: the host holds the prefix."""
        self._flight.written(ticket)
        self._land(ticket)

    def abandoned(self, ticket: int) -> None:
        """The call ended without a reply."""
        self._flight.abandoned(ticket)
        self._land(ticket)

    def _land(self, ticket: int) -> None:
        landing = self._landings.pop(ticket, None)
        if landing is not None:
            landing.set()
