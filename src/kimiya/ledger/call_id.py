"""Call ids: unique over processes and machines, and ordered by time.

Twelve hexadecimal digits of milliseconds since 1970, four of a counter, eight of the process, which
are random: 26 characters that sort as text in the order the calls began.
"""

import secrets
from collections.abc import Callable

_COUNTER_SPAN = 1 << 16


class CallIds:
    """Mints ids; within one process each is greater than the one before, whatever the clock does.

    >>> ids = CallIds(lambda: 1_767_225_600.0, process="0badcafe")
    >>> ids.next(), ids.next()
    ('019b76daa800-0000-0badcafe', '019b76daa800-0001-0badcafe')
    """

    def __init__(self, unix_s: Callable[[], float], *, process: str | None = None) -> None:
        self._unix_s = unix_s
        self._process = process or secrets.token_hex(4)
        self._last_ms = 0
        self._count = -1

    def next(self) -> str:
        """A new id."""
        now_ms = int(self._unix_s() * 1000)
        if now_ms > self._last_ms:
            self._last_ms, self._count = now_ms, 0
        else:
            # The clock stands or ran back: count on, and borrow a millisecond when that is full.
            self._count += 1
            if self._count == _COUNTER_SPAN:
                self._last_ms, self._count = self._last_ms + 1, 0
        return f"{self._last_ms:012x}-{self._count:04x}-{self._process}"
