"""The first of several calls with the same new prefix goes ahead until the host has written it.

Asked N questions about one document at once, a host writes the document N times; asked one and,
once its reply has begun, the others, it writes it once. This is the state of that, and no more: who
waits, how, and on which clock is the caller's affair.

::

    admit(gates, now_s) -> Go        send now; then ``written`` (its reply has begun) or
                                     ``abandoned`` (it failed or was dropped) with the same ticket
                        -> WaitFor   ask again when the ticket is closed, at the latest ``until_s``

Invariants: a prefix has one writer at a time; a call never waits for a ticket longer than
``patience_s`` after that was given, so a lost ticket delays and never blocks; calls that share
nothing never wait for each other; closing a ticket twice, or an unknown one, changes nothing.
"""

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct


class Go(Struct, frozen=True):
    """Send the call now."""

    ticket: int
    """To be closed with ``written`` or ``abandoned``; 0 where nobody can be waiting for it."""


class WaitFor(Struct, frozen=True):
    """Another call is writing a prefix of this one."""

    ticket: int
    """Of the call that writes it."""
    digest: bytes
    """The prefix."""
    until_s: float
    """When to ask again even if the ticket was never closed; same clock as ``now_s``."""


Admission: TypeAlias = Go | WaitFor


class SingleFlight:
    """Which prefixes are being written right now.

    Args:
        patience_s: How long a call may be waited for.
        capacity: Most prefixes held; beyond it calls go without waiting.
    """

    def __init__(self, patience_s: float = 30.0, capacity: int = 10_000) -> None:
        self._patience_s = patience_s
        self._capacity = capacity
        self._writers: dict[bytes, tuple[int, float]] = {}
        self._held: dict[int, tuple[bytes, ...]] = {}
        self._last_ticket = 0

    def __len__(self) -> int:
        return len(self._held)

    def admit(self, gates: Sequence[bytes], now_s: float) -> Admission:
        """Whether a call may go.

        Args:
            gates: Prefixes it would write, deep to shallow (``PrefixKeys.gates``).
            now_s: Seconds on any clock that does not go back.
        """
        for digest in gates:
            writer = self._writers.get(digest)
            if writer is None:
                continue
            ticket, until_s = writer
            if now_s < until_s:
                return WaitFor(ticket, digest, until_s)
            self._close(ticket)
        if not gates or len(self._writers) + len(gates) > self._capacity:
            return Go(0)
        self._last_ticket += 1
        self._held[self._last_ticket] = tuple(gates)
        for digest in gates:
            self._writers[digest] = (self._last_ticket, now_s + self._patience_s)
        return Go(self._last_ticket)

    def written(self, ticket: int) -> None:
        """The reply has begun: the host holds the prefix, and whoever waited may go."""
        self._close(ticket)

    def abandoned(self, ticket: int) -> None:
        """The call ended without a reply; the next one that asks writes in its place."""
        self._close(ticket)

    def is_open(self, ticket: int) -> bool:
        """Whether a call is still writing."""
        return ticket in self._held

    def _close(self, ticket: int) -> None:
        for digest in self._held.pop(ticket, ()):
            writer = self._writers.get(digest)
            if writer is not None and writer[0] == ticket:
                del self._writers[digest]
