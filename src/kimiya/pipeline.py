"""The path of one call, and the only place that knows its order.

::

    Request -> taming.prepare -> caching.plan -> catalog.adapt -> provider -> Tamer -> events

``Pipeline.stream`` starts a ``Call``: an asynchronous iterator of tame, serial events whose
``report`` says what was done. ``Pipeline.complete`` is the same path folded to a whole reply.

Invariants:

* What was yielded is never taken back or stitched: once a caller has seen content, a failure is an
  error, not a second attempt.
* Every attempt is in the report, with its error or its usage.
* Leaving the iterator early closes the provider's stream before ``aclose`` returns.
"""

import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from decimal import Decimal
from typing import Protocol

import msgspec
from msgspec import Struct

from kimiya.catalog.adapt import adapt
from kimiya.catalog.pricing import cost_usd
from kimiya.core.clock import Clock, SystemClock
from kimiya.core.context import NO_CONTEXT, CallContext
from kimiya.core.events import StreamEvent, StreamStart, UsageReport
from kimiya.core.exchange import Adjustment, Request, Response, Usage, Verdict
from kimiya.core.fold import Fold, unfold
from kimiya.core.token_estimate import estimate_input_tokens
from kimiya.errors import InvalidRequest, KimiyaError, TamingExhausted, Unauthorized
from kimiya.providers.provider import Provider, Target
from kimiya.providers.retry import RetryPolicy, delay_s
from kimiya.taming import Prepared, Tamer, prepare


class Router(Protocol):
    """Knows what a model name stands for."""

    def targets(self, name: str) -> tuple[Target, ...]:
        """Where calls of ``name`` may go, in the order they are tried; never empty.

        Raises:
            UnknownModel: Nothing answers to the name.
        """
        ...

    def provider(self, name: str) -> Provider:
        """The provider configured under ``name``."""
        ...

    def retries(self, name: str) -> int | None:
        """Repeats at each target for this model name; ``None`` leaves it to the pipeline."""
        ...


class Attempt(Struct, frozen=True):
    """One try at one target: paid for, and shown, whatever became of it."""

    target: str
    """``provider:model_id``."""
    duration_s: float
    error: str | None = None
    """Class name of the error that ended it; ``None`` where it gave a reply."""
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    """``None`` where no price is known or no usage was reported."""


class Report(Struct, frozen=True):
    """What happened on the path of one call."""

    model: str
    """As the caller wrote it."""
    target: str = ""
    """``provider:model_id`` of the last attempt."""
    adjustments: tuple[Adjustment, ...] = ()
    verdict: Verdict = Verdict()
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    """Of the attempt that answered."""
    cost_usd: Decimal | None = None
    """All attempts together; ``None`` where any part is unpriced."""
    first_event_s: float | None = None
    """Seconds from the call to its first content."""
    duration_s: float = 0.0

    @property
    def retries(self) -> int:
        """Attempts beyond the first."""
        return max(0, len(self.attempts) - 1)


class Outcome(Struct, frozen=True):
    """A whole reply and what was done for it."""

    response: Response
    report: Report


class TokenCount(Struct, frozen=True):
    """Input tokens of a request that was not sent."""

    input_tokens: int
    is_estimate: bool = False
    """No host counted; see ``core.token_estimate``."""


class _AskAgain(Exception):
    """Taming could not accept the reply."""


class Call:
    """One call on its way: iterate it for events, read ``report`` at any time.

    Close it with ``aclose`` (or ``contextlib.aclosing``) when leaving early.
    """

    def __init__(
        self, pipeline: "Pipeline", request: Request, context: CallContext = NO_CONTEXT
    ) -> None:
        self._pipeline = pipeline
        self._request = request
        self._context = context
        self._clock = pipeline.clock
        self._started_s = self._clock.monotonic()
        self._has_sent = False
        self._attempts: list[Attempt] = []
        self._report = Report(model=request.model)
        self._events = self._run()

    def __aiter__(self) -> AsyncGenerator[StreamEvent, None]:
        return self._events

    @property
    def report(self) -> Report:
        """What has happened so far; final once the iterator has ended."""
        return self._report

    async def outcome(self) -> Outcome:
        """Gather the whole reply. Use instead of iterating."""
        gathering = Fold()
        async with aclosing(self):
            async for event in self:
                gathering.feed(event)
        return Outcome(gathering.result(), self.report)

    async def aclose(self) -> None:
        """Stop the call; the provider's connection is closed when this returns."""
        await self._events.aclose()

    async def _run(self) -> AsyncGenerator[StreamEvent, None]:
        targets = self._pipeline.router.targets(self._request.model)
        for position, target in enumerate(targets):
            is_last = position == len(targets) - 1
            try:
                async with aclosing(self._at(target)) as events:
                    async for event in events:
                        yield event
                return
            except KimiyaError as error:
                if self._has_sent or is_last or not _may_reroute(error):
                    raise
            finally:
                self._close_report()

    async def _at(self, target: Target) -> AsyncGenerator[StreamEvent, None]:
        """Try one target until it answers or its retries are spent."""
        policy = self._pipeline.policy_for(self._request.model)
        failures = 0
        while True:
            try:
                async with aclosing(self._attempt(target)) as events:
                    async for event in events:
                        yield event
                return
            except _AskAgain:
                failures += 1
                if self._has_sent or failures > policy.max_retries:
                    raise self._exhausted(target) from None
            except KimiyaError as error:
                failures += 1
                if self._has_sent:
                    raise
                wait_s = delay_s(policy, failures, error, self._pipeline.rng)
                if wait_s is None:
                    raise
                await self._clock.sleep(wait_s)

    async def _attempt(self, target: Target) -> AsyncGenerator[StreamEvent, None]:
        began_s = self._clock.monotonic()
        provider = self._pipeline.router.provider(target.provider)
        self._report = msgspec.structs.replace(self._report, target=target.label)
        ready = make_ready(self._request, target, provider)
        self._report = msgspec.structs.replace(self._report, adjustments=ready.adjustments)
        request, tamer = ready.request, Tamer(ready.prepared, target.card)
        usage: Usage | None = None
        error: str | None = None
        held: list[StreamEvent] = []
        try:
            async with aclosing(_raw_events(provider, request, target)) as raw_events:
                async for raw in raw_events:
                    if isinstance(raw, UsageReport):
                        usage = raw.usage
                    for event in tamer.feed(raw):
                        if self._has_sent:
                            yield event
                        elif not request.stream or isinstance(event, StreamStart | UsageReport):
                            held.append(event)
                        else:
                            self._mark_sent()
                            for earlier in held:
                                yield earlier
                            held.clear()
                            yield event
            held += tamer.close()
            self._report = msgspec.structs.replace(self._report, verdict=tamer.verdict)
            if tamer.verdict.outcome == "retry":
                raise _AskAgain
            self._mark_sent()
            for event in held:
                yield event
        except KimiyaError as failure:
            error = type(failure).__name__
            raise
        except _AskAgain:
            error = "AskAgain"
            raise
        finally:
            self._record(target, began_s, usage, error)

    def _mark_sent(self) -> None:
        if not self._has_sent:
            self._has_sent = True
            first_event_s = self._clock.monotonic() - self._started_s
            self._report = msgspec.structs.replace(self._report, first_event_s=first_event_s)

    def _record(
        self, target: Target, began_s: float, usage: Usage | None, error: str | None
    ) -> None:
        price = target.card.price_on(
            self._clock.now().date(), usage.input_tokens if usage is not None else 0
        )
        self._attempts.append(
            Attempt(
                target=target.label,
                duration_s=self._clock.monotonic() - began_s,
                error=error,
                usage=usage,
                cost_usd=cost_usd(usage, price) if usage is not None else None,
            )
        )

    def _close_report(self) -> None:
        self._report = msgspec.structs.replace(
            self._report,
            attempts=tuple(self._attempts),
            usage=self._attempts[-1].usage if self._attempts else None,
            cost_usd=_total_usd(self._attempts),
            duration_s=self._clock.monotonic() - self._started_s,
        )

    def _exhausted(self, target: Target) -> TamingExhausted:
        verdict = msgspec.structs.replace(self._report.verdict, outcome="failed")
        self._report = msgspec.structs.replace(self._report, verdict=verdict)
        reason = verdict.reason or "the reply could not be mended"
        return TamingExhausted(
            f"{target.label} gave no usable reply in {len(self._attempts)} attempt(s): {reason}",
            verdict,
        )


class Pipeline:
    """Everything a call passes through, assembled once and shared by all calls."""

    def __init__(
        self,
        router: Router,
        *,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.router = router
        self.retry = retry or RetryPolicy()
        self.clock = clock or SystemClock()
        self.rng = rng or random.Random()  # noqa: S311 (jitter, not secrets)

    def policy_for(self, model: str) -> RetryPolicy:
        """How patient to be with each target of a model name."""
        retries = self.router.retries(model)
        if retries is None:
            return self.retry
        return msgspec.structs.replace(self.retry, max_retries=retries)

    def stream(self, request: Request, context: CallContext = NO_CONTEXT) -> Call:
        """Start a call; its events come as the host sends them.

        Raises (while iterating):
            UnknownModel: Nothing answers to ``request.model``.
            ProviderError: Every route failed, or one failed after content was sent.
            TamingExhausted: No attempt gave a reply that could be let through.
        """
        return Call(self, msgspec.structs.replace(request, stream=True), context)

    def whole(self, request: Request, context: CallContext = NO_CONTEXT) -> Call:
        """As ``stream``, but the host is asked for a whole reply and nothing comes before it."""
        return Call(self, msgspec.structs.replace(request, stream=False), context)

    async def complete(self, request: Request, context: CallContext = NO_CONTEXT) -> Outcome:
        """Make a call and wait for the whole reply. Raises as ``stream``."""
        return await self.whole(request, context).outcome()

    async def count_tokens(self, request: Request) -> TokenCount:
        """Input tokens as the first target's host counts them, or an estimate where it does not."""
        target = self.router.targets(request.model)[0]
        provider = self.router.provider(target.provider)
        ready = make_ready(request, target, provider)
        counted = await provider.count_tokens(ready.request, target.card)
        if counted is None:
            return TokenCount(estimate_input_tokens(request), is_estimate=True)
        return TokenCount(counted)


class Ready(Struct, frozen=True):
    """A request as it will be sent to one target."""

    request: Request
    prepared: Prepared
    adjustments: tuple[Adjustment, ...]


def make_ready(request: Request, target: Target, provider: Provider) -> Ready:
    """Everything that happens to a request before it is sent: taming, then the card's rules.

    Raises:
        InvalidRequest: This target cannot take it, known before anything is sent.
    """
    prepared = prepare(request, target.card)
    dialect = provider.dialect_for(target.card)
    adapted = adapt(prepared.request, target.card, dialect.name if dialect else None)
    return Ready(
        request=msgspec.structs.replace(adapted.request, model=target.card.model_id),
        prepared=prepared,
        adjustments=(*prepared.adjustments, *adapted.adjustments),
    )


def _may_reroute(error: KimiyaError) -> bool:
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


async def _raw_events(
    provider: Provider, request: Request, target: Target
) -> AsyncGenerator[StreamEvent, None]:
    if not request.stream:
        for event in unfold(await provider.complete(request, target.card)):
            yield event
        return
    async with aclosing(provider.stream(request, target.card)) as events:
        async for event in events:
            yield event


def _total_usd(attempts: Iterable[Attempt]) -> Decimal | None:
    """Dollars of all attempts; attempts that never reached a model cost nothing."""
    total = Decimal(0)
    for attempt in attempts:
        if attempt.usage is None and attempt.error is not None:
            continue
        if attempt.cost_usd is None:
            return None
        total += attempt.cost_usd
    return total
