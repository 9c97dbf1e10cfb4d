"""One call on its way: attempts along its route, and nothing stitched.

Invariants:

* What was yielded is never taken back or stitched: once a caller has seen content, a failure is an
  error, not a second attempt.
* Every attempt is in the report, with its error or its usage.
* Leaving the iterator early closes the provider's stream before ``aclose`` returns.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from kimiya.caching.planner import Planned
from kimiya.catalog.card import ModelCard
from kimiya.catalog.pricing import cost_usd
from kimiya.core.context import NO_CONTEXT, CallContext
from kimiya.core.events import PartEnd, ReasoningDelta, StreamEvent, StreamStart, UsageReport
from kimiya.core.exchange import Request, Usage, Verdict
from kimiya.core.fold import Fold, unfold
from kimiya.errors import KimiyaError
from kimiya.pipeline.accounts import Entry
from kimiya.pipeline.ready import Ready, make_ready
from kimiya.pipeline.report import Attempt, Outcome, Report, total_usd
from kimiya.pipeline.walk import Walk
from kimiya.providers.provider import Target
from kimiya.taming import Tamer, asked_again

if TYPE_CHECKING:
    from kimiya.pipeline.pipeline import Pipeline

HoldReasoning: TypeAlias = Literal["never", "with_tools", "always"]

_OPENING = (StreamStart, UsageReport)
_OPENING_AND_REASONING = (*_OPENING, ReasoningDelta, PartEnd)


class _Unusable(Exception):
    """Taming could not accept the reply."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class _Trial:
    """One attempt at one target, while it lasts."""

    def __init__(self, target: Target, began_s: float) -> None:
        self.target = target
        self.began_s = began_s
        self.usage: Usage | None = None
        self.error: str | None = None
        self.ready: Ready | None = None
        self.ticket = 0


class Call:
    """One call on its way: iterate it for events, or await ``outcome`` for the whole reply.

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
        self._attempts: list[Attempt] = []
        self._report = Report(model=request.model)
        self._events: AsyncGenerator[StreamEvent, None] | None = None

    def __aiter__(self) -> AsyncGenerator[StreamEvent, None]:
        if self._events is None:
            self._events = self._run()
        return self._events

    @property
    def report(self) -> Report:
        """What has happened so far; final once the iterator has ended."""
        return self._report

    async def aclose(self) -> None:
        """Stop the call; the provider's connection is closed when this returns."""
        if self._events is not None:
            await self._events.aclose()

    async def outcome(self) -> Outcome:
        """The whole reply, asked for whole. Use instead of iterating.

        Raises:
            UnknownModel: Nothing answers to the request's model.
            ProviderError: Every target failed.
            TamingExhausted: No attempt gave a reply that could be let through.
        """
        walk = await self._walk()
        entry = await self._enter(walk)
        try:
            while True:
                try:
                    response = (await self._whole(walk)).result()
                    break
                except _Unusable as unusable:
                    walk.after_verdict(unusable.verdict)
                except KimiyaError as error:
                    await self._clock.sleep(walk.after_error(error))
        finally:
            self._leave(walk, entry)
        return Outcome(response, self._report)

    async def _run(self) -> AsyncGenerator[StreamEvent, None]:
        walk = await self._walk()
        entry = await self._enter(walk)
        try:
            while True:
                try:
                    async with aclosing(self._streamed(walk)) as events:
                        async for event in events:
                            yield event
                    return
                except _Unusable as unusable:
                    if self._has_sent:
                        raise walk.exhausted(unusable.verdict) from None
                    walk.after_verdict(unusable.verdict)
                except KimiyaError as error:
                    if self._has_sent:
                        raise
                    await self._clock.sleep(walk.after_error(error))
        finally:
            self._leave(walk, entry)

    async def _enter(self, walk: Walk) -> Entry:
        accounts = self._pipeline.accounts
        try:
            entry = await accounts.enter(self._request, self._context, walk.targets)
        except KimiyaError as refusal:
            accounts.note_refusal(self._context, self._report, refusal)
            raise
        if entry.warnings:
            self._report = msgspec.structs.replace(self._report, budget_warnings=entry.warnings)
        return entry

    def _leave(self, walk: Walk, entry: Entry) -> None:
        self._close_report()
        self._pipeline.accounts.leave(entry, self._context, self._report, walk.targets)

    async def _walk(self) -> Walk:
        pipeline, model = self._pipeline, self._request.model
        targets = await pipeline.router.settled(model)
        return Walk(targets, pipeline.policy_for(model), pipeline.rng)

    async def _whole(self, walk: Walk) -> Fold:
        """One attempt, asked for whole."""
        trial = self._begin(walk)
        try:
            ready = trial.ready = await self._board(trial, walk)
            tamer = Tamer(ready.prepared, trial.target.card, store=self._shelf)
            provider = self._pipeline.router.provider(trial.target.provider)
            response = await provider.complete(ready.request, trial.target.card)
            trial.usage = response.usage
            self._written(trial)
            gathering = Fold()
            for raw in unfold(response):
                _feed(gathering, tamer.feed(raw))
            _feed(gathering, tamer.close())
            self._judge(tamer.verdict, walk)
            self._mark_sent()
            self._report = msgspec.structs.replace(self._report, is_complete=True)
        except (KimiyaError, _Unusable) as failure:
            trial.error = type(failure).__name__.lstrip("_")
            raise
        finally:
            self._end(trial)
        return gathering

    async def _streamed(self, walk: Walk) -> AsyncGenerator[StreamEvent, None]:
        """One attempt, its events held back until the caller may see them."""
        trial = self._begin(walk)
        held: list[StreamEvent] = []
        try:
            ready = trial.ready = await self._board(trial, walk)
            tamer = Tamer(ready.prepared, trial.target.card, store=self._shelf)
            waits = self._waiting_kinds(ready.request)
            provider = self._pipeline.router.provider(trial.target.provider)
            async with aclosing(provider.stream(ready.request, trial.target.card)) as raw_events:
                async for raw in raw_events:
                    if trial.ticket:
                        self._written(trial)
                    if isinstance(raw, UsageReport):
                        trial.usage = raw.usage
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
            self._judge(tamer.verdict, walk)
            self._mark_sent()
            for event in held:
                yield event
            self._report = msgspec.structs.replace(self._report, is_complete=True)
        except (KimiyaError, _Unusable) as failure:
            trial.error = type(failure).__name__.lstrip("_")
            raise
        finally:
            self._end(trial)

    def _begin(self, walk: Walk) -> _Trial:
        self._report = msgspec.structs.replace(self._report, target=walk.target.label)
        return _Trial(walk.target, self._clock.monotonic())

    async def _board(self, trial: _Trial, walk: Walk) -> Ready:
        """The request for this attempt, sent not before its prefix is free to be written."""
        ready = self._make_ready(walk)
        if ready.prefix is not None and ready.prefix.gates:
            trial.ticket = await self._pipeline.flights.board(ready.prefix.gates)
        return ready

    def _written(self, trial: _Trial) -> None:
        if trial.ticket:
            self._pipeline.flights.written(trial.ticket)
            trial.ticket = 0

    def _make_ready(self, walk: Walk) -> Ready:
        pipeline, target = self._pipeline, walk.target
        ready = make_ready(
            self._request,
            target,
            pipeline.router.provider(target.provider),
            store=self._shelf,
            prose=pipeline.prose,
            plan=self._plan if pipeline.planner is not None else None,
        )
        if ready.adjustments != self._report.adjustments:
            # Those of the target before, where there was one, are not this one's.
            self._report = msgspec.structs.replace(self._report, adjustments=ready.adjustments)
        if walk.broken is None:
            return ready
        request = asked_again(ready.request, walk.broken, target.card)
        return msgspec.structs.replace(ready, request=request)

    def _plan(self, request: Request, card: ModelCard) -> Planned:
        assert self._pipeline.planner is not None
        return self._pipeline.planner.plan(request, card, self._context, self._clock.now())

    def _waiting_kinds(self, request: Request) -> tuple[type, ...]:
        """Events that wait for what comes behind them."""
        hold = self._pipeline.hold_reasoning
        if hold == "always" or (hold == "with_tools" and request.tools):
            return _OPENING_AND_REASONING
        return _OPENING

    def _judge(self, verdict: Verdict, walk: Walk) -> None:
        """Take the verdict of one attempt into the report of all.

        Raises:
            _Unusable: Nothing more of the reply may go out.
        """
        if verdict.outcome in ("retry", "failed"):
            shown = msgspec.structs.replace(verdict, outcome="failed")
            self._report = msgspec.structs.replace(self._report, verdict=shown)
            raise _Unusable(verdict)
        if walk.retried_for is not None:
            verdict = msgspec.structs.replace(verdict, outcome="retried", reason=walk.retried_for)
        self._report = msgspec.structs.replace(self._report, verdict=verdict)

    def _mark_sent(self) -> None:
        if not self._has_sent:
            self._has_sent = True
            first_event_s = self._clock.monotonic() - self._started_s
            self._report = msgspec.structs.replace(self._report, first_event_s=first_event_s)

    def _end(self, trial: _Trial) -> None:
        usage, ready, now = trial.usage, trial.ready, self._clock.now()
        if trial.ticket:
            self._pipeline.flights.abandoned(trial.ticket)
        planner = self._pipeline.planner
        if planner is not None and ready is not None and ready.prefix and trial.error is None:
            planner.observe(ready.prefix, trial.target.card, usage, now)
        price = trial.target.card.price_on(now.date(), usage.input_tokens if usage else 0)
        self._attempts.append(
            Attempt(
                target=trial.target.label,
                duration_s=self._clock.monotonic() - trial.began_s,
                error=trial.error,
                usage=usage,
                cost_usd=cost_usd(usage, price) if usage is not None else None,
                price=price,
                dialect=ready.dialect if ready is not None else "",
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


def _feed(gathering: Fold, events: Iterable[StreamEvent]) -> None:
    for event in events:
        gathering.feed(event)
