"""Counters in PostgreSQL, for several replicas: each reservation is one round trip.

The work is done by functions in the database (``budget_functions``), so a replica that dies leaves
nothing half done, and no lock is held while a network is waited for.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kimiya.ledger.budget import Amounts
from kimiya.ledger.budget_store import (
    KEPT_AFTER_EXPIRY_S,
    Answer,
    Balance,
    BudgetStore,
    Hold,
    Lease,
)
from kimiya.ledger.migrations import BUDGET_MIGRATIONS, POSTGRES_BUDGET_FUNCTIONS
from kimiya.ledger.postgres_pool import PostgresPool

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SWEEP_EVERY_US = 60 * 1_000_000
_KEEP_US = KEPT_AFTER_EXPIRY_S * 1_000_000
_RESERVE = "SELECT * FROM kimiya_budget_reserve($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)"
_SETTLE = "SELECT kimiya_budget_settle($1,$2,$3,$4,$5,$6,$7)"
_SWEEP = "SELECT kimiya_budget_sweep($1,$2)"
_BALANCES = (
    "SELECT counter, spent_usd, spent_tokens, spent_requests, reserved_usd, reserved_tokens,"
    " reserved_requests FROM budget_counters WHERE counter = ANY($1)"
)


class PostgresBudgets:
    """Counters in PostgreSQL. See ``BudgetStore``."""

    def __init__(self, dsn: str, *, size: int = 8, pause_s: float = 1.0) -> None:
        steps = (*BUDGET_MIGRATIONS, POSTGRES_BUDGET_FUNCTIONS)
        self._pool = PostgresPool(dsn, "budgets", steps, size=size, pause_s=pause_s)
        self._sweep_due_us = 0

    async def reserve(
        self, reservation_id: str, holds: Sequence[Hold], amounts: Amounts, until: Lease
    ) -> Answer:
        """See ``BudgetStore``."""
        now_us = _us(until.now)
        if now_us >= self._sweep_due_us:
            self._sweep_due_us = now_us + _SWEEP_EVERY_US
            await self._sweep(now_us)
        answer, has_expired = await self._ask(reservation_id, holds, amounts, until)
        if has_expired:
            await self._sweep(now_us)
            answer, _ = await self._ask(reservation_id, holds, amounts, until)
        return answer

    async def settle(
        self, reservation_id: str, counters: Sequence[str], spent: Amounts, until: Lease
    ) -> None:
        """See ``BudgetStore``."""
        names = list(counters)
        async with self._pool.connection() as connection:
            await connection.execute(
                _SETTLE,
                reservation_id,
                names,
                spent.usd,
                spent.tokens,
                spent.requests,
                _us(until.expires),
                json.dumps(names),
            )

    async def balances(self, counters: Sequence[str]) -> tuple[Balance, ...]:
        """See ``BudgetStore``."""
        async with self._pool.connection() as connection:
            found = await connection.fetch(_BALANCES, list(counters))
        known = {row[0]: _balance(row[1:]) for row in map(tuple, found)}
        return tuple(known.get(counter, Balance()) for counter in counters)

    async def aclose(self) -> None:
        """See ``BudgetStore``."""
        await self._pool.aclose()

    async def _ask(
        self, reservation_id: str, holds: Sequence[Hold], amounts: Amounts, until: Lease
    ) -> tuple[Answer, bool]:
        """The answer, and whether it was no while others' expired reservations stand in the way."""
        names = [hold.counter for hold in holds]
        async with self._pool.connection() as connection:
            found = await connection.fetch(
                _RESERVE,
                reservation_id,
                names,
                [hold.limit.usd for hold in holds],
                [hold.limit.tokens for hold in holds],
                [hold.limit.requests for hold in holds],
                amounts.usd,
                amounts.tokens,
                amounts.requests,
                _us(until.now),
                _us(until.expires),
                json.dumps(names),
            )
        rows = [tuple(row) for row in found]
        refused = (position for position, row in enumerate(rows) if not row[0])
        answer = Answer(next(refused, None), tuple(_balance(row[2:]) for row in rows))
        return answer, any(row[1] for row in rows)

    async def _sweep(self, now_us: int) -> None:
        async with self._pool.connection() as connection:
            await connection.fetchval(_SWEEP, now_us, _KEEP_US)


def _balance(cells: Sequence[Any]) -> Balance:
    return Balance(Amounts(*cells[:3]), Amounts(*cells[3:6]))


def _us(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


if TYPE_CHECKING:
    _: BudgetStore = PostgresBudgets("")
