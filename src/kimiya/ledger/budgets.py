"""Budgets enforced: reserve before a call, settle after it.

The estimate is reserved first, so calls that run side by side can not pass a limit together. What a
call really cost replaces its reservation; if nobody ever says, the reservation expires.

A database that is away is handled by policy: ``refuse`` lets no budgeted call through, ``go_on``
lets it through uncounted for now. Settlements it could not take are kept, in order, and made as
soon as it is back; each counts once.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec
from msgspec import Struct

from kimiya.core.clock import Clock, SystemClock
from kimiya.errors import BudgetExceeded
from kimiya.ledger.budget import Amounts, Budget, Limit, Spender, names_are_unique, resets_at
from kimiya.ledger.budget_store import Balance, BudgetStore, Hold, Lease
from kimiya.ledger.store import StoreAway

_NOTHING = Amounts()


class BudgetPolicy(Struct, frozen=True, kw_only=True):
    """How budgets behave when they are pressed."""

    when_away: Literal["refuse", "go_on"] = "refuse"
    """What becomes of a call while the database is away."""
    hold_s: float = 900.0
    """How long a reservation lasts that nobody settles; longer than the longest call."""


class SoftWarning(Struct, frozen=True):
    """A budget's soft limit is passed: a reason to warn, or to take a cheaper route."""

    budget: str
    left: Limit
    """What remains after this reservation, unit by unit."""
    resets_at: datetime | None


class Reservation(Struct, frozen=True):
    """Leave to make one call. Settle or release it, exactly once; more does no harm."""

    reservation_id: str
    counters: tuple[str, ...]
    amounts: Amounts
    warnings: tuple[SoftWarning, ...] = ()


class Budgets:
    """The budgets of a gateway, over one store."""

    def __init__(
        self,
        budgets: Sequence[Budget],
        store: BudgetStore,
        *,
        policy: BudgetPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        names_are_unique(budgets)
        self._budgets = tuple(budgets)
        self._store = store
        self._policy = policy or BudgetPolicy()
        self._clock = clock or SystemClock()
        self._owed: deque[tuple[Reservation, Amounts]] = deque()
        self._paying = asyncio.Lock()

    async def reserve(self, spender: Spender, amounts: Amounts) -> Reservation:
        """Reserve the most a call can come to (``budget.estimate``), on every budget that binds it.

        Raises:
            BudgetExceeded: One has no room: what is left and when it resets.
            StoreAway: The counters cannot be reached, and the policy is to refuse.
        """
        now = self._clock.now()
        bound = [(b, c) for b in self._budgets if (c := b.counter_for(spender, now)) is not None]
        reservation = Reservation(secrets.token_hex(12), tuple(c for _, c in bound), amounts)
        if not bound:
            return reservation
        for budget, _ in bound:
            if amounts.usd is None and budget.limit.usd is not None and budget.unpriced == "refuse":
                raise _no_price(budget, spender)
        asked = msgspec.structs.replace(amounts, usd=amounts.usd or Decimal(0))
        holds = [Hold(counter, budget.limit) for budget, counter in bound]
        try:
            await self._pay_owed()
            answer = await self._store.reserve(
                reservation.reservation_id, holds, asked, self._lease(now)
            )
        except StoreAway:
            if self._policy.when_away == "refuse":
                raise
            return reservation
        if answer.refused_by is not None:
            budget = bound[answer.refused_by][0]
            raise _exceeded(budget, spender, answer.balances[answer.refused_by], now)
        warnings = [
            SoftWarning(budget.name, left, resets_at(budget.period, now))
            for (budget, _), balance in zip(bound, answer.balances, strict=True)
            if (left := _left(budget.limit, balance, asked)) and _is_soft(budget, left)
        ]
        return msgspec.structs.replace(reservation, warnings=tuple(warnings))

    async def settle(self, reservation: Reservation, spent: Amounts | None) -> None:
        """Replace a reservation by what the call cost. Never raises for the store's sake.

        Args:
            reservation: From ``reserve``.
            spent: ``None``, or dollars of ``None``, where nobody knows: what was reserved then
                counts as spent.
        """
        if not reservation.counters:
            return
        held = reservation.amounts
        spent = spent or held
        if spent.usd is None:
            spent = msgspec.structs.replace(spent, usd=held.usd or Decimal(0))
        self._owed.append((reservation, spent))
        try:
            await self._pay_owed()
        except StoreAway:
            return

    async def release(self, reservation: Reservation) -> None:
        """Give a reservation back: the call was never sent."""
        await self.settle(reservation, _NOTHING)

    @property
    def owed(self) -> int:
        """Settlements the store has not taken yet."""
        return len(self._owed)

    async def standing(self, spender: Spender) -> tuple[tuple[Budget, Balance], ...]:
        """How every budget that binds this spender stands now."""
        now = self._clock.now()
        bound = [(b, c) for b in self._budgets if (c := b.counter_for(spender, now)) is not None]
        balances = await self._store.balances([counter for _, counter in bound])
        return tuple((b, balance) for (b, _), balance in zip(bound, balances, strict=True))

    async def aclose(self) -> None:
        """Make what settlements the store takes, and let go of it."""
        try:
            await self._pay_owed()
        except StoreAway:
            pass
        finally:
            await self._store.aclose()

    async def _pay_owed(self) -> None:
        """Make settlements in order; one leaves the queue only when the store has it."""
        if not self._owed:
            return
        async with self._paying:
            while self._owed:
                reservation, spent = self._owed[0]
                await self._store.settle(
                    reservation.reservation_id,
                    reservation.counters,
                    spent,
                    self._lease(self._clock.now()),
                )
                self._owed.popleft()

    def _lease(self, now: datetime) -> Lease:
        return Lease(now, now + timedelta(seconds=self._policy.hold_s))


def _left(limit: Limit, balance: Balance, amounts: Amounts = _NOTHING) -> Limit:
    """What remains of a limit, never below zero."""
    spent, reserved = balance.spent, balance.reserved
    usd, tokens, requests = limit.usd, limit.tokens, limit.requests
    dollars = [part.usd or Decimal(0) for part in (spent, reserved, amounts)]
    return Limit(
        usd=None if usd is None else max(Decimal(0), usd - sum(dollars)),
        tokens=None
        if tokens is None
        else max(0, tokens - spent.tokens - reserved.tokens - amounts.tokens),
        requests=None
        if requests is None
        else max(0, requests - spent.requests - reserved.requests - amounts.requests),
    )


def _is_soft(budget: Budget, left: Limit) -> bool:
    if budget.soft_share is None:
        return False
    room = 1 - budget.soft_share
    limits = (budget.limit.usd, budget.limit.tokens, budget.limit.requests)
    return any(
        most is not None and rest is not None and rest < most * room
        for most, rest in zip(limits, (left.usd, left.tokens, left.requests), strict=True)
    )


def _said(left: Limit, limit: Limit) -> str:
    parts: list[str] = []
    if limit.usd is not None:
        parts.append(f"${left.usd} of ${limit.usd}")
    if limit.tokens is not None:
        parts.append(f"{left.tokens} of {limit.tokens} tokens")
    if limit.requests is not None:
        parts.append(f"{left.requests} of {limit.requests} requests")
    return ", ".join(parts)


def _exceeded(budget: Budget, spender: Spender, balance: Balance, now: datetime) -> BudgetExceeded:
    left = _said(_left(budget.limit, balance), budget.limit)
    reset = resets_at(budget.period, now)
    when = f"it resets at {reset:%Y-%m-%dT%H:%M:%SZ}" if reset else "it does not reset"
    return BudgetExceeded(
        f"{budget.label_for(spender)} has no room for this call: {left} left for this"
        f" {budget.period}; {when}",
        budget=budget.name,
        left=left,
        resets_at=reset.isoformat() if reset else None,
    )


def _no_price(budget: Budget, spender: Spender) -> BudgetExceeded:
    return BudgetExceeded(
        f"{budget.label_for(spender)} counts dollars and this model has no known price. Give the"
        " model a price in the catalogue, or set unpriced = 'pass' on the budget",
        budget=budget.name,
    )
