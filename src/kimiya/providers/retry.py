"""When a failed call is sent again, after how long, and when the next route is tried instead.

* Only what is safe is repeated: the error's class says ``retryable``, and nothing of the reply has
  reached the client.
* A host that says when to come back is never asked earlier; one that asks for longer than the
  policy waits loses the call to the next route.
* Otherwise full jitter: a uniform draw between nothing and a bound that doubles with each attempt,
  so that callers who failed together do not return together (Marc Brooker, "Exponential Backoff
  And Jitter", AWS Architecture Blog, 2015).
* The decision is pure: the clock and the chance come from outside.
"""

import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

from msgspec import Struct

from kimiya.core.clock import Clock
from kimiya.errors import ConfigError, KimiyaError, ProviderError

R = TypeVar("R")


class RetryPolicy(Struct, frozen=True):
    """How patient to be with one route."""

    max_attempts: int = 3
    """Calls on one route, the first included."""
    base_s: float = 0.5
    """Bound of the first draw, in seconds; it doubles with each attempt."""
    cap_s: float = 20.0
    """The bound never grows beyond this."""
    max_retry_after_s: float = 60.0
    """The longest a host may ask us to wait; beyond it the route is given up."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(
                f"{self.max_attempts} attempts are none",
                key="retry.max_attempts",
                remedy="Give 1 or more; 1 repeats nothing",
            )
        for name in ("base_s", "cap_s", "max_retry_after_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(
                    f"{value!r} is not a time to wait",
                    key=f"retry.{name}",
                    remedy="Give seconds, zero or more",
                )


def delay_s(
    policy: RetryPolicy, attempt: int, error: KimiyaError, rng: random.Random
) -> float | None:
    """How long to wait before the same route is called again; ``None`` gives the route up.

    Args:
        policy: The caller's patience.
        attempt: Which attempt on this route failed, from 1.
        error: What it failed with.
        rng: Where the jitter is drawn from.

    >>> delay_s(RetryPolicy(max_attempts=1), 1, ProviderError("down"), random.Random(1)) is None
    True
    """
    if not error.retryable or attempt >= policy.max_attempts:
        return None
    asked_s = error.retry_after_s if isinstance(error, ProviderError) else None
    if asked_s is None:
        # The exponent is bounded so that a policy of many attempts does not overflow a float.
        return rng.uniform(0.0, min(policy.cap_s, policy.base_s * 2.0 ** min(attempt - 1, 60)))
    if asked_s > policy.max_retry_after_s:
        return None
    return max(0.0, asked_s) + rng.uniform(0.0, policy.base_s)


class Failure(Struct, Generic[R], frozen=True):
    """One attempt that failed."""

    route: R
    error: KimiyaError


class Attempt(Generic[R]):
    """One call to make. The caller makes it and reports a failure; saying nothing is success."""

    def __init__(self, route: R, number: int, failures: tuple[Failure[R], ...]) -> None:
        self.route = route
        self.number = number
        """Of the attempts on this route, from 1."""
        self.failures = failures
        """What failed before, on any route, in order."""
        self.error: KimiyaError | None = None

    def failed(self, error: KimiyaError, *, has_begun: bool = False) -> None:
        """Note the failure, so that the loop goes on.

        Args:
            error: What the call failed with.
            has_begun: Whether any of the reply has reached the client already.

        Raises:
            KimiyaError: ``error`` itself, where sending again is not safe or cannot help.
        """
        if has_begun or not error.retryable:
            raise error
        self.error = error


async def attempts(
    routes: Sequence[R], policy: RetryPolicy, clock: Clock, rng: random.Random
) -> AsyncGenerator[Attempt[R], None]:
    """What to try, in order: each route until the policy gives it up, then the next.

    ::

        async for attempt in attempts(targets, policy, clock, rng):
            try:
                return await call(attempt.route)
            except (ProviderError, RemoteProtocolError) as error:
                attempt.failed(error)

    Raises:
        KimiyaError: The last failure, once the last route is given up.
        ConfigError: There is no route.
    """
    if not routes:
        raise ConfigError("a call has no route", key="routes", remedy="Name one provider at least")
    failures: list[Failure[R]] = []
    for route in routes:
        number = 0
        while True:
            number += 1
            attempt = Attempt(route, number, tuple(failures))
            yield attempt
            if attempt.error is None:
                return
            failures.append(Failure(route, attempt.error))
            wait_s = delay_s(policy, number, attempt.error, rng)
            if wait_s is None:
                break
            await clock.sleep(wait_s)
    raise failures[-1].error


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """When a host asks to be called again, in seconds from ``now``.

    Reads ``retry-after-ms`` (OpenAI, Azure) and ``retry-after``, as seconds or as an HTTP date
    (RFC 9110 §10.2.3). A date is measured against the host's own ``date`` where it sent one, since
    clocks differ. Names are in lower case. Nonsense counts as absent.

    >>> retry_after_s({"retry-after": "1.5"}, datetime(2026, 1, 1, tzinfo=UTC))
    1.5
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    due = _date(value)
    since = _date(headers.get("date")) or now
    return None if due is None else max(0.0, (due - since).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
