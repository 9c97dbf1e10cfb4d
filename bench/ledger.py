"""What keeping books costs: settled calls a second on one core, and a call's share of the loop.

    python bench/ledger.py [--quick] [--json] [--postgres]

Everything runs pinned to one core: settling, the spool, the background writer and SQLite's own
work, down to the last ``fsync``. CPU time and ratios hold on a shared machine; calls a second by
the wall are its own. ``--postgres`` adds a server named by ``KIMIYA_TEST_POSTGRES``
(``scripts/postgres_for_tests.sh`` starts one), whose own CPU is not counted.

Figures (``--json`` prints them as one object on the last line):

* ``settled_per_second``: calls settled and durably in SQLite, by the wall, median of the rounds.
* ``settled_per_cpu_second``: the same by CPU time of the process.
* ``settle_us``: median time ``Ledger.settle`` keeps its caller, and ``settle_p99_us``.
* ``loop_stall_ms``: longest time the event loop stood still while batches were written.
* ``budget_us``: CPU of reserving and settling one call against one budget, SQLite.
* ``postgres_per_second``, ``postgres_budget_us``: with ``--postgres``.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from kimiya.catalog.card import Price, Source
from kimiya.catalog.pricing import cost_usd
from kimiya.core.exchange import Usage
from kimiya.ledger.budget import Amounts, Budget, Limit, Scope, Spender
from kimiya.ledger.budget_sqlite import SqliteBudgets
from kimiya.ledger.budget_store import BudgetStore
from kimiya.ledger.budgets import Budgets
from kimiya.ledger.call_id import CallIds
from kimiya.ledger.ledger import Ledger
from kimiya.ledger.query import CostQuery
from kimiya.ledger.record import LedgerAttempt, LedgerRecord
from kimiya.ledger.sqlite import SqliteStore
from kimiya.ledger.store import LedgerStore

PRICE = Price(
    input_usd_per_mtok=Decimal("0.60"),
    output_usd_per_mtok=Decimal("3.00"),
    cache_read_usd_per_mtok=Decimal("0.10"),
    since=date(2026, 1, 1),
    source=Source(url="measured", checked=date(2026, 11, 22)),
)
AT_ONCE = 32
"""Calls that end between two turns of the loop."""


@dataclass
class Round:
    """One run of settling."""

    calls: int
    wall_s: float
    cpu_s: float
    settle_us: list[float]
    stall_ms: float


def call(ids: CallIds, number: int) -> LedgerRecord:
    """A call as the pipeline settles it; each tenth was tried twice."""
    usage = Usage(1200 + number % 700, 300, 800)
    paid = LedgerAttempt(
        provider="moonshot",
        model_id="kimi-k2.5",
        dialect="openai_chat",
        usage=usage,
        price=PRICE,
        usd=cost_usd(usage, PRICE),
        saved_by_caching_usd=Decimal("0.0004"),
        first_event_s=0.4,
        duration_s=2.5,
    )
    return LedgerRecord(
        call_id=ids.next(),
        at=datetime.now(UTC),
        model="kimi",
        key_id=f"k{number % 50}",
        tags={"department": f"d{number % 7}", "project": "bench"},
        conversation=f"c{number % 997}",
        user=f"u{number % 260}",
        front="anthropic_messages",
        attempts=(paid, paid) if number % 10 == 0 else (paid,),
        predicted_usd=Decimal("0.01"),
        first_event_s=0.4,
        duration_s=2.5,
    )


async def settle_all(store: LedgerStore, folder: Path, calls: int) -> Round:
    """Settle ``calls`` as fast as they come, and wait until the store has them all."""
    ids = CallIds(time.time)
    ledger = await Ledger.open(store, folder / "spool")
    before = sum(row.calls for row in await store.costs(CostQuery(by="total")))
    waits: list[float] = []
    stall_s = 0.0
    watch, cpu_s = time.perf_counter(), time.process_time()
    for first in range(0, calls, AT_ONCE):
        for number in range(first, min(first + AT_ONCE, calls)):
            record = call(ids, number)
            began = time.perf_counter()
            ledger.settle(record)
            waits.append((time.perf_counter() - began) * 1e6)
        began = time.perf_counter()
        await asyncio.sleep(0)
        stall_s = max(stall_s, time.perf_counter() - began)
    await ledger.flush()
    wall_s, cpu_s = time.perf_counter() - watch, time.process_time() - cpu_s
    (total,) = await store.costs(CostQuery(by="total"))
    assert total.calls - before == calls, (
        f"{total.calls - before} of {calls} calls are in the ledger"
    )
    await ledger.aclose()
    return Round(calls, wall_s, cpu_s, waits, stall_s * 1e3)


async def budget_us(store: BudgetStore, calls: int) -> float:
    """CPU of one reserve and one settle."""
    limit = Limit(usd=Decimal(10**6))
    budget = Budget(name="bench", limit=limit, period="day", path=(Scope("key"),))
    budgets = Budgets([budget], store)
    most, spent = Amounts(Decimal("0.01"), 2000, 1), Amounts(Decimal("0.004"), 1500, 1)
    await budgets.release(await budgets.reserve(Spender(key="k"), most))
    cpu_s = time.process_time()
    for _ in range(calls):
        await budgets.settle(await budgets.reserve(Spender(key="k"), most), spent)
    cpu_s = time.process_time() - cpu_s
    await budgets.aclose()
    return cpu_s / calls * 1e6


def rounds_of(make: Callable[[Path], LedgerStore], calls: int, rounds: int) -> list[Round]:
    """Each round in a folder of its own."""
    done: list[Round] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            done.append(asyncio.run(settle_all(make(home), home, calls)))
    return done


def per_second(rounds: list[Round], *, by_cpu: bool = False) -> float:
    """Median over the rounds."""
    return statistics.median(r.calls / (r.cpu_s if by_cpu else r.wall_s) for r in rounds)


def measure(args: argparse.Namespace) -> dict[str, float | None]:
    """Every figure."""
    calls, count = (4_000, 3) if args.quick else (20_000, 5)
    rounds = rounds_of(lambda home: SqliteStore(home / "ledger.db"), calls, count)
    waits = sorted(wait for each in rounds for wait in each.settle_us)
    with tempfile.TemporaryDirectory() as folder:
        budget = asyncio.run(budget_us(SqliteBudgets(Path(folder) / "budgets.db"), calls // 2))
    figures: dict[str, float | None] = {
        "settled_per_second": round(per_second(rounds)),
        "settled_per_cpu_second": round(per_second(rounds, by_cpu=True)),
        "settle_us": round(statistics.median(waits), 1),
        "settle_p99_us": round(waits[int(len(waits) * 0.99)], 1),
        "loop_stall_ms": round(statistics.median(r.stall_ms for r in rounds), 2),
        "budget_us": round(budget, 1),
        "postgres_per_second": None,
        "postgres_budget_us": None,
    }
    if args.postgres:
        figures |= measure_postgres(calls, count)
    return figures


def measure_postgres(calls: int, count: int) -> dict[str, float | None]:
    """The same against a server."""
    from kimiya.ledger.budget_postgres import PostgresBudgets
    from kimiya.ledger.postgres import PostgresStore

    dsn = os.environ["KIMIYA_TEST_POSTGRES"]
    rounds = rounds_of(lambda home: PostgresStore(dsn), calls, count)
    budget = asyncio.run(budget_us(PostgresBudgets(dsn), calls // 4))
    return {
        "postgres_per_second": round(per_second(rounds)),
        "postgres_budget_us": round(budget, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--postgres", action="store_true", help="also KIMIYA_TEST_POSTGRES")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures = measure(args)
    for name, figure in figures.items():
        if figure is not None:
            print(f"{name:<24} {figure:>12,}")
    if args.json:
        print(
            json.dumps(
                {**figures, "machine": platform.machine(), "python": platform.python_version()}
            )
        )


if __name__ == "__main__":
    main()
