"""Counters in a SQLite file of their own: one machine, one process or several.

A reservation is one short transaction, made at once on the caller's thread: it costs tens of
microseconds, less than handing it to another thread. Only when another process holds the file is
the wait moved to a thread, and so is the checkpoint of the write-ahead log, which waits for the
disk. The file is not the ledger's, so a batch of records never stands in the way of a call.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kimiya.ledger import budget_tables as tables
from kimiya.ledger.budget import Amounts
from kimiya.ledger.budget_store import Answer, Balance, BudgetStore, Hold, Lease
from kimiya.ledger.migrations import BUDGET_MIGRATIONS
from kimiya.ledger.sqlite import connect, identity_of, migrate, transaction
from kimiya.ledger.store import StoreAway

T = TypeVar("T")

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
        await self._run(lambda db: tables.settle(db, reservation_id, counters, spent, until))

    async def balances(self, counters: Sequence[str]) -> tuple[Balance, ...]:
        """See ``BudgetStore``."""
        return await self._run(lambda db: tables.balances(db, counters))

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
        now_us = tables.microseconds(until.now)
        if now_us >= self._sweep_due_us:
            tables.sweep(db, now_us)
            self._sweep_due_us = now_us + _SWEEP_EVERY_US
        return tables.reserve(db, reservation_id, holds, amounts, until)


def _checkpoint(connection: sqlite3.Connection) -> None:
    # Fetched to the end: a statement that is still open would hold the log.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


if TYPE_CHECKING:
    _: BudgetStore = SqliteBudgets(Path())
