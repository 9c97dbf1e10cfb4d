"""The simulated host as a provider inside this process: no wire, no port."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, assert_never

from kimiya.catalog.card import ModelCard
from kimiya.core.clock import Clock, SystemClock
from kimiya.core.events import StreamEvent
from kimiya.core.exchange import Request, Response
from kimiya.core.fold import Fold
from kimiya.core.token_estimate import estimate_input_tokens
from kimiya.errors import (
    ContextOverflow,
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RemoteProtocolError,
    Unauthorized,
)
from kimiya.providers.provider import Provider
from kimiya.providers.simulated.host import SimulatedHost
from kimiya.providers.simulated.parser import ECHO, parse_script
from kimiya.providers.simulated.script import Cut, Fail, Page, Pause, Script
from kimiya.providers.simulated.staging import Interruption
from kimiya.providers.transport import Timeouts
from kimiya.wire.dialect import Dialect

FOREVER_S = 365 * 86_400.0
"""How long a stall without an end lasts."""


class SimulatedProvider:
    """Plays a script. Passes the same contract as the providers of real hosts.

    Args:
        name: Name in the configuration.
        script: What to say; ``None`` echoes the last user text.
        seed: Of the script's faults and ids; ``None`` takes the script's own, or 0.
        clock: What pauses wait on.
        timeouts: A pause longer than its phase allows ends as it would over a wire.
    """

    def __init__(
        self,
        name: str,
        script: Script | None = None,
        seed: int | None = None,
        clock: Clock | None = None,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
    ) -> None:
        self._name = name
        self._clock = clock or SystemClock()
        self._timeouts = timeouts
        self.host = SimulatedHost(script or parse_script(ECHO, "echo"), self._clock, seed)
        """Holds what was performed."""

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    def dialect_for(self, card: ModelCard) -> Dialect | None:
        """No wire is involved."""
        return None

    async def stream(self, request: Request, card: ModelCard) -> AsyncGenerator[StreamEvent, None]:
        """Play the reply."""
        has_begun = False
        for action in self.host.perform(request).actions:
            if isinstance(action, Interruption):
                await self._interrupt(action, has_begun=has_begun)
            else:
                has_begun = True
                yield action

    async def complete(self, request: Request, card: ModelCard) -> Response:
        """Play the reply to its end."""
        gathering = Fold()
        async with aclosing(self.stream(request, card)) as events:
            async for event in events:
                gathering.feed(event)
        return gathering.result()

    async def count_tokens(self, request: Request, card: ModelCard) -> int | None:
        """An estimate; a script knows no tokenizer."""
        return estimate_input_tokens(request)

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def _interrupt(self, action: Interruption, *, has_begun: bool) -> None:
        match action:
            case Pause():
                await self._wait(action, has_begun=has_begun)
            case Fail():
                raise error_of(action, self._name)
            case Page(status=status) if status >= 500:
                raise Overloaded(
                    f"{self._name} answered {status} with a web page",
                    provider=self._name,
                    status=status,
                )
            case Page():
                raise RemoteProtocolError(
                    f"{self._name} answered {action.status} with a web page", frame=b"<html>"
                )
            case Cut():
                raise RemoteProtocolError(f"the answer of {self._name} was cut")
            case _:
                assert_never(action)

    async def _wait(self, pause: Pause, *, has_begun: bool) -> None:
        limit_s = self._timeouts.idle_s if has_begun else self._timeouts.head_s
        delay_s = FOREVER_S if pause.delay_s is None else pause.delay_s
        await self._clock.sleep(min(delay_s, limit_s))
        if delay_s > limit_s:
            raise ProviderTimeout(
                f"{self._name} sent nothing for {limit_s:g} s", provider=self._name
            )


_ERRORS: dict[int, type[ProviderError]] = {
    401: Unauthorized,
    403: Unauthorized,
    408: ProviderTimeout,
    413: ContextOverflow,
    429: RateLimited,
    504: ProviderTimeout,
}
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "context_overflow"})


def error_of(fail: Fail, provider: str | None = None) -> ProviderError:
    """The exception a scripted error is."""
    kind = _ERRORS.get(fail.status) or (Overloaded if fail.status >= 500 else InvalidRequest)
    if fail.code in _OVERFLOW_CODES:
        kind = ContextOverflow
    return kind(
        fail.message,
        provider=provider,
        status=fail.status,
        code=fail.code,
        retry_after_s=fail.retry_after_s,
    )


if TYPE_CHECKING:
    _conforms: Provider = SimulatedProvider("simulated")
