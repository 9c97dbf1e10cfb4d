"""Counters in a SQLite file of their own: one machine, one process or several.

A reservation is one short transaction, made at once on the caller's thread: it costs tens of
microseconds, less than handing it to another thread. Only when another process holds the file is
the wait moved to a thread, and so is the checkpoint of the write-ahead log, which waits for the
disk. The file is not the ledger's, so a batch of records never stands in the way of a call.
"""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kimiya.ledger.budget import Amounts
from kimiya.ledger.budget_store import (
    KEPT_AFTER_EXPIRY_S,
    Answer,
    Balance,
    BudgetStore,
    Hold,
    Lease,
    has_room,
)
from kimiya.ledger.migrations import BUDGET_MIGRATIONS
from kimiya.ledger.sqlite import connect, identity_of, migrate, transaction
from kimiya.ledger.store import StoreAway

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SWEEP_EVERY_US = 60 * 1_000_000
_PATIENCE_MS = 5_000
_CHECKPOINT_EVERY = 500
"""Transactions, about six megabytes of log, between checkpoints."""


class SqliteBudgets:
    """Counters in a SQLite file. See ``BudgetStore``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lock = asyncio.Lock()
        self._sweep_due_us = 0
        self._uncheckpointed = 0
        self._checkpointing: asyncio.Task[None] | None = None

    async def reserve(
        self, reservation_id: str, holds: Sequence[Hold], amounts: Amounts, until: Lease
    ) -> Answer:
        """See ``BudgetStore``."""
        return await self._run(lambda db: self._reserve(db, reservation_id, holds, amounts, until))

    async def settle(
        self, reservation_id: str, counters: Sequence[str], spent: Amounts, until: Lease
    ) -> None:
        """See ``BudgetStore``."""
        await self._run(lambda db: _settle(db, reservation_id, counters, spent, until))

    async def balances(self, counters: Sequence[str]) -> tuple[Balance, ...]:
        """See ``BudgetStore``."""
        return await self._run(lambda db: tuple(_balance(db, counter) for counter in counters))

    async def aclose(self) -> None:
        """See ``BudgetStore``."""
        if self._checkpointing is not None:
            await self._checkpointing
        self._disconnect()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        async with self._lock:
            done = await self._done(work)
        self._uncheckpointed += 1
        if self._uncheckpointed >= _CHECKPOINT_EVERY:
            self._uncheckpointed = 0
            self._checkpointing = asyncio.create_task(self._checkpoint())
        return done

    async def _checkpoint(self) -> None:
        """Move the log into the file. Whoever reserves waits for it; the loop does not."""
        async with self._lock:
            if self._connection is not None:
                # What it cannot do now (another process reads) it does the next time.
                with contextlib.suppress(sqlite3.Error):
                    await asyncio.to_thread(_checkpoint, self._connection)

    async def _done(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The work, done here, or in a thread where another process holds the file."""
        try:
            return self._attempt(work, 0)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise self._away(error) from error
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._away(error) from error
        waiting = asyncio.ensure_future(asyncio.to_thread(self._attempt, work, _PATIENCE_MS))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            # The thread cannot be stopped, and nobody else may use its connection meanwhile.
            await asyncio.wait([waiting])
            raise
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._away(error) from error

    def _attempt(self, work: Callable[[sqlite3.Connection], T], patience_ms: int) -> T:
        connection = self._connected()
        if patience_ms:
            connection.execute(f"PRAGMA busy_timeout={patience_ms}")
        try:
            with transaction(connection):
                return work(connection)
        finally:
            if patience_ms:
                connection.execute("PRAGMA busy_timeout=0")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and identity_of(self._path) != self._identity:
            self._disconnect()
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = connect(self._path)
            try:
                migrate(connection, BUDGET_MIGRATIONS, self._path)
                # No fsync a call: kill -9 loses nothing, a power cut the last moments.
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute("PRAGMA wal_autocheckpoint=0")
                connection.execute("PRAGMA busy_timeout=0")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._identity = identity_of(self._path)
        return self._connection

    def _away(self, error: Exception) -> StoreAway:
        self._disconnect()
        return StoreAway(
            f"the budgets {self._path} cannot be used: {error}. See that this user may write it and"
            " its disk has space; a damaged file can be moved away, and counting begins anew"
        )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reserve(
        self,
        db: sqlite3.Connection,
        reservation_id: str,
        holds: Sequence[Hold],
        amounts: Amounts,
        until: Lease,
    ) -> Answer:
        now_us = _us(until.now)
        if now_us >= self._sweep_due_us:
            _sweep(db, now_us)
            self._sweep_due_us = now_us + _SWEEP_EVERY_US
        answer = _answer(db, holds, amounts)
        if answer.refused_by is not None and _sweep(db, now_us):
            answer = _answer(db, holds, amounts)
        if answer.refused_by is None:
            for hold, balance in zip(holds, answer.balances, strict=True):
                _put(db, hold.counter, balance.spent, _sum(balance.reserved, amounts))
            counters = tuple(hold.counter for hold in holds)
            _remember(db, reservation_id, "open", amounts, (_us(until.expires), counters))
        return answer


def _checkpoint(connection: sqlite3.Connection) -> None:
    # Fetched to the end: a statement that is still open would hold the log.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _answer(db: sqlite3.Connection, holds: Sequence[Hold], amounts: Amounts) -> Answer:
    balances = tuple(_balance(db, hold.counter) for hold in holds)
    refused = (
        position
        for position, (hold, balance) in enumerate(zip(holds, balances, strict=True))
        if not has_room(balance, amounts, hold.limit)
    )
    return Answer(next(refused, None), balances)


def _settle(
    db: sqlite3.Connection,
    reservation_id: str,
    counters: Sequence[str],
    spent: Amounts,
    until: Lease,
) -> None:
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
    _remember(db, reservation_id, "settled", held, (_us(until.expires), tuple(counters)))


def _sweep(db: sqlite3.Connection, now_us: int) -> bool:
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


def _us(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


if TYPE_CHECKING:
    _: BudgetStore = SqliteBudgets(Path())
