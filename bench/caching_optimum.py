"""The cheapest that breakpoints can make a piece of work, with all its calls known in advance.

``bound`` is a proof, ``found`` a placement, ``exhaustive`` both for small work.

**The bound.** Give a host unlimited marks, no minimum, and let it read what is being written. Then
each prefix (each block in its context) is on its own: at every call that holds it, its last block
is read plainly, written for a lifetime, or read from the cache if still alive. The cheapest
sequence of these is a shortest path over the calls that hold it. The sum over all prefixes is at
most what any placement costs, because every placement makes such a sequence for each prefix.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

from caching_shapes import Shape

from kimiya.caching.history import TTL_S
from kimiya.caching.host_cache import HostCache
from kimiya.caching.prefix import Block, read_prefix
from kimiya.caching.volatile import StableHeads
from kimiya.catalog.card import ModelCard, Price
from kimiya.catalog.pricing import cost_usd
from kimiya.core.messages import CacheTtl

Counted = Callable[[Sequence[Block]], tuple[Block, ...]]
Marks = dict[int, CacheTtl]
_MILLION = Decimal(1_000_000)


def calls_of(shape: Shape, counted: Counted) -> list[tuple[float, tuple[Block, ...]]]:
    """Each call's time and blocks, system texts cut before their volatile words."""
    heads = StableHeads()
    return [(a.at_s, counted(read_prefix(a.request, "host", heads).blocks)) for a in shape.arrivals]


def price_of(card: ModelCard) -> Price:
    """The first tier; the shapes stay within it."""
    price = min(card.prices, key=lambda row: (row.above_input_tokens, row.since))
    assert price.cache_read_usd_per_mtok is not None
    assert price.cache_write_5m_usd_per_mtok is not None
    return price


def bound(shape: Shape, card: ModelCard, counted: Counted) -> Decimal:
    """Dollars no placement can go under."""
    return sum((usd for usd, _ in _prefixes(calls_of(shape, counted), card).values()), Decimal(0))


def _prefixes(
    calls: Sequence[tuple[float, tuple[Block, ...]]], card: ModelCard
) -> dict[bytes, tuple[Decimal, list[str]]]:
    """Of each prefix: what it costs at least, and what is done at each call that holds it."""
    times: dict[bytes, list[float]] = {}
    sizes: dict[bytes, int] = {}
    for at_s, blocks in calls:
        before = 0
        for block in blocks:
            times.setdefault(block.digest, []).append(at_s)
            sizes[block.digest] = block.tokens - before
            before = block.tokens
    price = price_of(card)
    return {digest: _shortest(sizes[digest], at, price) for digest, at in times.items()}


def _shortest(tokens: int, times: Sequence[float], price: Price) -> tuple[Decimal, list[str]]:
    """The cheapest sequence for one prefix. States: not cached, cached for either lifetime."""
    usd = {
        "plain": price.input_usd_per_mtok,
        "read": price.cache_read_usd_per_mtok,
        "5m": price.cache_write_5m_usd_per_mtok,
        "1h": price.cache_write_1h_usd_per_mtok,
    }
    states: dict[str, tuple[Decimal, list[str]]] = {"": (Decimal(0), [])}
    for number, at_s in enumerate(times):
        following: dict[str, tuple[Decimal, list[str]]] = {}
        for state, (cost, path) in states.items():
            options = [("plain", ""), ("5m", "5m"), ("1h", "1h")]
            if state in TTL_S and at_s - times[number - 1] <= TTL_S[state]:
                options.append(("read", state))
            for action, then in options:
                rate = usd[action]
                if rate is None:
                    continue
                total = cost + tokens * rate / _MILLION
                if then not in following or total < following[then][0]:
                    following[then] = (total, [*path, action])
        states = following
    return min(states.values(), key=lambda item: item[0])


def found(shape: Shape, card: ModelCard, counted: Counted) -> Decimal:
    """A placement of at most four marks a call, made from the bound's paths, as the host bills it.

    A call is marked behind the deepest prefix the paths cache, and behind those at which other
    calls leave it.
    """
    calls = calls_of(shape, counted)
    paths = _prefixes(calls, card)
    seen: dict[bytes, int] = {}
    depths: list[tuple[int, str]] = []
    for _, blocks in calls:
        tip, ttl = -1, "5m"
        for at, block in enumerate(blocks):
            turn = seen.get(block.digest, 0)
            seen[block.digest] = turn + 1
            action = paths[block.digest][1][turn]
            if action != "plain":
                tip, ttl = at, action if action == "1h" else ttl
        depths.append((tip, ttl))
    host = HostCache(card.cache, lookback=10_000)
    usd = Decimal(0)
    for number, (at_s, blocks) in enumerate(calls):
        marks = _marks(number, calls, depths, card.cache.max_breakpoints)
        usage = host.bill(blocks, marks, at_s)
        cost = cost_usd(usage, price_of(card))
        assert cost is not None
        usd += cost
    return usd


def _marks(
    number: int,
    calls: Sequence[tuple[float, tuple[Block, ...]]],
    depths: Sequence[tuple[int, str]],
    most: int,
) -> Marks:
    tip, ttl = depths[number]
    if tip < 0:
        return {}
    mine = [block.digest for block in calls[number][1]]
    leaving: dict[int, int] = {}
    for other, (_, blocks) in enumerate(calls):
        shared = 0
        for a, b in zip(mine[: tip + 1], blocks[: depths[other][0] + 1], strict=False):
            if a != b.digest:
                break
            shared += 1
        if other != number and 0 < shared <= tip:
            leaving[shared - 1] = leaving.get(shared - 1, 0) + 1
    best = sorted(leaving, key=lambda at: leaving[at], reverse=True)[: most - 1]
    kept: CacheTtl = "1h" if ttl == "1h" else "5m"
    return dict.fromkeys(sorted({tip, *best}), kept)


def exhaustive(shape: Shape, card: ModelCard, counted: Counted) -> tuple[Decimal, int]:
    """The cheapest of every placement, tried one by one.

    Lifetimes are five minutes throughout: for work without longer pauses an hour's costs more and
    gives nothing. A partial placement is given up once it and the least the rest can cost exceed
    the cheapest whole one.

    Returns:
        Dollars, and how many (partial) placements were billed.
    """
    calls = calls_of(shape, counted)
    rest = _least_rest(calls, price_of(card))
    best = [found(shape, card, counted)]
    tried = [0]

    def go(number: int, host: HostCache, usd: Decimal) -> None:
        if number == len(calls):
            best[0] = min(best[0], usd)
            return
        at_s, blocks = calls[number]
        for marks in _placements(len(blocks), card.cache.max_breakpoints):
            tried[0] += 1
            branch = host.copy()
            cost = cost_usd(branch.bill(blocks, marks, at_s), price_of(card))
            assert cost is not None
            if usd + cost + rest[number + 1] < best[0]:
                go(number + 1, branch, usd + cost)

    go(0, HostCache(card.cache), Decimal(0))
    return best[0], tried[0]


def _placements(blocks: int, most: int) -> Iterator[Mapping[int, CacheTtl]]:
    for count in range(most, -1, -1):
        for chosen in itertools.combinations(range(blocks), count):
            yield dict.fromkeys(chosen, "5m")


def _least_rest(calls: Sequence[tuple[float, tuple[Block, ...]]], price: Price) -> list[Decimal]:
    """What the calls from each on cost at least: the new plainly, the rest as if cached."""
    seen: set[bytes] = set()
    least: list[Decimal] = []
    for _, blocks in calls:
        before = 0
        usd = Decimal(0)
        for block in blocks:
            rate = (
                price.cache_read_usd_per_mtok if block.digest in seen else price.input_usd_per_mtok
            )
            assert rate is not None
            usd += (block.tokens - before) * rate / _MILLION
            before = block.tokens
            seen.add(block.digest)
        least.append(usd)
    return [sum(least[at:], Decimal(0)) for at in range(len(least) + 1)]
