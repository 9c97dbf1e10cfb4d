"""What prompt caching costs under four policies, beside the cheapest placement there is.

    python bench/caching.py [--quick] [--json] [--seeds 5] [--model claude-sonnet-4-5]

Each shape of work (``caching_shapes.py``) is drawn by seed and sent through a simulated host that
bills by the card's rule to the token: lifetimes, minimum, number of marks, search back, and that
nothing can be read before the reply that wrote it has begun. The host's tokens are not the
planner's estimate: it counts an eighth more and rounds each block. Every run starts with an empty
history: what is learnt is learnt on the shape itself.

* ``none``: no caching.
* ``strands_auto``: the placement of Strands' ``CacheConfig(strategy="auto")``: the end of the
  system prompt and the end of the last user message, at every call.
* ``mark_everything``: tools, system and the ends of the last two messages of user or tool.
* ``kimiya``: the planner, with single flight.
* ``optimal``: a proven lower bound on every placement, of any number of marks, with all calls known
  in advance (``caching_optimum.py``); ``found`` is a placement of at most four marks a call that
  is billed by the host like the others. Where the two agree, it is the cheapest. On short versions
  of the shapes every placement is tried, one by one (``--exhaustive``, and the tests).

Figures (last line with --json): ``worst_over_optimal``, the largest ratio of Kimiya's cost to the
bound over shapes and seeds, and ``<shape>_<policy>``, the mean cost in multiples of the bound.
"""

import argparse
import heapq
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from caching_optimum import bound, exhaustive, found
from caching_shapes import (
    BESIDE,
    RECORDED,
    Arrival,
    Shape,
    clock_in_prompt,
    document,
    parallel_chats,
    tool_loop,
)
from msgspec.structs import replace

from kimiya.caching import Go, MemoryHistory, Planner, PrefixKeys, SingleFlight, WaitFor
from kimiya.caching.host_cache import HostCache
from kimiya.caching.prefix import Block, read_prefix
from kimiya.catalog.card import ModelCard
from kimiya.catalog.catalog import Catalog
from kimiya.catalog.pricing import cost_usd
from kimiya.core.exchange import Request, Usage
from kimiya.core.messages import Breakpoint, CacheTtl, Message, Reasoning

EPOCH = datetime(2026, 11, 22, 9, tzinfo=UTC)
FIRST_TOKEN_S = 1.5
REPLY_S = 2.0
"""From the first token to the last."""


def host_blocks(request: Request, root: str) -> tuple[Block, ...]:
    """The request as the host reads it, with the host's own count of tokens."""
    return host_counted(read_prefix(request, root).blocks)


def host_counted(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The same blocks, an eighth longer."""
    counted: list[Block] = []
    before = total = 0
    for block in blocks:
        total += -(-(block.tokens - before) * 9 // 8)
        before = block.tokens
        counted.append(replace(block, tokens=total))
    return tuple(counted)


@dataclass
class Host:
    """One simulated host and what it has billed."""

    card: ModelCard
    cache: HostCache
    usd: Decimal = Decimal(0)

    def send(self, request: Request, at_s: float) -> Usage:
        blocks = host_blocks(request, "host")
        marks: dict[int, CacheTtl] = {}
        for at, block in enumerate(blocks):
            if block.mark is not None:
                marks[at] = block.mark.ttl or "5m"
        usage = self.cache.bill(blocks, marks, at_s, at_s + FIRST_TOKEN_S)
        usd = cost_usd(usage, self.card.price_on(EPOCH.date(), usage.input_tokens))
        assert usd is not None, "the card must be priced"
        self.usd += usd
        return usage


Policy = Callable[[Shape, ModelCard], Decimal]


def no_caching(shape: Shape, card: ModelCard) -> Decimal:
    return _fixed(shape, card, lambda request: request)


def strands_auto(shape: Shape, card: ModelCard) -> Decimal:
    return _fixed(shape, card, lambda request: _with_ends(request, tools=False, last=1))


def mark_everything(shape: Shape, card: ModelCard) -> Decimal:
    return _fixed(shape, card, lambda request: _with_ends(request, tools=True, last=2))


def _fixed(shape: Shape, card: ModelCard, mark: Callable[[Request], Request]) -> Decimal:
    host = Host(card, HostCache(card.cache))
    for arrival in shape.arrivals:
        host.send(mark(arrival.request), arrival.at_s)
    return host.usd


def _with_ends(request: Request, *, tools: bool, last: int) -> Request:
    messages = list(request.messages)
    ends = [at for at, m in enumerate(messages) if m.role in ("user", "tool")][-last:]
    ends += [at for at, m in enumerate(messages) if m.role == "system"][-1:]
    for at in ends:
        messages[at] = _end_marked(messages[at])
    declared = list(request.tools)
    if tools and declared:
        declared[-1] = replace(declared[-1], cache=Breakpoint())
    return replace(request, messages=tuple(messages), tools=tuple(declared))


def _end_marked(message: Message) -> Message:
    last = message.parts[-1]
    assert not isinstance(last, Reasoning)
    return replace(message, parts=(*message.parts[:-1], replace(last, cache=Breakpoint())))


def kimiya(shape: Shape, card: ModelCard) -> Decimal:
    """The planner and single flight, driven by a virtual clock as the pipeline drives them."""
    host = Host(card, HostCache(card.cache))
    planner, flight = Planner(MemoryHistory()), SingleFlight()
    queue: list[tuple[float, int, str, object]] = []
    serial = 0

    def later(at_s: float, what: str, thing: object) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(queue, (at_s, serial, what, thing))

    def ask(request: Request, keys: PrefixKeys, now_s: float) -> None:
        admission = flight.admit(keys.gates, now_s)
        match admission:
            case WaitFor(ticket):
                waiting.setdefault(ticket, []).append((request, keys))
            case Go(ticket):
                usage = host.send(request, now_s)
                later(now_s + FIRST_TOKEN_S, "begun", ticket)
                later(now_s + FIRST_TOKEN_S + REPLY_S, "ended", (keys, usage))

    waiting: dict[int, list[tuple[Request, PrefixKeys]]] = {}
    for arrival in shape.arrivals:
        later(arrival.at_s, "arrived", arrival)
    while queue:
        now_s, _, what, thing = heapq.heappop(queue)
        now = EPOCH + timedelta(seconds=now_s)
        if what == "arrived":
            assert isinstance(thing, Arrival)
            planned = planner.plan(thing.request, card, thing.context, now)
            ask(planned.request, planned.prefix, now_s)
        elif what == "begun":
            assert isinstance(thing, int)
            flight.written(thing)
            for request, keys in waiting.pop(thing, []):
                ask(request, keys, now_s)
        else:
            assert isinstance(thing, tuple)
            planner.observe(thing[0], card, thing[1], now)
    assert not waiting, "a call was never sent"
    return host.usd


POLICIES: Mapping[str, Policy] = {
    "none": no_caching,
    "strands_auto": strands_auto,
    "mark_everything": mark_everything,
    "kimiya": kimiya,
}


def short_shapes(seed: int) -> tuple[Shape, ...]:
    """Versions small enough to try every placement."""
    return (
        tool_loop(seed, turns=3, system_tokens=3_000, tool_count=1),
        document(seed, questions=4, tokens=3_000),
        parallel_chats(seed, chats=2, turns=2, tool_count=1, tool_tokens=3_000),
        clock_in_prompt(seed, turns=3, rules_tokens=3_000),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="What caching costs under four policies.")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="claude-sonnet-4-5", help="name or alias of a card")
    parser.add_argument(
        "--exhaustive", action="store_true", help="try every placement, short shapes"
    )
    args = parser.parse_args()
    card = next(c for c in Catalog.load({}).named(args.model) if c.cache.kind == "explicit")
    if args.exhaustive:
        return _exhaustive(card, 1 if args.quick else args.seeds)
    figures: dict[str, float] = {}
    worst = 0.0
    print(f"{card.host}/{card.model_id}; input cost in multiples of the bound (dollars of seed 0)")
    header = ("shape", *POLICIES, "found", "optimal")
    print(("{:<17}" + "{:>18}" * (len(header) - 1)).format(*header))
    for name, draw in {**RECORDED, **BESIDE}.items():
        row: dict[str, list[float]] = {policy: [] for policy in (*POLICIES, "found")}
        dollars: dict[str, Decimal] = {}
        for seed in range(1 if args.quick else args.seeds):
            shape = draw(seed)
            least = bound(shape, card, host_counted)
            costs = {policy: run(shape, card) for policy, run in POLICIES.items()}
            costs["found"] = found(shape, card, host_counted)
            for policy, usd in costs.items():
                row[policy].append(float(usd / least))
            dollars = dollars or {**costs, "optimal": least}
        if name in RECORDED:
            worst = max(worst, *row["kimiya"])
        cells = [f"{statistics.mean(row[p]):.3f} (${dollars[p]:.4f})" for p in row]
        cells.append(f"${dollars['optimal']:.4f}")
        print(f"{name:<17}" + "".join(f"{cell:>18}" for cell in cells))
        for policy in POLICIES:
            figures[f"{name}_{policy}"] = round(statistics.mean(row[policy]), 4)
    figures["worst_over_optimal"] = round(worst, 4)
    print(f"worst of Kimiya over optimal, the recorded shapes, all seeds: {worst:.4f}")
    if args.json:
        print(json.dumps(figures))
    return 0


def _exhaustive(card: ModelCard, seeds: int) -> int:
    print("every placement tried; dollars: bound, cheapest placement, Kimiya, Kimiya over cheapest")
    for seed in range(seeds):
        for shape in short_shapes(seed):
            least = bound(shape, card, host_counted)
            cheapest, tried = exhaustive(shape, card, host_counted)
            ours = kimiya(shape, card)
            print(
                f"{shape.name:<17} seed {seed}: ${least:.6f} ${cheapest:.6f} ${ours:.6f}"
                f" {float(ours / cheapest):.4f} ({tried} placements)"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
