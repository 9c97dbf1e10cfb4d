"""Counters and reservations as tables of SQLite: what is done within one transaction.

Amounts are exact decimals kept as text, so room is judged here and not in SQL. Whoever calls holds
the database's write lock.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from kimiya.ledger.budget import Amounts
from kimiya.ledger.budget_store import (
    KEPT_AFTER_EXPIRY_S,
    Answer,
    Balance,
    Hold,
    Lease,
    has_room,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def reserve(
    db: sqlite3.Connection,
    reservation_id: str,
    holds: Sequence[Hold],
    amounts: Amounts,
    until: Lease,
) -> Answer:
    """See ``BudgetStore.reserve``."""
    now_us = microseconds(until.now)
    answer = _answer(db, holds, amounts)
    if answer.refused_by is not None and sweep(db, now_us):
        answer = _answer(db, holds, amounts)
    if answer.refused_by is None:
        for hold, balance in zip(holds, answer.balances, strict=True):
            _put(db, hold.counter, balance.spent, _sum(balance.reserved, amounts))
        counters = tuple(hold.counter for hold in holds)
        _remember(db, reservation_id, "open", amounts, (microseconds(until.expires), counters))
    return answer


def balances(db: sqlite3.Connection, counters: Sequence[str]) -> tuple[Balance, ...]:
    """See ``BudgetStore.balances``."""
    return tuple(_balance(db, counter) for counter in counters)


def _answer(db: sqlite3.Connection, holds: Sequence[Hold], amounts: Amounts) -> Answer:
    balances = tuple(_balance(db, hold.counter) for hold in holds)
    refused = (
        position
        for position, (hold, balance) in enumerate(zip(holds, balances, strict=True))
        if not has_room(balance, amounts, hold.limit)
    )
    return Answer(next(refused, None), balances)


def settle(
    db: sqlite3.Connection,
    reservation_id: str,
    counters: Sequence[str],
    spent: Amounts,
    until: Lease,
) -> None:
    """See ``BudgetStore.settle``."""
    found = db.execute(
        "SELECT state, usd, tokens, requests FROM budget_reservations WHERE reservation_id=?",
        (reservation_id,),
    ).fetchone()
    if found and found[0] == "settled":
        return
    is_open = bool(found) and found[0] == "open"
    held = Amounts(Decimal(found[1]), found[2], found[3]) if is_open else Amounts()
    for counter in counters:
        balance = _balance(db, counter)
        _put(db, counter, _sum(balance.spent, spent), _sum(balance.reserved, held, sign=-1))
    _remember(db, reservation_id, "settled", held, (microseconds(until.expires), tuple(counters)))


def sweep(db: sqlite3.Connection, now_us: int) -> bool:
    """Give back what expired reservations held; whether there were any."""
    expired = db.execute(
        "SELECT reservation_id, usd, tokens, requests, counters FROM budget_reservations"
        " WHERE expires_us <= ? AND state = 'open'",
        (now_us,),
    ).fetchall()
    for reservation_id, usd, tokens, requests, counters in expired:
        held = Amounts(Decimal(usd), tokens, requests)
        for counter in json.loads(counters):
            balance = _balance(db, counter)
            _put(db, counter, balance.spent, _sum(balance.reserved, held, sign=-1))
        db.execute(
            "UPDATE budget_reservations SET state='expired' WHERE reservation_id=?",
            (reservation_id,),
        )
    db.execute(
        "DELETE FROM budget_reservations WHERE state IN ('settled', 'expired') AND expires_us <= ?",
        (now_us - KEPT_AFTER_EXPIRY_S * 1_000_000,),
    )
    return bool(expired)


def _balance(db: sqlite3.Connection, counter: str) -> Balance:
    found = db.execute(
        "SELECT spent_usd, spent_tokens, spent_requests, reserved_usd, reserved_tokens,"
        " reserved_requests FROM budget_counters WHERE counter=?",
        (counter,),
    ).fetchone()
    if found is None:
        return Balance()
    return Balance(
        Amounts(Decimal(found[0]), found[1], found[2]),
        Amounts(Decimal(found[3]), found[4], found[5]),
    )


def _put(db: sqlite3.Connection, counter: str, spent: Amounts, reserved: Amounts) -> None:
    db.execute(
        "INSERT OR REPLACE INTO budget_counters VALUES (?,?,?,?,?,?,?)",
        (
            counter,
            str(spent.usd),
            spent.tokens,
            spent.requests,
            str(reserved.usd),
            reserved.tokens,
            reserved.requests,
        ),
    )


def _remember(
    db: sqlite3.Connection,
    reservation_id: str,
    state: str,
    held: Amounts,
    place: tuple[int, tuple[str, ...]],
) -> None:
    expires_us, counters = place
    db.execute(
        "INSERT OR REPLACE INTO budget_reservations VALUES (?,?,?,?,?,?,?)",
        (
            reservation_id,
            state,
            expires_us,
            str(held.usd),
            held.tokens,
            held.requests,
            json.dumps(counters),
        ),
    )


def _sum(one: Amounts, other: Amounts, *, sign: int = 1) -> Amounts:
    return Amounts(
        (one.usd or Decimal(0)) + sign * (other.usd or Decimal(0)),
        one.tokens + sign * other.tokens,
        one.requests + sign * other.requests,
    )


def microseconds(at: datetime) -> int:
    """A time as the tables keep it, since 1970."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
