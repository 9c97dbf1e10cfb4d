"""The policy never repeats what is not safe, never comes back too early, and always ends."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.errors import (
    ConfigError,
    ContextOverflow,
    InvalidRequest,
    KimiyaError,
    Overloaded,
    ProviderTimeout,
    ProviderUnreachable,
    RateLimited,
    RemoteProtocolError,
    Unauthorized,
)
from kimiya.providers.retry import RetryPolicy, delay_s

RETRYABLE = [Overloaded, ProviderTimeout, ProviderUnreachable, RateLimited, RemoteProtocolError]
FINAL = [ContextOverflow, InvalidRequest, Unauthorized, ConfigError]


@pytest.mark.parametrize("error", FINAL)
def test_what_is_final_is_not_repeated(error: type[KimiyaError]) -> None:
    assert delay_s(RetryPolicy(), 1, error("no"), random.Random(1)) is None


@pytest.mark.parametrize("error", RETRYABLE)
def test_what_is_retryable_is_repeated_until_the_attempts_are_used(
    error: type[KimiyaError],
) -> None:
    policy = RetryPolicy(max_retries=2)
    given_up = [delay_s(policy, n, error("no"), random.Random(1)) is None for n in (1, 2, 3, 4)]
    assert given_up == [False, False, True, True]


@given(
    attempt=st.integers(1, 10_000),
    base_s=st.floats(0, 100),
    cap_s=st.floats(0, 100),
    seed=st.integers(),
)
def test_jitter_stays_below_the_doubling_bound_and_the_cap(
    attempt: int, base_s: float, cap_s: float, seed: int
) -> None:
    policy = RetryPolicy(max_retries=10_000, base_s=base_s, cap_s=cap_s)
    wait_s = delay_s(policy, attempt, Overloaded("no"), random.Random(seed))
    assert wait_s is not None
    bound_s = base_s * 2 ** (attempt - 1) if attempt < 60 else cap_s
    assert 0 <= wait_s <= cap_s
    assert wait_s <= bound_s or base_s == 0


def test_jitter_is_full() -> None:
    policy, rng = RetryPolicy(base_s=8, cap_s=8), random.Random(7)
    draws = [delay_s(policy, 1, Overloaded("no"), rng) or 0.0 for _ in range(400)]
    assert min(draws) < 0.5
    assert max(draws) > 7.5


@given(asked_s=st.floats(0, 60), seed=st.integers())
def test_a_host_that_says_when_is_never_asked_earlier(asked_s: float, seed: int) -> None:
    error = RateLimited("no", retry_after_s=asked_s)
    wait_s = delay_s(RetryPolicy(base_s=0.5), 1, error, random.Random(seed))
    assert wait_s is not None
    assert asked_s <= wait_s <= asked_s + 0.5


def test_a_host_that_asks_for_too_long_is_given_up() -> None:
    error = RateLimited("no", retry_after_s=60.1)
    assert delay_s(RetryPolicy(max_retry_after_s=60), 1, error, random.Random(1)) is None


def test_the_same_seed_gives_the_same_waits() -> None:
    first, second = (
        [delay_s(RetryPolicy(), 1, Overloaded("no"), rng) for _ in range(5)]
        for rng in (random.Random(3), random.Random(3))
    )
    assert first == second


@pytest.mark.parametrize("options", [{"max_retries": -1}, {"base_s": -1}, {"cap_s": float("nan")}])
def test_a_policy_that_makes_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="retry"):
        RetryPolicy(**options)  # type: ignore[arg-type]
