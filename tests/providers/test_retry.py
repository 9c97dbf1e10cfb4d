"""The policy never repeats what is not safe, never comes back too early, and always ends."""

import asyncio
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.core.clock import VirtualClock
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
from kimiya.providers.retry import Failure, RetryPolicy, attempts, delay_s, retry_after_s

RETRYABLE = [Overloaded, ProviderTimeout, ProviderUnreachable, RateLimited, RemoteProtocolError]
FINAL = [ContextOverflow, InvalidRequest, Unauthorized, ConfigError]
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("error", FINAL)
def test_what_is_final_is_not_repeated(error: type[KimiyaError]) -> None:
    assert delay_s(RetryPolicy(), 1, error("no"), random.Random(1)) is None


@pytest.mark.parametrize("error", RETRYABLE)
def test_what_is_retryable_is_repeated_until_the_attempts_are_used(
    error: type[KimiyaError],
) -> None:
    policy = RetryPolicy(max_attempts=3)
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
    policy = RetryPolicy(max_attempts=10_001, base_s=base_s, cap_s=cap_s)
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


DATE = "Sun, 22 Nov 2026 12:00:30 GMT"
RETRY_AFTER_CASES = [
    ({}, None),
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "2.5"}, 2.5),
    ({"retry-after": DATE}, 30.0),
    ({"retry-after": DATE, "date": "Sun, 22 Nov 2026 12:00:20 GMT"}, 10.0),
    ({"retry-after": DATE, "date": "yesterday"}, 30.0),
    ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
    ({"retry-after": "Sun, 22 Nov 2026 12:00:30 -0000"}, 30.0),
    ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
    ({"retry-after": "-5"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "in a while"}, None),
    ({"retry-after": ""}, None),
]


@pytest.mark.parametrize(("headers", "expected"), RETRY_AFTER_CASES)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, NOW) == expected


@given(st.text())
def test_any_header_is_survived(value: str) -> None:
    wait_s = retry_after_s({"retry-after": value, "date": value}, NOW)
    assert wait_s is None or wait_s >= 0


async def run(
    script: dict[str, list[KimiyaError | None]], policy: RetryPolicy, *, has_begun: bool = False
) -> tuple[list[tuple[str, int]], float, tuple[Failure[str], ...]]:
    """Call the routes as scripted; which were called, seconds waited, what had failed."""
    clock, made = VirtualClock(), list[tuple[str, int]]()
    failures: tuple[Failure[str], ...] = ()

    async def call() -> None:
        nonlocal failures
        async for attempt in attempts(list(script), policy, clock, random.Random(5)):
            made.append((attempt.route, attempt.number))
            failures = attempt.failures
            if (error := script[attempt.route].pop(0)) is not None:
                attempt.failed(error, has_begun=has_begun)

    task = asyncio.ensure_future(call())
    while not task.done():
        await clock.advance(0.25)
    task.result()
    return made, clock.monotonic(), failures


async def test_success_at_once_waits_for_nothing() -> None:
    assert await run({"a": [None], "b": []}, RetryPolicy()) == ([("a", 1)], 0.25, ())


async def test_a_route_is_exhausted_before_the_next_is_tried() -> None:
    down, slow = Overloaded("down"), ProviderTimeout("slow")
    made, _, failures = await run(
        {"a": [down, slow], "b": [down, None]}, RetryPolicy(max_attempts=2, base_s=1)
    )
    assert made == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert failures == (Failure("a", down), Failure("a", slow), Failure("b", down))


async def test_retry_after_is_waited_for() -> None:
    _, waited_s, _ = await run({"a": [RateLimited("no", retry_after_s=30), None]}, RetryPolicy())
    assert 30 <= waited_s <= 31


async def test_too_long_a_wait_goes_to_the_next_route_at_once() -> None:
    made, waited_s, _ = await run(
        {"a": [RateLimited("no", retry_after_s=3600)], "b": [None]}, RetryPolicy()
    )
    assert made == [("a", 1), ("b", 1)]
    assert waited_s == 0.25


async def test_the_last_failure_is_raised() -> None:
    last = RateLimited("the last", retry_after_s=3600)
    with pytest.raises(RateLimited) as caught:
        await run({"a": [Overloaded("first")], "b": [last]}, RetryPolicy(max_attempts=1))
    assert caught.value is last


async def test_what_is_final_is_raised_and_no_other_route_tried() -> None:
    script: dict[str, list[KimiyaError | None]] = {"a": [Unauthorized("no")], "b": [None]}
    with pytest.raises(Unauthorized):
        await run(script, RetryPolicy())
    assert script["b"] == [None]


async def test_nothing_is_repeated_once_the_client_has_seen_something() -> None:
    with pytest.raises(RemoteProtocolError):
        await run({"a": [RemoteProtocolError("cut"), None]}, RetryPolicy(), has_begun=True)


async def test_no_route() -> None:
    with pytest.raises(ConfigError, match="no route"):
        await run({}, RetryPolicy())


@pytest.mark.parametrize("options", [{"max_attempts": 0}, {"base_s": -1}, {"cap_s": float("nan")}])
def test_a_policy_that_makes_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="retry"):
        RetryPolicy(**options)  # type: ignore[arg-type]
