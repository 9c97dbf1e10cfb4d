"""What was learnt from AWS, for a while: bounded, and each thing asked for once at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kimiya.core.clock import Clock

T = TypeVar("T")
_MAX_ENTRIES = 1024
"""Ids come from clients, so what is kept of them is bounded; the longest unused goes first."""


class Memory(Generic[T]):
    """Values by name, each with the moment it stops being true."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, T]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[T]] = {}

    def get(self, name: str) -> T | None:
        """What is known and still true."""
        end_s, value = self._held.get(name, (0.0, None))
        if value is None or end_s <= self._clock.monotonic():
            return None
        self._held.move_to_end(name)
        return value

    def keep(self, name: str, value: T, ttl_s: float) -> None:
        """Remember for so many seconds."""
        self._held[name] = (self._clock.monotonic() + ttl_s, value)
        self._held.move_to_end(name)
        while len(self._held) > _MAX_ENTRIES:
            self._held.popitem(last=False)

    def forget(self, name: str) -> None:
        """It was not true after all."""
        self._held.pop(name, None)

    async def found(self, name: str, ask: Callable[[], Awaitable[tuple[T, float]]]) -> T:
        """What is known, or what ``ask`` says together with how long that is true.

        Callers who come while it is asked wait for the one answer; one who leaves does not take it
        from the others.
        """
        held = self.get(name)
        if held is not None:
            return held
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.ensure_future(self._learn(name, ask))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)

    async def _learn(self, name: str, ask: Callable[[], Awaitable[tuple[T, float]]]) -> T:
        value, ttl_s = await ask()
        self.keep(name, value, ttl_s)
        return value
