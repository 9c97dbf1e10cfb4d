"""A simulated host: requests in, what is sent for each out, and no I/O at all.

``perform`` decides everything (which reply, which fault, where it is cut) before the first event is
sent; who plays the performance, the in-process provider or the server, only waits and writes.
"""

from collections import deque

from msgspec import Struct

from kimiya.core.clock import Clock
from kimiya.core.exchange import Request
from kimiya.errors import InvalidRequest
from kimiya.providers.simulated.conditions import choose, situation_of
from kimiya.providers.simulated.script import Script
from kimiya.providers.simulated.staging import Action, Scene, Staging


class Performed(Struct, frozen=True):
    """What a request got, for logs and tests."""

    number: int
    """Of the request, from 1."""
    line: int
    """Of the reply in the script."""
    fault: str | None = None
    """The fault that struck, such as ``B.spaced`` or ``429``."""


class Performance(Struct, frozen=True):
    """What is sent for one request, in order. Nothing follows a ``Fail``, ``Page`` or ``Cut``."""

    actions: tuple[Action, ...]
    performed: Performed


class SimulatedHost:
    """Answers requests as its script says; the same seed and requests give the same answers.

    Args:
        script: What to say.
        clock: For the time replies are stamped with; waiting is the player's.
        seed: Of all chance; ``None`` takes the script's, or 0.
    """

    def __init__(self, script: Script, clock: Clock, seed: int | None = None) -> None:
        self.script = script
        self.seed = seed if seed is not None else script.seed or 0
        self.performed: deque[Performed] = deque(maxlen=4096)
        """The newest performances."""
        self.last_request: Request | None = None
        """The newest request, as the host understood it."""
        self._clock = clock
        self._answered = 0
        self._said: frozenset[int] = frozenset()

    def perform(self, request: Request) -> Performance:
        """Decide what this request gets.

        Raises:
            InvalidRequest: No reply of the script fits it.
        """
        self._answered += 1
        self.last_request = request
        situation = situation_of(request, self._answered)
        choice = choose(self.script, situation, self._said)
        if choice is None:
            raise InvalidRequest(
                f"no reply of {self.script.name} fits this request (turn {situation.turn}, last"
                f" user text {situation.texts['user'][:80]!r}); end the script with a plain"
                " `reply`",
                code="no_scripted_reply",
                status=400,
            )
        if choice.reply.is_once:
            self._said |= {choice.reply.line}
        stamp = int(self._clock.now().timestamp())
        staging = Staging(Scene(self.script, self.seed, self._answered, stamp), request, choice)
        performed = Performed(self._answered, choice.reply.line, staging.fault)
        self.performed.append(performed)
        return Performance(tuple(staging.actions()), performed)
