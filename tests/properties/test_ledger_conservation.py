"""Conservation: the ledger's sum is what the hosts billed, to the last digit, whatever breaks.

A hundred thousand random calls, retried, rerouted, abandoned and unpriced, are settled while the
store goes away, loses its answers, and the process dies and comes back with a torn last frame. The
hosts keep their own accounts in whole numbers of ten-billionths of a dollar, by other arithmetic
than ours.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import Struct

from kimiya.catalog.card import Price, Source
from kimiya.catalog.pricing import cost_usd
from kimiya.core.exchange import Usage
from kimiya.ledger.call_id import CallIds
from kimiya.ledger.framing import encode_frame
from kimiya.ledger.ledger import Ledger, LedgerPolicy
from kimiya.ledger.query import CostQuery
from kimiya.ledger.record import LedgerAttempt, LedgerRecord
from kimiya.ledger.sqlite import SqliteStore
from kimiya.ledger.store import StoreAway

START = datetime(2026, 11, 1, tzinfo=UTC)
QUICK = LedgerPolicy(batch_delay_s=0, retry_s=0, max_retry_s=0)
_SOURCE = Source(url="measured", checked=date(2026, 11, 1))
_E10 = Decimal(10) ** -10


class Host(Struct):
    """A host: its prices in ten-thousandths of a dollar a million tokens, and its bill."""

    name: str
    fresh: int
    output: int
    read: int | None = None
    write_5m: int | None = None
    write_1h: int | None = None
    bill: int = 0
    """Ten-billionths of a dollar."""

    def price(self) -> Price:
        def usd(figure: int | None) -> Decimal | None:
            return None if figure is None else Decimal(figure).scaleb(-4)

        return Price(
            input_usd_per_mtok=usd(self.fresh) or Decimal(0),
            output_usd_per_mtok=usd(self.output) or Decimal(0),
            cache_read_usd_per_mtok=usd(self.read),
            cache_write_5m_usd_per_mtok=usd(self.write_5m),
            cache_write_1h_usd_per_mtok=usd(self.write_1h),
            since=date(2026, 1, 1),
            source=_SOURCE,
        )

    def answer(self, rng: random.Random) -> Usage:
        """Do some work and bill it, as hosts do: class by class."""
        fresh, output = rng.randrange(1, 200_000), rng.randrange(1, 8_000)
        read = rng.randrange(100_000) if self.read is not None and rng.random() < 0.5 else 0
        w5 = rng.randrange(50_000) if self.write_5m is not None and rng.random() < 0.3 else 0
        w1 = rng.randrange(50_000) if self.write_1h is not None and rng.random() < 0.2 else 0
        self.bill += fresh * self.fresh + output * self.output
        self.bill += read * (self.read or 0) + w5 * (self.write_5m or 0) + w1 * (self.write_1h or 0)
        return Usage(fresh + read + w5 + w1, output, read, w5 + w1, w1, rng.randrange(output))


def hosts() -> list[Host]:
    return [
        Host("implicit", 6000, 30000, read=1000),
        Host("explicit", 30000, 150000, read=3000, write_5m=37500, write_1h=60000),
        Host("uncached", 7250, 29375),
        Host("tiny", 1, 3),
    ]


class FaultyStore(SqliteStore):
    """SQLite that goes away before its work, or after it, when the seed says so."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        super().__init__(path)
        self._rng = rng

    async def write(self, payloads: Sequence[bytes]) -> int:
        fate = self._rng.random()
        if fate < 0.1:
            raise StoreAway("away before the work")
        count = await super().write(payloads)
        if fate < 0.2:
            raise StoreAway("away after the commit")
        return count


def one_call(rng: random.Random, number: int, ids: CallIds, places: list[Host]) -> LedgerRecord:
    """A call of one to three attempts; only what ran is billed."""
    attempts: list[LedgerAttempt] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        host = rng.choice(places)
        fails_early = rng.random() < 0.1
        usage = None if fails_early else host.answer(rng)
        attempts.append(
            LedgerAttempt(
                provider=host.name,
                model_id=host.name,
                usage=usage,
                price=host.price(),
                usd=cost_usd(usage, host.price()) if usage else None,
                error="Overloaded" if fails_early else rng.choice((None, "AskAgain")),
            )
        )
    at = START + timedelta(seconds=number)
    return LedgerRecord(call_id=ids.next(), at=at, model="any", attempts=tuple(attempts))


async def crash(ledger: Ledger, directory: Path, rng: random.Random) -> None:
    """Die as a process does: nothing is flushed, locks fall, the last write may be torn."""
    assert ledger._task is not None
    ledger._task.cancel()
    await asyncio.wait([ledger._task])
    for segment in ledger._spool._segments:
        if rng.random() < 0.5:
            torn = encode_frame(b"a call that had not ended")
            os.write(segment.fd, torn[: rng.randrange(1, len(torn))])
        os.close(segment.fd)
    await ledger.store.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20261122])
async def test_the_ledger_is_what_the_hosts_billed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    places = hosts()
    ids = CallIds(START.timestamp)
    spool = tmp_path / "spool"

    async def start() -> Ledger:
        store = FaultyStore(tmp_path / "ledger.sqlite", rng)
        return await Ledger.open(store, spool, policy=QUICK)

    ledger, attempts, crashes = await start(), 0, 0
    for number in range(100_000):
        record = one_call(rng, number, ids, places)
        attempts += len(record.attempts)
        ledger.settle(record)
        if rng.random() < 0.01:
            with contextlib.suppress(StoreAway):
                await ledger.flush()
        if rng.random() < 0.0005:
            await crash(ledger, spool, rng)
            ledger, crashes = await start(), crashes + 1
    while ledger.health.pending_bytes:
        with contextlib.suppress(StoreAway):
            await ledger.flush()
    rows = await ledger.store.costs(CostQuery(by="provider"))
    assert crashes > 20
    assert ledger.health.lost == ledger.health.rejected == 0, f"seed {seed}"
    prices = {row.group: row.usd for row in rows}
    assert prices == {host.name: host.bill * _E10 for host in places}, f"seed {seed}"
    assert sum(row.calls for row in rows) == 100_000, f"seed {seed}"
    assert sum(row.attempts for row in rows) == attempts, f"seed {seed}"
    await ledger.aclose()


_VICTIM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from kimiya.ledger.ledger import Ledger, LedgerPolicy
from kimiya.ledger.sqlite import SqliteStore
from tests.ledger.records import record

async def main():
    home = Path(sys.argv[1])
    ledger = await Ledger.open(
        SqliteStore(home / "ledger.sqlite"), home / "spool",
        policy=LedgerPolicy(batch_delay_s=0, batch_records=8),
    )
    number = int(sys.argv[3])
    while True:
        ledger.settle(record(number))
        # The reply ends here, after the call was settled; the client sees it.
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
        number += 1
        await asyncio.sleep(0)

asyncio.run(main())
"""


def live_and_die(home: Path, life: int, calls: int) -> set[int]:
    """Run a gateway's worth of settling, kill it after ``calls``; every call it answered."""
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", _VICTIM, str(home), str(root), str(life * 100_000)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        said = {int(victim.stdout.readline()) for _ in range(calls)}
        victim.send_signal(signal.SIGKILL)
        return said | {int(line) for line in victim.stdout.read().splitlines() if line}


async def test_kill_9_in_the_midst_of_writing_loses_and_doubles_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    said: set[int] = set()
    for life in range(6):
        said |= live_and_die(tmp_path, life, rng.randrange(1, 400))
    store = SqliteStore(tmp_path / "ledger.sqlite")
    ledger = await Ledger.open(store, tmp_path / "spool", policy=QUICK)
    await ledger.flush()
    (row,) = await store.costs(CostQuery(by="total"))
    # At most the one call of each life that was killed between settling and answering.
    assert len(said) <= row.calls <= len(said) + 6
    assert row.usd == row.calls * Decimal("0.00070")
    for number in rng.sample(sorted(said), 50):
        assert await store.read(f"call-{number:06d}") is not None
    await ledger.aclose()
