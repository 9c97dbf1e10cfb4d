"""Where counters live: one protocol for SQLite and PostgreSQL, and what both must do.

A counter is what was spent and what is reserved of one budget in one period. ``reserve`` takes from
all counters of a call or from none, and never lets ``spent + reserved`` pass a limit, however many
processes ask at once. A reservation is settled once: settling it again changes nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from kimiya.ledger.budget import Amounts, Limit

KEPT_AFTER_EXPIRY_S = 3_600
"""How long a reservation is remembered after it has expired, so that a late or repeated settlement
is known for what it is."""


class Hold(Struct, frozen=True):
    """A counter a call must fit."""

    counter: str
    limit: Limit


class Balance(Struct, frozen=True):
    """How a counter stands."""

    spent: Amounts = Amounts()
    reserved: Amounts = Amounts()


class Answer(Struct, frozen=True):
    """What became of a request to reserve."""

    refused_by: int | None
    """Position of the first counter without room; ``None`` when all had it."""
    balances: tuple[Balance, ...]
    """Each counter, in the order of the holds, before this reservation."""


class BudgetStore(Protocol):
    """Counters and reservations, shared by everyone who opens the same database."""

    async def reserve(
        self, reservation_id: str, holds: Sequence[Hold], amounts: Amounts, until: "Lease"
    ) -> Answer:
        """Take ``amounts`` from every counter, or from none.

        ``amounts.usd`` is never ``None`` here. Reservations that expired give back what they held
        before anyone is refused.

        Raises:
            StoreAway: The database cannot be used; whether it was taken is unknown, and if it was,
                it expires.
        """
        ...

    async def settle(
        self, reservation_id: str, counters: Sequence[str], spent: Amounts, until: "Lease"
    ) -> None:
        """Give back what was held and add what was spent, once.

        A reservation nobody knows (made while the database was away, or long expired) is added all
        the same, and remembered.

        Raises:
            StoreAway: Try again: a settlement that did arrive is not added twice.
        """
        ...

    async def balances(self, counters: Sequence[str]) -> tuple[Balance, ...]:
        """How counters stand, in order; a counter nobody used is empty."""
        ...

    async def aclose(self) -> None:
        """Let go of the database."""
        ...


class Lease(Struct, frozen=True):
    """The time of asking, and when what was taken is given back if nobody settles."""

    now: datetime
    expires: datetime


def has_room(balance: Balance, amounts: Amounts, limit: Limit) -> bool:
    """Whether ``amounts`` still fit."""
    return all(
        most is None or spent + reserved + amount <= most
        for most, spent, reserved, amount in (
            (limit.usd, balance.spent.usd, balance.reserved.usd, amounts.usd),
            (limit.tokens, balance.spent.tokens, balance.reserved.tokens, amounts.tokens),
            (limit.requests, balance.spent.requests, balance.reserved.requests, amounts.requests),
        )
        if spent is not None and reserved is not None and amount is not None
    )
