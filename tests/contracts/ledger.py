"""What every ledger store must do: the laws of ``ledger.store``, as one suite.

A backend gives a ``StoreSubject``: a way to open the store anew, and to take its database away and
bring it back. ``records.py`` of ``tests/ledger`` makes the calls.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from decimal import Decimal

import msgspec
import pytest
from msgspec import Struct

from kimiya.core.exchange import Adjustment, Repair
from kimiya.errors import LedgerError
from kimiya.ledger.ledger import Ledger, LedgerPolicy
from kimiya.ledger.query import GROUPINGS, CostQuery
from kimiya.ledger.record import encode_record
from kimiya.ledger.store import LedgerStore, StoreAway
from tests.ledger.records import BRISK, DAY, attempt, record


class StoreSubject(Struct):
    """A backend under test."""

    connect: Callable[[], LedgerStore]
    take_away: Callable[[], Awaitable[None]]
    bring_back: Callable[[], Awaitable[None]]


def encoded(*records):
    return [encode_record(each) for each in records]


class LedgerStoreContract:
    """Give a fixture ``subject``."""

    @pytest.fixture
    async def store(self, subject: StoreSubject):
        store = subject.connect()
        yield store
        await store.aclose()

    async def test_a_record_comes_back_as_it_was(self, store: LedgerStore) -> None:
        full = record(
            1,
            attempts=(attempt(error="Overloaded", usage=None, usd=None), attempt()),
            repairs=(Repair("call_from_reasoning", "seen \u2028 \0 and mended", "reasoning"),),
            adjustments=(Adjustment("temperature_fixed", "0.2 to 1"),),
            tags={"department": "R&D", "naïve": "🎉"},
            conversation="c\0" + "x" * 10_000,
        )
        assert await store.write(encoded(full)) == 1
        assert await store.read(full.call_id) == full
        assert await store.read("nobody") is None

    async def test_a_call_counts_once_however_often_it_is_written(self, store: LedgerStore) -> None:
        one, two = record(1, tags={"team": "a"}), record(2, tags={"team": "a"})
        assert await store.write(encoded(one, one)) == 1
        assert await store.write(encoded(one, two)) == 1
        assert await store.write(encoded(two, one, two)) == 0
        (row,) = await store.costs(CostQuery(by="tag", tag="team"))
        assert (row.calls, row.attempts, row.usd) == (2, 2, one.usd + two.usd)

    async def test_what_is_known_is_passed_over_whole(self, store: LedgerStore) -> None:
        first = record(1, tags={"team": "a"})
        await store.write(encoded(first))
        again = record(1, attempts=(attempt(), attempt()), tags={"team": "a", "more": "b"})
        assert await store.write(encoded(again, record(2))) == 1
        (row,) = await store.costs(CostQuery(by="tag", tag="more"))
        assert (row.group, row.calls, row.attempts) == ("", 2, 2)
        assert await store.read(first.call_id) == first

    async def test_another_connection_sees_what_was_written(
        self, store: LedgerStore, subject: StoreSubject
    ) -> None:
        await store.write(encoded(record(1)))
        other = subject.connect()
        try:
            assert await other.write(encoded(record(1), record(2))) == 1
        finally:
            await other.aclose()
        (row,) = await store.costs(CostQuery(by="total"))
        assert row.calls == 2

    async def test_writers_side_by_side_lose_and_double_nothing(
        self, subject: StoreSubject
    ) -> None:
        stores = [subject.connect() for _ in range(3)]
        try:
            # Every call is offered by two of the three.
            counts = await asyncio.gather(
                *(
                    store.write(encoded(*(record(n) for n in range(first, first + 40))))
                    for number, store in enumerate(stores)
                    for first in (number * 40, (number + 1) % 3 * 40)
                )
            )
            (row,) = await stores[0].costs(CostQuery(by="total"))
        finally:
            for store in stores:
                await store.aclose()
        assert sum(counts) == row.calls == row.attempts == 120

    async def test_dollars_are_exact_to_the_last_digit(self, store: LedgerStore) -> None:
        dust = Decimal("0.000000000000000000000000001")
        await store.write(encoded(*(record(n, attempts=(attempt(usd=dust),)) for n in range(7))))
        await store.write(encoded(record(9, attempts=(attempt(usd=Decimal(3)),))))
        (row,) = await store.costs(CostQuery(by="total"))
        assert row.usd == 7 * dust + 3

    async def test_unknown_is_unpriced_and_a_failure_without_tokens_is_free(
        self, store: LedgerStore
    ) -> None:
        await store.write(
            encoded(
                record(1, attempts=(attempt(usd=None),)),
                record(2, attempts=(attempt(usage=None, usd=None, error="Overloaded"), attempt())),
                record(3, attempts=()),
            )
        )
        (row,) = await store.costs(CostQuery(by="total"))
        assert (row.calls, row.attempts, row.unpriced_attempts) == (3, 3, 1)
        assert row.usd == attempt().usd

    async def test_each_attempt_is_money_at_its_own_model(self, store: LedgerStore) -> None:
        dear = attempt(model_id="dear", usd=Decimal("0.5"))
        await store.write(
            encoded(
                record(
                    1,
                    attempts=(attempt(model_id="cheap", error="AskAgain"), dear),
                    predicted_usd=Decimal(1),
                    saved_by_routing_usd=Decimal("0.25"),
                )
            )
        )
        cheap, dearer = await store.costs(CostQuery(by="model"))
        assert (cheap.group, cheap.calls, cheap.attempts, cheap.usd) == (
            "cheap", 0, 1, attempt().usd,
        )  # fmt: skip
        assert (dearer.group, dearer.calls, dearer.usd) == ("dear", 1, Decimal("0.5"))
        assert (cheap.predicted_usd, dearer.predicted_usd) == (0, 1)
        assert (cheap.saved_by_routing_usd, dearer.saved_by_routing_usd) == (0, Decimal("0.25"))

    @pytest.mark.parametrize("by", [each for each in GROUPINGS if each != "tag"])
    async def test_every_grouping_adds_up_to_the_whole(self, store: LedgerStore, by) -> None:
        await store.write(
            encoded(
                *(
                    record(
                        n,
                        key_id=f"k{n % 2}" if n % 3 else None,
                        conversation=f"c{n % 4}",
                        user=f"u{n % 2}",
                        run=f"r{n % 3}" if n % 2 else None,
                        route="cheapest" if n % 2 else None,
                        attempts=(attempt(), attempt(model_id=f"m{n % 3}", usd=Decimal(n))),
                    )
                    for n in range(12)
                )
            )
        )
        rows = await store.costs(CostQuery(by=by))
        assert [row.group for row in rows] == sorted({row.group for row in rows})
        assert sum(row.calls for row in rows) == 12
        assert sum(row.attempts for row in rows) == 24
        assert sum((row.usd for row in rows), Decimal(0)) == 12 * attempt().usd + sum(range(12))
        assert sum(row.cache_read_tokens for row in rows) == 24 * attempt().usage.cache_read_tokens

    async def test_a_tag_groups_and_its_absence_is_a_group(self, store: LedgerStore) -> None:
        await store.write(
            encoded(
                record(1, tags={"department": "a", "project": "p"}),
                record(2, tags={"department": "b"}),
                record(3, tags={"project": "p"}),
            )
        )
        rows = await store.costs(CostQuery(by="tag", tag="department"))
        assert [(row.group, row.calls) for row in rows] == [("", 1), ("a", 1), ("b", 1)]

    async def test_days_and_keys_narrow_a_report(self, store: LedgerStore) -> None:
        await store.write(encoded(*(record(n, day=n, key_id=f"k{n}") for n in range(1, 6))))
        rows = await store.costs(
            CostQuery(by="day", since=DAY.replace(day=2), until=DAY.replace(day=4))
        )
        assert [row.group for row in rows] == [f"2026-11-0{day}" for day in (2, 3, 4)]
        (row,) = await store.costs(CostQuery(by="total", key_id="k3"))
        assert row.calls == 1
        assert await store.costs(CostQuery(by="model", since=date(2030, 1, 1))) == ()

    @pytest.mark.parametrize("words", ["'; DROP TABLE calls; --", "$1", "%s", "\0", "?"])
    async def test_words_of_callers_are_only_words(self, store: LedgerStore, words: str) -> None:
        odd = record(1, key_id=words, tags={words: words}, model=words, user=words)
        assert await store.write(encoded(odd)) == 1
        assert await store.read(odd.call_id) == odd
        await store.costs(CostQuery(by="tag", tag=words.replace("\0", "")))

    async def test_a_batch_is_all_or_nothing(self, store: LedgerStore) -> None:
        huge = attempt(usage=msgspec.structs.replace(attempt().usage, output_tokens=2**63))
        with pytest.raises(LedgerError) as caught:
            await store.write(encoded(record(1), record(2, attempts=(huge,))))
        assert not isinstance(caught.value, StoreAway)
        assert await store.read(record(1).call_id) is None

    @pytest.mark.parametrize("usd", [Decimal("NaN"), Decimal("Infinity")])
    async def test_what_is_no_amount_is_refused(self, store: LedgerStore, usd: Decimal) -> None:
        with pytest.raises(LedgerError):
            await store.write(encoded(record(1, attempts=(attempt(usd=usd),))))

    async def test_bytes_that_are_no_record_are_refused(self, store: LedgerStore) -> None:
        with pytest.raises(LedgerError, match="no ledger record"):
            await store.write([b"\x81\xa1"])

    async def test_away_is_said_and_passes(self, store: LedgerStore, subject: StoreSubject) -> None:
        await store.write(encoded(record(1)))
        await subject.take_away()
        for _ in range(2):
            with pytest.raises(StoreAway):
                await store.write(encoded(record(2)))
        with pytest.raises(StoreAway):
            await store.costs(CostQuery())
        await subject.bring_back()
        assert await store.write(encoded(record(1), record(2))) == 1
        (row,) = await store.costs(CostQuery(by="total"))
        assert row.calls == 2

    async def test_what_was_buffered_while_it_was_away_is_written_once(
        self, subject: StoreSubject, tmp_path
    ) -> None:
        ledger = await Ledger.open(subject.connect(), tmp_path / "spool", policy=BRISK)
        ledger.settle(record(0))
        await ledger.flush()
        await subject.take_away()
        for number in range(1, 50):
            ledger.settle(record(number))
        with pytest.raises(StoreAway):
            await ledger.flush()
        assert ledger.health.store_error
        assert ledger.health.pending_bytes > 0
        await subject.bring_back()
        await ledger.flush()
        (row,) = await ledger.store.costs(CostQuery(by="total"))
        assert (row.calls, row.usd) == (50, 50 * attempt().usd)
        health = ledger.health
        assert (health.store_error, health.pending_bytes, health.lost) == (None, 0, 0)
        await ledger.aclose()

    async def test_a_poisoned_record_holds_up_no_other(
        self, subject: StoreSubject, tmp_path
    ) -> None:
        huge = attempt(usage=msgspec.structs.replace(attempt().usage, output_tokens=2**63))
        policy = LedgerPolicy(batch_delay_s=0, retry_s=0)
        ledger = await Ledger.open(subject.connect(), tmp_path / "spool", policy=policy)
        for number in range(20):
            ledger.settle(record(number, attempts=(huge if number == 7 else attempt(),)))
        await ledger.flush()
        (row,) = await ledger.store.costs(CostQuery(by="total"))
        assert (row.calls, ledger.health.rejected) == (19, 1)
        assert (tmp_path / "spool" / "rejected.frames").stat().st_size > 0
        await ledger.aclose()
