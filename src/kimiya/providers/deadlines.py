"""How long each phase of a call may last, and what ends a wait that lasts longer."""

import asyncio
import math

import aiohttp
from msgspec import Struct

from kimiya.errors import ConfigError, ProviderTimeout


class Timeouts(Struct, frozen=True):
    """How long each phase of a call may last, in seconds."""

    connect_s: float = 10.0
    """From asking for a connection to having one: name look-up, TCP, TLS, waiting for the pool."""
    head_s: float = 600.0
    """From asking to the head of the answer. A whole reply of a thinking model takes minutes."""
    idle_s: float = 120.0
    """Between two chunks of a body, while somebody waits for the next one."""
    total_s: float | None = None
    """From asking to the end of the body; ``None`` sets no limit."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"{value!r} is not a time limit",
                    key=f"timeouts.{name}",
                    remedy="Give seconds greater than zero",
                )


class Watch:
    """Ends a wait that lasts longer than it may.

    ``begin`` notes the time and ``end`` forgets it; the timer, armed once, looks at the note when
    it fires and arms itself again for what is left. A slow reader is not the host's fault: time
    counts only between ``begin`` and ``end``.
    """

    def __init__(
        self, timeouts: Timeouts, deadline: float, content: aiohttp.StreamReader, origin: str
    ) -> None:
        self.origin = origin
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._deadline = deadline
        self._content = content
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Somebody waits from now on."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._due(self._since), self._look)

    def end(self) -> None:
        """Nobody waits."""
        self._since = None

    def close(self) -> None:
        """Nobody will wait again."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self, since: float) -> float:
        return min(since + self._timeouts.idle_s, self._deadline)

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        due = self._due(self._since)
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        what = (
            f"took longer than {self._timeouts.total_s:g} s in all"
            if due == self._deadline
            else f"sent nothing for {self._timeouts.idle_s:g} s in the middle of its answer"
        )
        self._content.set_exception(ProviderTimeout(f"{self.origin} {what}"))
