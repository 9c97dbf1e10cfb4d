"""What a call may cost and what it did cost: admission before it, settlement after it.

Nothing here waits in a reply's way longer than a reservation takes: the ledger appends to its spool
and budgets are settled by a task behind the reply, the reservation holding until then.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from kimiya.core.clock import Clock
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request
from kimiya.core.token_estimate import estimate_input_tokens
from kimiya.errors import KimiyaError
from kimiya.ledger.budget import Amounts, Spender, estimate
from kimiya.ledger.budgets import Budgets, Reservation
from kimiya.ledger.call_id import CallIds
from kimiya.ledger.ledger import Ledger
from kimiya.ledger.rate_limits import RateLimit, RateLimits
from kimiya.ledger.record import LedgerAttempt, LedgerRecord
from kimiya.ledger.record import Outcome as LedgerOutcome
from kimiya.ledger.savings import saved_by_caching_usd, saved_by_routing_usd
from kimiya.pipeline.report import Attempt, Report
from kimiya.providers.provider import Target

_UNBOUNDED_OUTPUT_TOKENS = 32_768
"""What is reserved where neither request nor card bounds the output."""


class Entry(Struct, frozen=True):
    """A call that was let in."""

    reservation: Reservation | None = None
    estimated_tokens: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Names of budgets whose soft limit is passed."""
        if self.reservation is None:
            return ()
        return tuple(warning.budget for warning in self.reservation.warnings)


class Listener(Protocol):
    """Hears of every settled call; must be quick, and never raises."""

    def add(self, call: LedgerRecord) -> object:
        """A call was settled."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Accounts:
    """The books of a pipeline; every part of them may be absent.

    Args:
        clock: Stamps records.
        ledger: Where calls are settled.
        budgets: What may be spent.
        rate_limits: How fast.
        limits: By key id; ``*`` holds for keys that are not named.
        listener: Hears what the ledger hears, with a ledger or without.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        ledger: Ledger | None = None,
        budgets: Budgets | None = None,
        rate_limits: RateLimits | None = None,
        limits: Mapping[str, RateLimit] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._clock = clock
        self.ledger = ledger
        self.budgets = budgets
        self._rate_limits = rate_limits
        self._limits = limits or {}
        self._listener = listener
        self._ids = CallIds(lambda: clock.now().timestamp())
        self._settling: set[asyncio.Task[None]] = set()

    async def enter(
        self, request: Request, context: CallContext, targets: Iterable[Target]
    ) -> Entry:
        """Let a call in, or refuse it before anything is sent.

        Raises:
            LedgerError: The ledger is full and its policy is to refuse.
            RateLimited: The key calls too fast.
            BudgetExceeded: A budget has no room.
        """
        if self.ledger is not None:
            self.ledger.admit()
        limit = self._limit_of(context)
        if self.budgets is None and limit is None:
            return Entry()
        input_tokens = estimate_input_tokens(request)
        if limit is not None and self._rate_limits is not None:
            self._rate_limits.take(context.key_id or "", limit, input_tokens)
        if self.budgets is None:
            return Entry(estimated_tokens=input_tokens)
        most = self._dearest(request, input_tokens, targets)
        reservation = await self.budgets.reserve(_spender(context), most)
        return Entry(reservation, input_tokens)

    def note_refusal(self, context: CallContext, report: Report, refusal: KimiyaError) -> None:
        """Put a call that was not let in into the ledger: it cost nothing, and is not forgotten."""
        if self.ledger is None:
            return
        self.ledger.settle(
            LedgerRecord(
                call_id=self._ids.next(),
                at=self._clock.now(),
                model=report.model,
                key_id=context.key_id,
                tags=dict(context.tags),
                conversation=context.conversation,
                user=context.user,
                run=context.run,
                front=context.front,
                outcome="refused",
                error=type(refusal).__name__,
            )
        )

    def leave(
        self, entry: Entry, context: CallContext, report: Report, targets: tuple[Target, ...]
    ) -> None:
        """Settle a call that has ended, however it ended."""
        limit = self._limit_of(context)
        usage = report.usage
        if limit is not None and self._rate_limits is not None and usage is not None:
            self._rate_limits.correct(
                context.key_id or "",
                limit,
                estimated=entry.estimated_tokens,
                actual=usage.input_tokens + usage.output_tokens,
            )
        if self.ledger is not None or self._listener is not None:
            self._tell(self._record(entry, context, report, targets))
        if self.budgets is not None and entry.reservation is not None:
            self._settle_later(self.budgets, entry.reservation, _spent(report))

    async def aclose(self) -> None:
        """Finish what is being settled, then close the books."""
        if self._settling:
            await asyncio.wait(self._settling)
        if self.budgets is not None:
            await self.budgets.aclose()
        if self.ledger is not None:
            await self.ledger.aclose()
        if self._listener is not None:
            self._listener.close()

    def _tell(self, record: LedgerRecord) -> None:
        if self.ledger is not None:
            self.ledger.settle(record)
        if self._listener is not None:
            self._listener.add(record)

    def _limit_of(self, context: CallContext) -> RateLimit | None:
        return self._limits.get(context.key_id or "", self._limits.get("*"))

    def _dearest(self, request: Request, input_tokens: int, targets: Iterable[Target]) -> Amounts:
        """The most the call can come to at any of its targets."""
        today = self._clock.now().date()
        most: Amounts | None = None
        for target in targets:
            card = target.card
            asked = request.sampling.max_output_tokens
            output = asked or card.max_output_tokens or _UNBOUNDED_OUTPUT_TOKENS
            price = card.price_on(today, input_tokens)
            lifetime = "1h" if "1h" in card.cache.ttls else "5m" if card.cache.ttls else None
            amounts = estimate(
                price,
                input_tokens=input_tokens,
                max_output_tokens=output,
                cache_write=lifetime if card.cache.kind == "explicit" else None,
            )
            if most is None or (amounts.usd or 0) > (most.usd or 0):
                most = amounts
        return most or Amounts(requests=1)

    def _settle_later(
        self, budgets: Budgets, reservation: Reservation, spent: Amounts | None
    ) -> None:
        settle = budgets.settle(reservation, spent) if spent else budgets.release(reservation)
        task = asyncio.get_running_loop().create_task(settle)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _record(
        self,
        entry: Entry,
        context: CallContext,
        report: Report,
        targets: tuple[Target, ...],
    ) -> LedgerRecord:
        now = self._clock.now()
        last = report.attempts[-1] if report.attempts else None
        saved = None
        if last is not None and last.usage is not None:
            prices = [t.card.price_on(now.date(), last.usage.input_tokens) for t in targets]
            saved = saved_by_routing_usd(last.usage, last.cost_usd, prices)
        reserved = entry.reservation.amounts.usd if entry.reservation is not None else None
        return LedgerRecord(
            call_id=self._ids.next(),
            at=now,
            model=report.model,
            key_id=context.key_id,
            tags=_tags(context, report, targets),
            conversation=context.conversation,
            user=context.user,
            run=context.run,
            front=context.front,
            route=report.model if len(targets) > 1 else None,
            attempts=tuple(_attempt(attempt, targets) for attempt in report.attempts),
            predicted_usd=reserved,
            saved_by_routing_usd=saved,
            first_event_s=report.first_event_s,
            duration_s=report.duration_s,
            outcome=_outcome(report),
            repairs=report.verdict.repairs,
            adjustments=report.adjustments,
            error=last.error if last is not None else None,
        )


def _outcome(report: Report) -> LedgerOutcome:
    if not report.attempts:
        return "refused"
    if report.attempts[-1].error is not None:
        return "failed"
    return report.verdict.outcome if report.is_complete else "abandoned"


def _tags(context: CallContext, report: Report, targets: tuple[Target, ...]) -> dict[str, str]:
    """The caller's tags over those of the profile that answered last."""
    behind = next((target.tags for target in targets if target.label == report.target), None)
    return {**(behind or {}), **context.tags}


def _attempt(attempt: Attempt, targets: tuple[Target, ...]) -> LedgerAttempt:
    provider, _, model_id = attempt.target.partition(":")
    through = next((t.profile for t in targets if t.label == attempt.target), None)
    usage = attempt.usage
    return LedgerAttempt(
        provider=provider,
        model_id=model_id,
        profile=through,
        dialect=attempt.dialect,
        usage=usage,
        price=attempt.price,
        usd=attempt.cost_usd,
        saved_by_caching_usd=saved_by_caching_usd(usage, attempt.price) if usage else None,
        duration_s=attempt.duration_s,
        error=attempt.error,
    )


def _spent(report: Report) -> Amounts | None:
    """What the call cost; ``None`` where nothing was sent at all."""
    if not report.attempts:
        return None
    usages = [attempt.usage for attempt in report.attempts if attempt.usage is not None]
    tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages)
    return Amounts(report.cost_usd, tokens, 1)


def _spender(context: CallContext) -> Spender:
    return Spender(
        key=context.key_id,
        tags=dict(context.tags),
        user=context.user,
        conversation=context.conversation,
        run=context.run,
    )
