"""What budgets bind, when they reset, what they say, and what an estimate must cover."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from kimiya.catalog.pricing import cost_usd
from kimiya.core.clock import VirtualClock
from kimiya.core.exchange import Usage
from kimiya.errors import BudgetExceeded, ConfigError
from kimiya.ledger.budget import (
    Amounts,
    Budget,
    Limit,
    Scope,
    Spender,
    estimate,
    resets_at,
    window_of,
)
from kimiya.ledger.budget_sqlite import SqliteBudgets
from kimiya.ledger.budgets import Budgets
from tests.contracts.budget import CENT, NOW, daily
from tests.ledger.records import PRICE

KEY, TAG = Scope("key"), Scope("tag", name="department")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "now", "window", "reset"),
    [
        ("day", "2026-11-22T00:00:00", "2026-11-22", "2026-11-23"),
        ("day", "2026-12-31T23:59:59", "2026-12-31", "2027-01-01"),
        ("week", "2026-11-22T12:00:00", "2026-11-16", "2026-11-23"),
        ("week", "2026-11-23T00:00:00", "2026-11-23", "2026-11-30"),
        ("week", "2027-01-01T00:00:00", "2026-12-28", "2027-01-04"),
        ("month", "2026-11-30T23:59:59", "2026-11-01", "2026-12-01"),
        ("month", "2026-12-05T00:00:00", "2026-12-01", "2027-01-01"),
        ("month", "2028-02-29T08:00:00", "2028-02-01", "2028-03-01"),
    ],
)
def test_periods_are_the_calendars_in_utc(period, now, window, reset) -> None:
    assert window_of(period, at(now)) == window
    assert resets_at(period, at(now)) == at(reset)


def test_a_clock_elsewhere_is_still_utc() -> None:
    tokyo = datetime.fromisoformat("2026-11-23T08:00:00+09:00")
    assert window_of("day", tokyo) == "2026-11-22"


@pytest.mark.parametrize(
    ("path", "spender", "is_bound"),
    [
        ((), Spender(), True),
        ((KEY,), Spender(), False),
        ((KEY,), Spender(key="a"), True),
        ((Scope("key", "a"),), Spender(key="b"), False),
        ((Scope("key", "a"), Scope("user")), Spender(key="a", user="u"), True),
        ((Scope("key", "a"), Scope("user")), Spender(key="a"), False),
        ((Scope("key", "a"), Scope("user")), Spender(key="b", user="u"), False),
        ((TAG,), Spender(tags={"department": "x"}), True),
        ((TAG,), Spender(tags={"project": "x"}), False),
        ((Scope("tag", "x", "department"),), Spender(tags={"department": "x"}), True),
        ((Scope("run"), Scope("agent"), Scope("task")), Spender(run="r", agent="a"), False),
        ((Scope("run"), Scope("agent")), Spender(run="r", agent="a", task="t"), True),
    ],
)
def test_a_path_binds_those_it_matches_whole(path, spender, is_bound) -> None:
    assert (daily(path=path).counter_for(spender, NOW) is not None) == is_bound


def test_counters_of_different_spenders_never_meet() -> None:
    pairs = [("a", "b"), ('a", "b', ""), ("a,b", ""), ("", "a"), ("a", ""), ("*", "*"), ("ab", "")]
    budget = daily(path=(KEY, Scope("user")))
    counters = {budget.counter_for(Spender(key=k, user=u), NOW) for k, u in pairs}
    assert len(counters) == len(pairs)
    long = [budget.counter_for(Spender(key="k" * 1000, user=u), NOW) for u in "ab"]
    assert len(set(long)) == 2
    assert all(len(counter or "") < 400 for counter in long)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: daily(limit=Limit()), "limits nothing"),
        (lambda: daily(usd="-1"), "from 0 up"),
        (lambda: daily(usd="NaN"), "no amount"),
        (lambda: daily(usd="1e30"), "from 0 up"),
        (lambda: daily(soft_share=Decimal(2)), "soft_share"),
        (lambda: daily(path=(Scope("tag"),)), "tag scope"),
        (lambda: daily(path=(Scope("key", name="x"),)), "tag scope"),
        (lambda: Budgets([daily("a"), daily("a")], None), "two budgets are called 'a'"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(mistake, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mistake()


def test_an_estimate_covers_whatever_the_call_turns_out_to_be() -> None:
    most = estimate(PRICE, input_tokens=1000, max_output_tokens=200)
    for read in (0, 500, 1000):
        for output in (0, 200):
            usage = Usage(input_tokens=1000, output_tokens=output, cache_read_tokens=read)
            assert cost_usd(usage, PRICE) <= most.usd
    assert (most.tokens, most.requests) == (1200, 1)
    assert most.usd == Decimal("0.0012")
    assert estimate(None, input_tokens=1, max_output_tokens=1).usd is None
    assert estimate(PRICE, input_tokens=1, max_output_tokens=1, cache_write="1h").usd is None


class TestBudgets:
    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock(NOW)

    @pytest.fixture
    async def make(self, tmp_path: Path, clock: VirtualClock):
        made: list[Budgets] = []

        def make(*budgets: Budget) -> Budgets:
            store = SqliteBudgets(tmp_path / "budgets.sqlite")
            made.append(Budgets(budgets, store, clock=clock))
            return made[-1]

        yield make
        for budgets in made:
            await budgets.aclose()

    async def test_the_refusal_says_what_is_left_and_when_it_resets(self, make) -> None:
        budgets = make(daily("team", usd="0.025", path=(KEY,)))
        ana = Spender(key="ana")
        await budgets.settle(await budgets.reserve(ana, CENT), CENT)
        await budgets.reserve(ana, CENT)
        with pytest.raises(BudgetExceeded) as caught:
            await budgets.reserve(ana, CENT)
        error = caught.value
        assert error.message == (
            "budget 'team' of key ana has no room for this call: $0.005 of $0.025 left for this"
            " day; it resets at 2026-11-23T00:00:00Z"
        )
        assert (error.budget, error.left) == ("team", "$0.005 of $0.025")
        assert error.resets_at == "2026-11-23T00:00:00+00:00"
        assert error.status_hint == 429

    async def test_it_resets_with_its_period_and_not_before(self, make, clock) -> None:
        budgets = make(daily(limit=Limit(requests=1)), daily("m", usd="0.02", period="month"))
        ana = Spender(key="ana")
        await budgets.settle(await budgets.reserve(ana, CENT), CENT)
        await clock.advance(12 * 3600 - 1)
        with pytest.raises(BudgetExceeded, match="daily"):
            await budgets.reserve(ana, CENT)
        await clock.advance(1)
        await budgets.settle(await budgets.reserve(ana, CENT), CENT)
        await clock.advance(24 * 3600)
        with pytest.raises(BudgetExceeded, match=r"'m'.*month"):
            await budgets.reserve(ana, CENT)

    async def test_a_run_has_its_own_and_never_resets(self, make, clock) -> None:
        budgets = make(daily("run", limit=Limit(requests=1), period="run", path=()))
        await budgets.reserve(Spender(run="r1"), CENT)
        await budgets.reserve(Spender(run="r2"), CENT)
        for _ in range(3):
            # Nobody's run is nobody's budget.
            await budgets.reserve(Spender(), CENT)
        with pytest.raises(BudgetExceeded, match="does not reset"):
            await budgets.reserve(Spender(run="r1"), CENT)

    async def test_a_tree_stops_at_its_narrowest_branch(self, make) -> None:
        budgets = make(
            daily("team", usd="0.05", path=(Scope("key", "team"),)),
            daily("each", usd="0.02", path=(Scope("key", "team"), Scope("user"))),
        )
        passed = {
            user: [await self.passes(budgets, Spender(key="team", user=user)) for _ in range(3)]
            for user in ("ana", "bo", "cy")
        }
        assert passed == {
            "ana": [True, True, False],
            "bo": [True, True, False],
            "cy": [True, False, False],
        }

    async def test_the_soft_limit_warns_with_what_is_left(self, make) -> None:
        budgets = make(daily(usd="0.05", soft_share=Decimal("0.6")))
        warned = [
            [
                warning.left.usd
                for warning in (await budgets.reserve(Spender(key="a"), CENT)).warnings
            ]
            for _ in range(5)
        ]
        assert warned == [[], [], [], [Decimal("0.01")], [Decimal("0.00")]]

    async def test_a_cheaper_call_gives_back_the_rest(self, make) -> None:
        budgets = make(daily(usd="0.02"))
        ana = Spender(key="ana")
        reserved = [await budgets.reserve(ana, CENT) for _ in range(2)]
        assert not await self.passes(budgets, ana)
        await budgets.settle(reserved[0], Amounts(Decimal("0.001"), 1, 1))
        await budgets.release(reserved[1])
        assert await self.passes(budgets, ana)
        ((_, balance),) = await budgets.standing(ana)
        assert balance.spent == Amounts(Decimal("0.001"), 1, 1)

    @pytest.mark.parametrize("spent", [None, Amounts(None, 5, 1)])
    async def test_what_nobody_knows_counts_as_reserved(self, make, spent) -> None:
        budgets = make(daily(usd="0.02"))
        ana = Spender(key="ana")
        await budgets.settle(await budgets.reserve(ana, CENT), spent)
        ((_, balance),) = await budgets.standing(ana)
        assert balance.spent.usd == CENT.usd

    async def test_an_unpriced_call_is_refused_under_dollars_unless_told(self, make) -> None:
        unknown = Amounts(None, 10, 1)
        with pytest.raises(BudgetExceeded, match=r"no known price.*unpriced = 'pass'"):
            await make(daily()).reserve(Spender(key="a"), unknown)
        await make(daily(unpriced="pass")).reserve(Spender(key="a"), unknown)
        await make(daily("tokens", limit=Limit(tokens=10))).reserve(Spender(key="a"), unknown)

    @staticmethod
    async def passes(budgets: Budgets, spender: Spender) -> bool:
        try:
            await budgets.reserve(spender, CENT)
        except BudgetExceeded:
            return False
        return True
