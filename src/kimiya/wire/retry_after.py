"""``Retry-After`` as a number of seconds, read from and written to header fields."""

import math
from collections.abc import Mapping


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a host asks to wait; ``None`` where it does not say, or not legibly.

    A date is measured against the reply's own ``Date``, so that no clock is needed.

    >>> read_retry_after({"retry-after": "2"}), read_retry_after({"retry-after-ms": "1500"})
    (2.0, 1.5)
    >>> read_retry_after({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT",
    ...                   "date": "Sun, 22 Nov 2026 10:00:00 GMT"})
    30.0
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is None and value and "date" in headers:
        return _between(headers["date"], value)
    return seconds


def retry_after_header(seconds: float | None) -> dict[str, str]:
    """The header that says it, in whole seconds, rounded up."""
    return {} if seconds is None else {"retry-after": str(max(0, math.ceil(seconds)))}


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value) if value else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _between(start: str, end: str) -> float | None:
    from email.utils import parsedate_to_datetime  # here: it is slow to load and rarely needed

    try:
        delta = parsedate_to_datetime(end) - parsedate_to_datetime(start)
    except (ValueError, TypeError):
        return None
    return max(0.0, delta.total_seconds())
