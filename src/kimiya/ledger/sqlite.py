"""The embedded store: one SQLite file in WAL mode, written from one thread of its own.

Each batch is one transaction with one ``fsync`` (``synchronous=FULL``): group commit. Decimals are
text and summed by an exact aggregate. A file that was moved away or replaced is noticed, and opened
anew, before a batch goes into it.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kimiya.errors import LedgerError
from kimiya.ledger.migrations import LEDGER_MIGRATIONS, statements
from kimiya.ledger.query import CostQuery, CostRow, cost_row, costs_sql
from kimiya.ledger.record import LedgerRecord, decode_record
from kimiya.ledger.rows import ATTEMPT_COLUMNS, CALL_COLUMNS, TAG_COLUMNS, Row, rows_of
from kimiya.ledger.store import LedgerStore, StoreAway

T = TypeVar("T")

_BUSY_S = 5.0
_MOVE_AWAY = "Move the file away, or restore a copy: what is spooled is written when it can be used"


class SqliteStore:
    """Records in a SQLite file. See ``LedgerStore``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kimiya-ledger")
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    async def open(self) -> None:
        """See ``LedgerStore``."""
        await self._run(lambda connection: None)

    async def write(self, payloads: Sequence[bytes]) -> int:
        """See ``LedgerStore``."""
        return await self._run(lambda connection: _write(connection, payloads))

    async def read(self, call_id: str) -> LedgerRecord | None:
        """See ``LedgerStore``."""
        return await self._run(lambda connection: _read(connection, call_id))

    async def costs(self, query: CostQuery) -> tuple[CostRow, ...]:
        """See ``LedgerStore``."""
        return await self._run(lambda connection: _costs(connection, query))

    async def aclose(self) -> None:
        """See ``LedgerStore``."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connected())
        except sqlite3.IntegrityError as error:
            raise LedgerError(f"{self._path} refuses a record: {error}") from error
        except (sqlite3.DatabaseError, OSError) as error:
            self._disconnect()
            raise StoreAway(
                f"the ledger {self._path} cannot be used: {error}. {_remedy(error)}"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and identity_of(self._path) != self._identity:
            self._disconnect()
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = connect(self._path)
            try:
                connection.execute("PRAGMA synchronous=FULL")
                migrate(connection, LEDGER_MIGRATIONS, self._path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._identity = identity_of(self._path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode whose transactions are ours to begin; the file is private."""
    # Made by us first, so that it is never readable by others, not even for a moment.
    path.touch(mode=0o600)
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.create_aggregate("sum_usd", 1, _SumUsd)  # pyright: ignore[reportArgumentType]
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, steps: Sequence[tuple[str, ...]], path: Path) -> None:
    """Take the steps this file has not taken, each in a transaction of its own.

    Raises:
        LedgerError: A newer version of Kimiya has written it.
    """
    while True:
        with transaction(connection):
            taken: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if taken > len(steps):
                raise LedgerError(
                    f"{path} was written by a newer version of Kimiya (schema {taken}, this one"
                    f" knows {len(steps)}). Install that version or name another file"
                )
            if taken == len(steps):
                return
            for statement in statements(steps[taken], "sqlite"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={taken + 1}")


class transaction:  # noqa: N801 (reads as a statement)
    """``BEGIN IMMEDIATE`` to ``COMMIT``; rolled back on any exception."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # A commit can fail too (a full disk), and then everything is still open.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


class _SumUsd:
    """``sum_usd(text)``: an exact sum, as text."""

    def __init__(self) -> None:
        self._total = Decimal(0)

    def step(self, usd: str | None) -> None:
        if usd is not None:
            self._total += Decimal(usd)

    def finalize(self) -> str:
        return str(self._total)


def _insert(table: str, columns: Sequence[str]) -> str:
    # A call that is there is left out before; what may still meet itself are tags that differed
    # only by a character no database holds.
    names, marks = ",".join(columns), ",".join("?" * len(columns))
    return f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})"  # noqa: S608


_INSERT_CALL = _insert("calls", CALL_COLUMNS)
_INSERT_ATTEMPT = _insert("attempts", ATTEMPT_COLUMNS)
_INSERT_TAG = _insert("call_tags", TAG_COLUMNS)
_USD_CELLS = [position for position, name in enumerate(ATTEMPT_COLUMNS) if name.endswith("usd")]


def _write(connection: sqlite3.Connection, payloads: Sequence[bytes]) -> int:
    rows = rows_of(payloads)
    with transaction(connection):
        rows = rows.without(_known(connection, rows.call_ids))
        connection.executemany(_INSERT_CALL, rows.calls)
        connection.executemany(_INSERT_ATTEMPT, map(_with_text, rows.attempts))
        connection.executemany(_INSERT_TAG, rows.tags)
    return len(rows.calls)


def _known(connection: sqlite3.Connection, call_ids: Sequence[str]) -> set[str]:
    marks = ",".join("?" * len(call_ids))
    found = connection.execute(
        f"SELECT call_id FROM calls WHERE call_id IN ({marks})",  # noqa: S608
        call_ids,
    )
    return {call_id for (call_id,) in found}


def _with_text(row: Row) -> Row:
    cells = list(row)
    for position in _USD_CELLS:
        if cells[position] is not None:
            cells[position] = str(cells[position])
    return tuple(cells)


def _read(connection: sqlite3.Connection, call_id: str) -> LedgerRecord | None:
    found = connection.execute("SELECT record FROM calls WHERE call_id=?", (call_id,)).fetchone()
    return decode_record(found[0]) if found else None


def _costs(connection: sqlite3.Connection, query: CostQuery) -> tuple[CostRow, ...]:
    statement, arguments = costs_sql(query)
    # SQLite numbers its placeholders with a question mark.
    found = connection.execute(statement.replace("$", "?"), arguments)
    return tuple(cost_row(cells) for cells in found)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Which file a path means now; it changes when the file is moved away or replaced."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _remedy(error: Exception) -> str:
    words = str(error)
    if "malformed" in words or "not a database" in words:
        return _MOVE_AWAY
    if "full" in words or "No space" in words:
        return "Free some space on its disk"
    return "See that this user may write it and nothing else holds it"


if TYPE_CHECKING:
    _: LedgerStore = SqliteStore(Path())
