"""One call on its way: targets in order, attempts at each, and nothing stitched.

Invariants:

* What was yielded is never taken back or stitched: once a caller has seen content, a failure is an
  error, not a second attempt.
* Every attempt is in the report, with its error or its usage.
* Leaving the iterator early closes the provider's stream before ``aclose`` returns.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
from msgspec import Struct

from kimiya.catalog.pricing import cost_usd
from kimiya.core.context import NO_CONTEXT, CallContext
from kimiya.core.events import PartEnd, ReasoningDelta, StreamEvent, StreamStart, UsageReport
from kimiya.core.exchange import Request, Usage, Verdict
from kimiya.core.fold import Fold, unfold
from kimiya.errors import InvalidRequest, KimiyaError, TamingExhausted, Unauthorized
from kimiya.pipeline.ready import Ready, make_ready
from kimiya.pipeline.report import Attempt, Outcome, Report, total_usd
from kimiya.providers.provider import Provider, Target
from kimiya.providers.retry import delay_s
from kimiya.taming import Tamer, asked_again

if TYPE_CHECKING:
    from kimiya.pipeline.pipeline import Pipeline

HoldReasoning: TypeAlias = Literal["never", "with_tools", "always"]


class _AskAgain(Exception):
    """Taming could not accept the reply."""


class _Tally(Struct):
    """What one attempt used, filled in as it goes."""

    began_s: float
    usage: Usage | None = None
    error: str | None = None


class Call:
    """One call on its way: iterate it for events, read ``report`` at any time.

    A reply can be asked again only while the caller has seen nothing of it. So a stream's opening
    events wait for its first content; and its reasoning waits for the first text or call where
    ``hold_reasoning`` says so, because a turn that ends after its reasoning is Kimi's most frequent
    failure in a tool loop.

    Close it with ``aclose`` (or ``contextlib.aclosing``) when leaving early.
    """

    def __init__(
        self, pipeline: "Pipeline", request: Request, context: CallContext = NO_CONTEXT
    ) -> None:
        self._pipeline = pipeline
        self._request = request
        self._context = context
        self._clock = pipeline.clock
        # Two tenants may hold the same conversation; neither sees the other's reasoning.
        self._shelf = pipeline.reasoning_shelf.of(context.key_id)
        self._started_s = self._clock.monotonic()
        self._has_sent = False
        self._broken: Verdict | None = None
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
                is_hopeless = self._report.verdict.outcome == "failed"
                if is_hopeless or self._has_sent or failures > policy.max_retries:
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
        self._report = msgspec.structs.replace(self._report, target=target.label)
        provider = self._pipeline.router.provider(target.provider)
        ready = self._make_ready(target, provider)
        tamer = Tamer(ready.prepared, target.card, store=self._shelf)
        tally = _Tally(self._clock.monotonic())
        try:
            async with aclosing(self._tame(ready, tamer, provider, target, tally)) as events:
                async for event in events:
                    yield event
        except KimiyaError as failure:
            tally.error = type(failure).__name__
            raise
        except _AskAgain:
            tally.error = "AskAgain"
            raise
        finally:
            self._record(target, tally)

    async def _tame(
        self, ready: Ready, tamer: Tamer, provider: Provider, target: Target, tally: _Tally
    ) -> AsyncGenerator[StreamEvent, None]:
        """The events of one attempt, held back until the caller may see them."""
        held: list[StreamEvent] = []
        waits = self._waiting_kinds(ready.request)
        async with aclosing(_raw_events(provider, ready.request, target)) as raw_events:
            async for raw in raw_events:
                if isinstance(raw, UsageReport):
                    tally.usage = raw.usage
                for event in tamer.feed(raw):
                    if self._has_sent:
                        yield event
                    elif isinstance(event, waits):
                        held.append(event)
                    else:
                        self._mark_sent()
                        for earlier in held:
                            yield earlier
                        held.clear()
                        yield event
        held += tamer.close()
        self._judge(tamer.verdict)
        self._mark_sent()
        for event in held:
            yield event

    def _make_ready(self, target: Target, provider: Provider) -> Ready:
        pipeline = self._pipeline
        ready = make_ready(
            self._request,
            target,
            provider,
            store=self._shelf,
            prose=pipeline.prose,
        )
        self._report = msgspec.structs.replace(self._report, adjustments=ready.adjustments)
        if self._broken is None:
            return ready
        request = asked_again(ready.request, self._broken, target.card)
        return msgspec.structs.replace(ready, request=request)

    def _waiting_kinds(self, request: Request) -> type | tuple[type, ...]:
        """Events that wait for what comes behind them."""
        if not request.stream:
            return object
        hold = self._pipeline.hold_reasoning
        if hold == "always" or (hold == "with_tools" and request.tools):
            return (StreamStart, UsageReport, ReasoningDelta, PartEnd)
        return (StreamStart, UsageReport)

    def _judge(self, verdict: Verdict) -> None:
        """Take the verdict of one attempt into the report of all.

        Raises:
            _AskAgain: Nothing of the reply may go out.
        """
        if verdict.outcome in ("retry", "failed"):
            self._report = msgspec.structs.replace(self._report, verdict=verdict)
            self._broken = verdict
            raise _AskAgain
        if self._broken is not None:
            verdict = msgspec.structs.replace(
                verdict, outcome="retried", reason=self._broken.reason
            )
        self._report = msgspec.structs.replace(self._report, verdict=verdict)

    def _mark_sent(self) -> None:
        if not self._has_sent:
            self._has_sent = True
            first_event_s = self._clock.monotonic() - self._started_s
            self._report = msgspec.structs.replace(self._report, first_event_s=first_event_s)

    def _record(self, target: Target, tally: _Tally) -> None:
        usage = tally.usage
        price = target.card.price_on(
            self._clock.now().date(), usage.input_tokens if usage is not None else 0
        )
        self._attempts.append(
            Attempt(
                target=target.label,
                duration_s=self._clock.monotonic() - tally.began_s,
                error=tally.error,
                usage=usage,
                cost_usd=cost_usd(usage, price) if usage is not None else None,
            )
        )

    def _close_report(self) -> None:
        self._report = msgspec.structs.replace(
            self._report,
            attempts=tuple(self._attempts),
            usage=self._attempts[-1].usage if self._attempts else None,
            cost_usd=total_usd(self._attempts),
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
