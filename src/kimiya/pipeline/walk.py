"""Which target is tried next, and after how long: the decisions of a call, without its I/O.

A target is tried until its retries are spent; then the next one of the route has its turn, where
another host could do better. The last error is raised when no target is left.
"""

import random

from kimiya.core.exchange import Verdict
from kimiya.errors import InvalidRequest, KimiyaError, TamingExhausted, Unauthorized
from kimiya.providers.provider import Target
from kimiya.providers.retry import RetryPolicy, delay_s


class Walk:
    """The way of one call along its route."""

    def __init__(
        self, targets: tuple[Target, ...], policy: RetryPolicy, rng: random.Random
    ) -> None:
        self.targets = targets
        """In the order they are tried."""
        self._policy = policy
        self._rng = rng
        self._position = 0
        self._failures = 0
        self.attempts = 0
        """Attempts that failed, at all targets."""
        self.broken: Verdict | None = None
        """What was wrong with the reply before, where this target is asked again for that."""
        self.retried_for: str | None = None
        """Why an earlier reply, at any target, could not be let through."""

    @property
    def target(self) -> Target:
        """Where the next attempt goes."""
        return self.targets[self._position]

    def after_error(self, error: KimiyaError) -> float:
        """An attempt ended in an error; seconds to wait before the next one.

        Raises:
            KimiyaError: ``error`` itself: there is no next one.
        """
        self._count()
        wait_s = delay_s(self._policy, self._failures, error, self._rng)
        if wait_s is not None:
            return wait_s
        self._next_target(error)
        return 0.0

    def after_verdict(self, verdict: Verdict) -> None:
        """An attempt gave a reply that cannot be let through; the next one may go at once.

        Raises:
            TamingExhausted: There is no next one.
        """
        self._count()
        self.broken = verdict
        self.retried_for = verdict.reason or "the reply could not be mended"
        is_hopeless = verdict.outcome == "failed"
        if is_hopeless or self._failures > self._policy.max_retries:
            self._next_target(self.exhausted(verdict))

    def exhausted(self, verdict: Verdict) -> TamingExhausted:
        """The error for a reply that cannot be let through and will not be asked again."""
        reason = verdict.reason or "the reply could not be mended"
        return TamingExhausted(
            f"{self.target.label} gave no usable reply in {max(1, self.attempts)} attempt(s):"
            f" {reason}",
            verdict,
        )

    def _count(self) -> None:
        self.attempts += 1
        self._failures += 1

    def _next_target(self, error: KimiyaError) -> None:
        if self._position == len(self.targets) - 1 or not may_reroute(error):
            raise error
        self._position += 1
        self._failures = 0
        self.broken = None


def may_reroute(error: KimiyaError) -> bool:
    """Whether another target could do better.

    Bad credentials and capabilities belong to one host; a request that a host refused after it was
    sent (``status`` set) would be refused elsewhere too.
    """
    refused_before_sending = isinstance(error, InvalidRequest) and error.status is None
    return (
        error.retryable
        or refused_before_sending
        or isinstance(error, Unauthorized | TamingExhausted)
    )
