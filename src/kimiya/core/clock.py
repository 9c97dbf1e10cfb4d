"""Time behind a protocol, so that tests and replays own it.

The one module of ``core`` that touches the real clock and asyncio.
"""

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol


class Clock(Protocol):
    """What the shell may know of time."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait; returns at once for zero or less, after a turn of the loop."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(max(0.0, delay_s))


class VirtualClock:
    """A clock that stands still until it is told to move.

    ``advance`` wakes sleepers in the order of their deadlines and lets the loop run between them:
    an hour of timeouts passes in microseconds, and always in the same order.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """The start plus what was advanced."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed_s

    async def sleep(self, delay_s: float) -> None:
        """Wait until ``advance`` passes the deadline."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        waiter = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + delay_s, next(self._order), waiter))
        await waiter

    @property
    def next_deadline_s(self) -> float | None:
        """Seconds at which the next sleeper wakes, on this clock's own scale."""
        self._drop_cancelled()
        return self._sleepers[0][0] if self._sleepers else None

    async def advance(self, delta_s: float, *, settle_turns: int = 20) -> None:
        """Move forward, waking each sleeper whose deadline passes, in order.

        Args:
            delta_s: Seconds to move.
            settle_turns: Turns of the event loop granted after each waking.
        """
        target = self._elapsed_s + delta_s
        await self._settle(settle_turns)
        while (deadline := self.next_deadline_s) is not None and deadline <= target:
            self._elapsed_s = deadline
            _, _, waiter = heapq.heappop(self._sleepers)
            waiter.set_result(None)
            await self._settle(settle_turns)
        self._elapsed_s = target

    def _drop_cancelled(self) -> None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)

    @staticmethod
    async def _settle(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)


if TYPE_CHECKING:
    _system: Clock = SystemClock()
    _virtual: Clock = VirtualClock()
