"""What every store of budgets must do: the laws of ``ledger.budget_store``, as one suite.

A backend gives a ``BudgetSubject``. Replicas are several connections to one database, each with its
own ``Budgets``.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from msgspec import Struct

from kimiya.core.clock import VirtualClock
from kimiya.errors import BudgetExceeded
from kimiya.ledger.budget import Amounts, Budget, Limit, Scope, Spender
from kimiya.ledger.budget_store import BudgetStore, Hold, Lease
from kimiya.ledger.budgets import BudgetPolicy, Budgets, Reservation
from kimiya.ledger.store import StoreAway

CENT = Amounts(Decimal("0.01"), 10, 1)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEASE = Lease(NOW, NOW + timedelta(minutes=15))
BY_KEY = (Scope("key"),)
ANA = Spender(key="ana")


class BudgetSubject(Struct):
    """A backend under test."""

    connect: Callable[[], BudgetStore]
    take_away: Callable[[], Awaitable[None]]
    bring_back: Callable[[], Awaitable[None]]


def daily(name: str = "daily", *, usd: str | None = "1", path=BY_KEY, **more) -> Budget:
    """A budget of a day for each key, in dollars unless told otherwise."""
    limit = more.pop("limit", None) or Limit(usd=Decimal(usd) if usd else None)
    return Budget(name=name, limit=limit, period=more.pop("period", "day"), path=path, **more)


class BudgetStoreContract:
    """Give a fixture ``subject``."""

    @pytest.fixture
    async def store(self, subject: BudgetSubject):
        store = subject.connect()
        yield store
        await store.aclose()

    async def test_a_limit_is_met_exactly_and_never_passed(self, store: BudgetStore) -> None:
        holds = [Hold("c", Limit(usd=Decimal("0.03")))]
        for number in range(3):
            assert (await store.reserve(f"r{number}", holds, CENT, LEASE)).refused_by is None
        answer = await store.reserve("r3", holds, CENT, LEASE)
        assert answer.refused_by == 0
        assert answer.balances[0].reserved == Amounts(Decimal("0.03"), 30, 3)
        crumb = Amounts(Decimal("0.000000000001"), 0, 1)
        assert (await store.reserve("r4", holds, crumb, LEASE)).refused_by == 0

    @pytest.mark.parametrize(
        "limit", [Limit(usd=Decimal("0.02")), Limit(tokens=20), Limit(requests=2)]
    )
    async def test_each_unit_limits(self, store: BudgetStore, limit: Limit) -> None:
        holds = [Hold("c", limit)]
        got = [(await store.reserve(f"r{n}", holds, CENT, LEASE)).refused_by for n in range(3)]
        assert got == [None, None, 0]

    async def test_all_counters_or_none(self, store: BudgetStore) -> None:
        wide, narrow = Hold("wide", Limit(usd=Decimal(9))), Hold("narrow", Limit(requests=1))
        assert (await store.reserve("r1", [wide, narrow], CENT, LEASE)).refused_by is None
        assert (await store.reserve("r2", [wide, narrow], CENT, LEASE)).refused_by == 1
        wide_balance, narrow_balance = await store.balances(["wide", "narrow"])
        assert wide_balance.reserved == narrow_balance.reserved == CENT

    async def test_settling_replaces_what_was_held_once(self, store: BudgetStore) -> None:
        await store.reserve("r", [Hold("c", Limit(requests=9))], CENT, LEASE)
        spent = Amounts(Decimal("0.003"), 7, 1)
        for _ in range(3):
            await store.settle("r", ["c"], spent, LEASE)
        (balance,) = await store.balances(["c"])
        assert (balance.spent, balance.reserved) == (spent, Amounts())

    async def test_a_settlement_nobody_reserved_counts_once(self, store: BudgetStore) -> None:
        for _ in range(2):
            await store.settle("made while away", ["c", "d"], CENT, LEASE)
        assert [balance.spent for balance in await store.balances(["c", "d"])] == [CENT, CENT]

    async def test_a_crashed_reservation_expires(self, store: BudgetStore) -> None:
        holds = [Hold("c", Limit(requests=1))]
        await store.reserve("crashed", holds, CENT, LEASE)
        early = Lease(LEASE.expires - timedelta(seconds=1), LEASE.expires + timedelta(hours=1))
        assert (await store.reserve("early", holds, CENT, early)).refused_by == 0
        late = Lease(LEASE.expires, LEASE.expires + timedelta(hours=1))
        assert (await store.reserve("late", holds, CENT, late)).refused_by is None
        (balance,) = await store.balances(["c"])
        assert balance.reserved == CENT
        # It lives after all: what it spent counts, what it held is not given back again.
        await store.settle("crashed", ["c"], CENT, late)
        (balance,) = await store.balances(["c"])
        assert (balance.spent, balance.reserved) == (CENT, CENT)

    async def test_a_counter_nobody_used_is_empty(self, store: BudgetStore) -> None:
        (balance,) = await store.balances(["never"])
        assert (balance.spent, balance.reserved) == (Amounts(), Amounts())

    async def test_counters_outlive_the_connection(self, subject: BudgetSubject) -> None:
        first = subject.connect()
        await first.reserve("r", [Hold("c", Limit(requests=9))], CENT, LEASE)
        await first.aclose()
        second = subject.connect()
        (balance,) = await second.balances(["c"])
        await second.aclose()
        assert balance.reserved == CENT

    @pytest.mark.parametrize(
        "words", ["'; DROP TABLE budget_counters; --", "\0", "\ud800", "é" * 5000]
    )
    async def test_names_callers_choose_are_only_names(
        self, subject: BudgetSubject, words: str
    ) -> None:
        budget = daily(limit=Limit(requests=1), path=(Scope("conversation"),))
        budgets = Budgets([budget], subject.connect(), clock=VirtualClock(NOW))
        try:
            spender = Spender(conversation=words)
            await budgets.settle(await budgets.reserve(spender, CENT), CENT)
            with pytest.raises(BudgetExceeded):
                await budgets.reserve(spender, CENT)
            await budgets.reserve(Spender(conversation="another"), CENT)
        finally:
            await budgets.aclose()

    async def test_away_is_refused_or_let_through_by_policy_and_owed_once(
        self, subject: BudgetSubject
    ) -> None:
        clock = VirtualClock(NOW)
        budget = daily(limit=Limit(requests=100))
        strict = Budgets([budget], subject.connect(), clock=clock)
        lax = Budgets(
            [budget], subject.connect(), policy=BudgetPolicy(when_away="go_on"), clock=clock
        )
        try:
            before = await strict.reserve(ANA, CENT)
            await lax.settle(await lax.reserve(ANA, CENT), CENT)
            await subject.take_away()
            with pytest.raises(StoreAway):
                await strict.reserve(ANA, CENT)
            during = [await lax.reserve(ANA, CENT) for _ in range(5)]
            for reservation in during:
                await lax.settle(reservation, CENT)
            await strict.settle(before, CENT)
            assert (lax.owed, strict.owed) == (5, 1)
            await subject.bring_back()
            await lax.release(await lax.reserve(ANA, CENT))
            await strict.release(await strict.reserve(ANA, CENT))
            assert (lax.owed, strict.owed) == (0, 0)
            ((_, balance),) = await lax.standing(ANA)
            assert (balance.spent.requests, balance.reserved.requests) == (7, 0)
        finally:
            await strict.aclose()
            await lax.aclose()


async def pass_through(
    replicas: list[Budgets], *, calls: int, seed: int, spender: Spender = ANA
) -> int:
    """``calls`` at once over the replicas, in an order of the seed's; how many were let through.

    Some are settled at what they reserved while others still ask, some stay open.
    """
    rng = random.Random(seed)

    async def one(turns: int, settles: bool) -> bool:
        for _ in range(turns):
            await asyncio.sleep(0)
        budgets = rng.choice(replicas)
        try:
            reservation: Reservation = await budgets.reserve(spender, CENT)
        except BudgetExceeded:
            return False
        if settles:
            await budgets.settle(reservation, CENT)
        return True

    plans = [(rng.randrange(4), rng.random() < 0.5) for _ in range(calls)]
    return sum(await asyncio.gather(*(one(*plan) for plan in plans)))
