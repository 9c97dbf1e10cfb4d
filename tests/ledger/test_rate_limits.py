"""Rate limits: exact at the edge, evenly filled, honest about the wait."""

import random

import pytest
from msgspec import Struct

from kimiya.errors import ConfigError, RateLimited
from kimiya.ledger.rate_limits import RateLimit, RateLimits


class Seconds(Struct):
    """A clock that is set."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def passes(limits: RateLimits, limit: RateLimit, tokens: int = 0, key: str = "k") -> bool:
    try:
        limits.take(key, limit, tokens)
    except RateLimited:
        return False
    return True


def test_a_minutes_worth_at_once_and_then_evenly() -> None:
    clock, limit = Seconds(), RateLimit(requests_per_minute=60)
    limits = RateLimits(clock)
    assert [passes(limits, limit) for _ in range(61)] == [True] * 60 + [False]
    clock.now = 2.0
    assert [passes(limits, limit) for _ in range(3)] == [True, True, False]


def test_the_wait_it_names_is_enough_and_no_more() -> None:
    clock, limit = Seconds(), RateLimit(tokens_per_minute=600)
    limits = RateLimits(clock)
    limits.take("k", limit, 600)
    with pytest.raises(RateLimited, match=r"600 tokens a minute; try again in 30\.0 s") as caught:
        limits.take("k", limit, 300)
    wait_s = caught.value.retry_after_s
    assert wait_s == pytest.approx(30)
    clock.now = 29.9
    assert not passes(limits, limit, 300)
    clock.now = wait_s
    assert passes(limits, limit, 300)


def test_both_or_neither() -> None:
    clock, limit = Seconds(), RateLimit(requests_per_minute=2, tokens_per_minute=100)
    limits = RateLimits(clock)
    assert passes(limits, limit, 100)
    assert not passes(limits, limit, 100)
    clock.now = 30
    # The refused call took no request: one of the first minute's two is still there.
    assert passes(limits, limit, 50)


def test_true_tokens_replace_the_estimate() -> None:
    clock, limit = Seconds(), RateLimit(tokens_per_minute=100)
    limits = RateLimits(clock)
    limits.take("k", limit, 100)
    limits.correct("k", limit, estimated=100, actual=10)
    assert passes(limits, limit, 90)
    limits.correct("k", limit, estimated=90, actual=190)
    clock.now = 60
    assert not passes(limits, limit, 1)


def test_a_call_larger_than_the_limit_waits_for_a_full_bucket_and_then_pays() -> None:
    clock, limit = Seconds(), RateLimit(tokens_per_minute=100)
    limits = RateLimits(clock)
    assert passes(limits, limit, 250)
    clock.now = 89
    assert not passes(limits, limit, 1)
    clock.now = 92
    assert passes(limits, limit, 1)


def test_keys_do_not_share_and_replicas_do() -> None:
    clock, limit = Seconds(), RateLimit(requests_per_minute=6)
    limits = RateLimits(clock, replicas=3)
    for key in "ab":
        assert [passes(limits, limit, key=key) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_ever_holds_more_than_two(seed: int) -> None:
    """A bucket lets through at most its own content and one minute's filling in any minute."""
    rng, clock, limit = random.Random(seed), Seconds(), RateLimit(requests_per_minute=10)
    limits = RateLimits(clock)
    times: list[float] = []
    for _ in range(2000):
        clock.now += rng.expovariate(1.0)
        if passes(limits, limit):
            times.append(clock.now)
    for start in times:
        assert sum(start <= each < start + 60 for each in times) <= 20, f"seed {seed}"
    assert len(times) <= 10 + clock.now / 6 + 1, f"seed {seed}"
    assert len(times) >= clock.now / 6 - 1, f"seed {seed}"


def test_many_keys_do_not_fill_the_memory() -> None:
    clock, limit = Seconds(), RateLimit(requests_per_minute=60)
    limits = RateLimits(clock)
    for number in range(25_000):
        clock.now += 0.01
        limits.take(f"k{number}", limit, 0)
    assert len(limits._buckets) <= 10_001


@pytest.mark.parametrize("amount", [0, -1])
def test_a_limit_that_lets_nothing_through_is_refused(amount: int) -> None:
    with pytest.raises(ConfigError):
        RateLimit(requests_per_minute=amount)
