"""Which prefixes get a breakpoint, under the rule of the card.

The deepest prefix that is worth writing, or still alive, ends what is cached. Shallower ones cost
nothing more and are what other conversations can share, so they take the slots that are left, the
most valuable first.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from kimiya.caching.economy import Chance, Factors, best_lifetime
from kimiya.core.messages import CacheTtl

LOOKBACK_BLOCKS = 18
"""How far before a breakpoint a host surely finds an earlier one (Claude: about 20 blocks)."""
_MARGIN = 0.75
"""A prefix estimated at this share of the minimum may reach it; below the minimum a mark is ignored
and free, so trying costs nothing."""


class Candidate(Struct, frozen=True, gc=False):
    """A prefix a breakpoint may end."""

    position: int
    """Of its last block."""
    tokens: int
    chance: Chance
    alive: CacheTtl | None = None
    """The lifetime it is cached with already."""


class Mark(Struct, frozen=True, gc=False):
    """A breakpoint: after which block, for how long."""

    position: int
    ttl: CacheTtl


class Slots(Struct, frozen=True):
    """What the card leaves to us."""

    count: int
    """Breakpoints still free."""
    lifetimes: tuple[CacheTtl, ...]
    """Offered by the host."""
    min_tokens: int
    fixed: tuple[Mark, ...] = ()
    """The client's own, in order."""


def choose(candidates: Sequence[Candidate], factors: Factors, slots: Slots) -> tuple[Mark, ...]:
    """Breakpoints to add, shallow to deep; empty where none is expected to save.

    Args:
        candidates: Shallow to deep; chances do not rise with depth.
        factors: Prices.
        slots: What the rule allows.
    """
    if slots.count <= 0:
        return ()
    worth: list[tuple[Candidate, CacheTtl]] = []
    for candidate in candidates:
        if candidate.tokens < slots.min_tokens * _MARGIN:
            continue
        ttl = candidate.alive or best_lifetime(candidate.chance, factors, slots.lifetimes)
        if ttl is not None:
            worth.append((candidate, ttl))
    if not worth:
        return ()
    chosen = _within(worth, slots.count)
    return _ordered([Mark(c.position, ttl) for c, ttl in chosen], chosen, slots.fixed)


def _within(
    worth: list[tuple[Candidate, CacheTtl]], count: int
) -> list[tuple[Candidate, CacheTtl]]:
    """The best ``count``: the deepest, what reaches back to the cache, then by value."""
    if len(worth) <= count:
        return worth
    tip = worth[-1][0]
    living = [c for c, _ in worth if c.alive]
    needed = living[-1].position if living else -1
    too_far = tip.position - needed > LOOKBACK_BLOCKS

    def value(item: tuple[Candidate, CacheTtl]) -> tuple[int, float]:
        candidate = item[0]
        if candidate is tip:
            return (2, 0.0)
        if candidate.position == needed and too_far:
            return (1, 0.0)
        gain = candidate.chance.hour - tip.chance.hour + 0.05
        return (0, gain * candidate.tokens)

    best = sorted(worth, key=value, reverse=True)[:count]
    return sorted(best, key=lambda item: item[0].position)


def _ordered(
    marks: list[Mark], chosen: list[tuple[Candidate, CacheTtl]], fixed: tuple[Mark, ...]
) -> tuple[Mark, ...]:
    """Lifetimes made not to rise with depth; a mark that cannot fit the client's is left out."""
    alive = {c.position: c.alive for c, _ in chosen}
    longest: CacheTtl = "5m"
    for place in range(len(marks) - 1, -1, -1):
        mark = marks[place]
        if longest == "1h" and mark.ttl == "5m" and alive[mark.position] is None:
            marks[place] = mark = replace(mark, ttl="1h")
        longest = mark.ttl
    out: list[Mark] = []
    for mark in marks:
        before = [other for other in (*out, *fixed) if other.position < mark.position]
        after = [other for other in fixed if other.position > mark.position]
        ttl = mark.ttl
        if any(other.ttl == "1h" for other in after):
            ttl = "1h"
        if any(other.ttl == "5m" for other in before):
            if any(other.ttl == "1h" for other in after):
                continue
            ttl = "5m"
        out.append(replace(mark, ttl=ttl))
    return tuple(out)
