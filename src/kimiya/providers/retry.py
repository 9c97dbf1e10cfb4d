"""When a failed call is sent again, and after how long; who walks the routes is the pipeline.

* Only what is safe is repeated: the error's class says ``retryable``. That nothing of the reply has
  reached the client yet is for the caller to know.
* A host that says when to come back is never asked earlier; one that asks for longer than the
  policy waits loses the call to the next route.
* Otherwise full jitter: a uniform draw between nothing and a bound that doubles with each attempt,
  so that callers who failed together do not return together (Marc Brooker, "Exponential Backoff
  And Jitter", AWS Architecture Blog, 2015).
* The decision is pure: the clock and the chance come from outside.
"""

import random

from msgspec import Struct

from kimiya.errors import ConfigError, KimiyaError, ProviderError


class RetryPolicy(Struct, frozen=True):
    """How patient to be with one route."""

    max_retries: int = 2
    """Calls of one route beyond the first; 0 repeats nothing."""
    base_s: float = 0.5
    """Bound of the first draw, in seconds; it doubles with each attempt."""
    cap_s: float = 20.0
    """The bound never grows beyond this."""
    max_retry_after_s: float = 60.0
    """The longest a host may ask us to wait; beyond it the route is given up."""

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ConfigError(
                f"{self.max_retries} is not a number of retries",
                key="retry.max_retries",
                remedy="Give 0 or more; 0 repeats nothing",
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

    >>> from kimiya.errors import Overloaded
    >>> delay_s(RetryPolicy(max_retries=0), 1, Overloaded("down"), random.Random(1)) is None
    True
    """
    if not error.retryable or attempt > policy.max_retries:
        return None
    asked_s = error.retry_after_s if isinstance(error, ProviderError) else None
    if asked_s is None:
        # The exponent is bounded so that a policy of many attempts does not overflow a float.
        return rng.uniform(0.0, min(policy.cap_s, policy.base_s * 2.0 ** min(attempt - 1, 60)))
    if asked_s > policy.max_retry_after_s:
        return None
    return max(0.0, asked_s) + rng.uniform(0.0, policy.base_s)
