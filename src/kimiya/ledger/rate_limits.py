"""Requests and tokens a minute, for each key: two token buckets, in this process.

A bucket holds one minute's worth and fills evenly. A call takes one request and its estimated
tokens at once; when its true tokens are known the difference is given back or taken, so a bucket
may stand below zero for a while. Of several replicas each holds its share of the limit: no call
waits for another machine.
"""

from collections.abc import Callable

from msgspec import Struct

from kimiya.errors import ConfigError, RateLimited

_MINUTE_S = 60.0
_TIDY_FROM = 10_000
"""How many buckets there may be before full ones are looked for."""


class RateLimit(Struct, frozen=True, kw_only=True):
    """What a key may do in a minute; ``None`` does not limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for amount in (self.requests_per_minute, self.tokens_per_minute):
            if amount is not None and amount <= 0:
                raise ConfigError(f"a rate limit is above zero, not {amount}")


class _Bucket:
    """A level that rises by ``capacity`` a minute up to ``capacity``."""

    def __init__(self, capacity: float, now_s: float) -> None:
        self.capacity = capacity
        self.level = capacity
        self.at_s = now_s

    def fill(self, now_s: float) -> None:
        gained = (now_s - self.at_s) * self.capacity / _MINUTE_S
        self.level = min(self.capacity, self.level + gained)
        self.at_s = now_s

    def wait_s(self, amount: float) -> float:
        """Seconds until ``amount`` can be taken; more than a full bucket waits for a full one."""
        lacking = min(amount, self.capacity) - self.level
        return max(0.0, lacking * _MINUTE_S / self.capacity)


class RateLimits:
    """Every key's buckets.

    Args:
        monotonic: Seconds that never run backwards.
        replicas: How many gateways share the limits.
    """

    def __init__(self, monotonic: Callable[[], float], *, replicas: int = 1) -> None:
        self._monotonic = monotonic
        self._replicas = replicas
        self._buckets: dict[tuple[str, str, int], _Bucket] = {}
        self._tidy_from = _TIDY_FROM

    def take(self, key_id: str, limit: RateLimit, tokens: int) -> None:
        """Take one request and ``tokens`` tokens, both or neither.

        Raises:
            RateLimited: With ``retry_after_s``.
        """
        wanted = self._wanted(key_id, limit, tokens)
        for unit, most, bucket, amount in wanted:
            wait_s = bucket.wait_s(amount)
            # A hair of tolerance: floating point must not refuse what the arithmetic allows.
            if wait_s > 1e-6:
                raise RateLimited(
                    f"key {key_id} may use {most} {unit} a minute; try again in {wait_s:.1f} s",
                    code="rate_limit_exceeded",
                    retry_after_s=wait_s,
                )
        for _, _, bucket, amount in wanted:
            bucket.level -= amount

    def correct(self, key_id: str, limit: RateLimit, *, estimated: int, actual: int) -> None:
        """Replace the tokens a call was estimated at by those it used."""
        if limit.tokens_per_minute is not None:
            bucket = self._bucket(key_id, "tokens", limit.tokens_per_minute)
            bucket.level = min(bucket.capacity, bucket.level + estimated - actual)

    def _wanted(
        self, key_id: str, limit: RateLimit, tokens: int
    ) -> list[tuple[str, int, _Bucket, float]]:
        asked = (
            ("requests", limit.requests_per_minute, 1),
            ("tokens", limit.tokens_per_minute, tokens),
        )
        return [
            (unit, most, self._bucket(key_id, unit, most), amount)
            for unit, most, amount in asked
            if most is not None
        ]

    def _bucket(self, key_id: str, unit: str, most: int) -> _Bucket:
        now_s = self._monotonic()
        bucket = self._buckets.get((key_id, unit, most))
        if bucket is None:
            if len(self._buckets) >= self._tidy_from:
                self._forget_full(now_s)
            bucket = _Bucket(most / self._replicas, now_s)
            self._buckets[key_id, unit, most] = bucket
        bucket.fill(now_s)
        return bucket

    def _forget_full(self, now_s: float) -> None:
        """A full bucket is as good as none."""
        for bucket in self._buckets.values():
            bucket.fill(now_s)
        self._buckets = {k: b for k, b in self._buckets.items() if b.level < b.capacity}
        # Where most are in use, looking again soon would find as little.
        self._tidy_from = max(_TIDY_FROM, 2 * len(self._buckets))
