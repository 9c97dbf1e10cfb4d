"""The ledger as the pipeline sees it: never slow, never wrong, honest when it is pressed."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from kimiya.core.clock import VirtualClock
from kimiya.errors import LedgerError
from kimiya.ledger.ledger import Ledger, LedgerPolicy
from kimiya.ledger.query import CostQuery, CostRow
from kimiya.ledger.record import LedgerRecord, decode_record
from kimiya.ledger.spool import Spool
from kimiya.ledger.sqlite import SqliteStore
from kimiya.ledger.store import LedgerStore, StoreAway
from tests.ledger.records import BRISK, record


class MemoryStore:
    """A store that can be away, or lose the answer after the work was done."""

    def __init__(self) -> None:
        self.records: dict[str, LedgerRecord] = {}
        self.batches: list[int] = []
        self.is_away = False
        self.loses_answers = 0

    async def open(self) -> None:
        if self.is_away:
            raise StoreAway("the database is away")

    async def write(self, payloads: Sequence[bytes]) -> int:
        await self.open()
        before = len(self.records)
        for payload in payloads:
            found = decode_record(payload)
            self.records.setdefault(found.call_id, found)
        self.batches.append(len(payloads))
        if self.loses_answers:
            self.loses_answers -= 1
            raise StoreAway("the connection broke after the commit")
        return len(self.records) - before

    async def read(self, call_id: str) -> LedgerRecord | None:
        return self.records.get(call_id)

    async def costs(self, query: CostQuery) -> tuple[CostRow, ...]:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def names(store: MemoryStore) -> list[str]:
    return sorted(store.records)


def calls(count: int) -> list[str]:
    return [record(number).call_id for number in range(count)]


async def test_settled_calls_reach_the_store_by_themselves(tmp_path: Path) -> None:
    clock, store = VirtualClock(), MemoryStore()
    ledger = await Ledger.open(store, tmp_path, clock=clock)
    for number in range(10):
        ledger.settle(record(number))
    assert store.records == {}
    await clock.advance(1)
    assert names(store) == calls(10)
    assert store.batches == [10]
    await ledger.aclose()


async def test_a_store_that_is_away_is_tried_ever_more_slowly(tmp_path: Path) -> None:
    clock, store = VirtualClock(), MemoryStore()
    ledger = await Ledger.open(store, tmp_path, clock=clock)
    store.is_away = True
    tries: list[float] = []
    honest = store.open

    async def counted() -> None:
        tries.append(clock.monotonic())
        await honest()

    store.open = counted
    ledger.settle(record(0))
    await clock.advance(60)
    gaps = [round(later - earlier, 6) for earlier, later in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert 8 < len(tries) < 25
    assert max(gaps) <= 5.1
    store.is_away = False
    await clock.advance(6)
    assert names(store) == calls(1)
    assert ledger.health.store_error is None
    await ledger.aclose()


async def test_a_store_that_is_away_at_the_start_stops_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    store.is_away = True
    ledger = await Ledger.open(store, tmp_path, policy=BRISK)
    ledger.admit()
    ledger.settle(record(0))
    await ledger.aclose()
    store.is_away = False
    again = await Ledger.open(store, tmp_path, policy=BRISK)
    await again.flush()
    assert names(store) == calls(1)
    await again.aclose()


async def test_an_answer_lost_after_the_commit_bills_nothing_twice(tmp_path: Path) -> None:
    store = MemoryStore()
    store.loses_answers = 3
    ledger = await Ledger.open(store, tmp_path, policy=BRISK)
    for number in range(40):
        ledger.settle(record(number))
    for _ in range(4):
        try:
            await ledger.flush()
        except StoreAway:
            continue
    assert names(store) == calls(40)
    assert sum(store.batches) > 40
    await ledger.aclose()


async def test_settling_while_a_batch_is_written_loses_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.sqlite")
    ledger = await Ledger.open(store, tmp_path / "spool", policy=BRISK)

    async def settle(first: int) -> None:
        for number in range(first, first + 100):
            ledger.settle(record(number))
            await asyncio.sleep(0)

    await asyncio.gather(*(settle(first) for first in range(0, 500, 100)), ledger.flush())
    await ledger.flush()
    (row,) = await store.costs(CostQuery(by="total"))
    assert row.calls == 500
    await ledger.aclose()


async def test_full_refuses_new_calls_and_keeps_those_on_their_way(tmp_path: Path) -> None:
    store = MemoryStore()
    store.is_away = True
    policy = LedgerPolicy(max_spool_bytes=2000, batch_delay_s=0, retry_s=0)
    ledger = await Ledger.open(store, tmp_path, policy=policy, clock=VirtualClock())
    numbers = itertools.count()

    def call_until_refused() -> None:
        while True:
            ledger.admit()
            ledger.settle(record(next(numbers)))

    with pytest.raises(LedgerError, match=r"the database is away.*when_full"):
        call_until_refused()
    on_their_way = next(numbers)
    assert 0 < on_their_way < 20
    for number in range(on_their_way, on_their_way + 5):
        ledger.settle(record(number))
    store.is_away = False
    await ledger.flush()
    ledger.admit()
    assert names(store) == calls(on_their_way + 5)
    assert ledger.health.lost == 0
    await ledger.aclose()


async def test_full_goes_on_by_policy_and_says_what_it_gave_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.is_away = True
    policy = LedgerPolicy(when_full="go_on", max_spool_bytes=2000, batch_delay_s=0)
    ledger = await Ledger.open(store, tmp_path, policy=policy, clock=VirtualClock())
    for number in range(100):
        ledger.admit()
        ledger.settle(record(number))
    lost = ledger.health.lost
    assert 0 < lost < 100
    assert "lost to the ledger" in caplog.text
    store.is_away = False
    await ledger.flush()
    assert names(store) == calls(100 - lost)
    await ledger.aclose()


async def test_what_neither_disk_nor_database_takes_is_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    store.is_away = True
    ledger = await Ledger.open(store, tmp_path, policy=BRISK)
    monkeypatch.setattr(Spool, "_write", lambda spool, frame: False)
    ledger.settle(record(0))
    await ledger.aclose()
    assert ledger.health.lost == 1
    assert "1 calls are lost" in caplog.text


@pytest.mark.parametrize("words", ["\ud800", "a" * 1_000_000, "\0", "\x1b[2J", "«KL1"])
async def test_whatever_callers_send_settles(tmp_path: Path, words: str) -> None:
    store = SqliteStore(tmp_path / "ledger.sqlite")
    ledger = await Ledger.open(store, tmp_path / "spool", policy=BRISK)
    ledger.settle(record(0, conversation=words, user=words, tags={words: words}))
    ledger.settle(record(1))
    await ledger.flush()
    (row,) = await store.costs(CostQuery(by="total"))
    assert (row.calls, ledger.health.rejected) == (2, 0)
    await ledger.aclose()


def type_check(store: MemoryStore) -> LedgerStore:
    return store
