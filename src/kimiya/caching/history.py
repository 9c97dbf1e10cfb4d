"""What has been seen of prefixes: how often each came back, after what gap, how long it lives.

A store is handed to the planner behind ``PrefixHistory``; it keeps values and decides nothing.
Everything in it is bounded, and losing any of it costs money for a call or two, never correctness.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from kimiya.core.messages import CacheTtl

TTL_S: dict[CacheTtl, float] = {"5m": 300.0, "1h": 3600.0}
"""How long a cached prefix lives after its last use, in seconds."""


class Sight(Struct, frozen=True, gc=False):
    """What is known of one prefix."""

    last_s: float
    """When a call with it last ended well, in Unix seconds."""
    quick: int = 0
    """Times it came back within five minutes of the time before."""
    slow: int = 0
    """Times it came back after that, within an hour."""
    late: int = 0
    """Times it came back later still."""
    alive_until_s: float = 0.0
    """When the host forgets it, as far as usage has shown; 0 where it was never written."""
    ttl: CacheTtl = "5m"
    """The lifetime it was written with."""
    trials: tuple[str, ...] = ()
    """Scopes in which its first return is still awaited."""
    line_quick: int = 0
    """Quick returns along the conversation that leads to it."""
    line_slow: int = 0
    """Slow ones."""

    @property
    def returns(self) -> int:
        """Times it came back at all."""
        return self.quick + self.slow + self.late

    def is_alive(self, now_s: float) -> bool:
        """Whether the host still holds it."""
        return self.alive_until_s > now_s


class Rates(Struct):
    """How often prefixes of one class come back. The store owns it; it changes."""

    quick: float = 0.0
    slow: float = 0.0
    missed: float = 0.0
    """Not back within five minutes."""
    open_s: list[tuple[float, bytes]] = []
    """Those still awaited: when each was seen, oldest first, and its digest."""


class PrefixHistory(Protocol):
    """Where a planner keeps what it learns. Calls are short and never block.

    ``rates`` returns a value the caller may change in place; a store that is not this process's
    memory gives a copy and takes it back with ``keep_rates``.
    """

    def sights(self, digests: Iterable[bytes]) -> list[Sight | None]:
        """What is known of each prefix, in the order asked."""
        ...

    def keep_sights(self, sights: Iterable[tuple[bytes, Sight]]) -> None:
        """Replace what is known of these prefixes."""
        ...

    def rates(self, scope: str) -> Rates:
        """Of one class; empty where nothing is known."""
        ...

    def keep_rates(self, scope: str, rates: Rates) -> None:
        """Replace what is known of one class."""
        ...


class MemoryHistory:
    """A ``PrefixHistory`` in this process, forgetting what was not used for longest.

    Args:
        prefixes: How many prefixes to remember (about 300 bytes each).
        scopes: How many classes to remember (about 200 bytes each).
    """

    def __init__(self, prefixes: int = 50_000, scopes: int = 16_384) -> None:
        self._prefixes = prefixes
        self._scopes = scopes
        self._sights: OrderedDict[bytes, Sight] = OrderedDict()
        self._rates: OrderedDict[str, Rates] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sights)

    def sights(self, digests: Iterable[bytes]) -> list[Sight | None]:
        """See ``PrefixHistory``."""
        return list(map(self._sights.get, digests))

    def keep_sights(self, sights: Iterable[tuple[bytes, Sight]]) -> None:
        """See ``PrefixHistory``."""
        known = self._sights
        for digest, sight in sights:
            known[digest] = sight
            known.move_to_end(digest)
        while len(known) > self._prefixes:
            known.popitem(last=False)

    def rates(self, scope: str) -> Rates:
        """See ``PrefixHistory``."""
        return self._rates.get(scope) or Rates(open_s=[])

    def keep_rates(self, scope: str, rates: Rates) -> None:
        """See ``PrefixHistory``."""
        self._rates[scope] = rates
        self._rates.move_to_end(scope)
        if len(self._rates) > self._scopes:
            self._rates.popitem(last=False)
