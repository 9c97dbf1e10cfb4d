"""The store for replicas: PostgreSQL through asyncpg (``kimiya[postgres]``).

A batch is one transaction of three inserts, each of whole columns as arrays. ``ON CONFLICT DO
NOTHING`` tells which calls were new; only theirs are the attempts and tags that follow.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kimiya.ledger.migrations import LEDGER_MIGRATIONS
from kimiya.ledger.postgres_pool import PostgresPool
from kimiya.ledger.query import CostQuery, CostRow, cost_row, costs_sql
from kimiya.ledger.record import LedgerRecord, decode_record
from kimiya.ledger.rows import ATTEMPT_COLUMNS, CALL_COLUMNS, TAG_COLUMNS, Cell, Row, rows_of
from kimiya.ledger.store import LedgerStore

_BIG = ("at_us",)
_REAL = ("first_event_s", "duration_s")
_WHOLE = ("number", "is_last", "is_unpriced", "repairs")


class PostgresStore:
    """Records in PostgreSQL. See ``LedgerStore``."""

    def __init__(self, dsn: str, *, pause_s: float = 1.0) -> None:
        self._pool = PostgresPool(dsn, "ledger", LEDGER_MIGRATIONS, size=2, pause_s=pause_s)

    async def open(self) -> None:
        """See ``LedgerStore``."""
        async with self._pool.connection():
            pass

    async def write(self, payloads: Sequence[bytes]) -> int:
        """See ``LedgerStore``."""
        # Laying out rows is our own CPU: not on the loop that serves calls.
        rows = await asyncio.to_thread(rows_of, payloads)
        async with self._pool.connection() as connection, connection.transaction():
            new = await connection.fetch(_INSERT_CALLS, *_columns(rows.calls, CALL_COLUMNS))
            fresh = {row[0] for row in new}
            rows = rows.without(set(rows.call_ids) - fresh)
            if rows.attempts:
                await connection.execute(
                    _INSERT_ATTEMPTS, *_columns(rows.attempts, ATTEMPT_COLUMNS)
                )
            if rows.tags:
                await connection.execute(_INSERT_TAGS, *_columns(rows.tags, TAG_COLUMNS))
        return len(fresh)

    async def read(self, call_id: str) -> LedgerRecord | None:
        """See ``LedgerStore``."""
        async with self._pool.connection() as connection:
            payload: bytes | None = await connection.fetchval(
                "SELECT record FROM calls WHERE call_id=$1", call_id
            )
        return decode_record(payload) if payload is not None else None

    async def costs(self, query: CostQuery) -> tuple[CostRow, ...]:
        """See ``LedgerStore``."""
        statement, arguments = costs_sql(query)
        # Its own numeric sums are exact.
        statement = statement.replace("sum_usd(", "sum(")
        async with self._pool.connection() as connection:
            found = await connection.fetch(statement, *arguments)
        return tuple(sorted((cost_row(tuple(row)) for row in found), key=lambda row: row.group))

    async def aclose(self) -> None:
        """See ``LedgerStore``."""
        await self._pool.aclose()


def _columns(rows: Sequence[Row], names: Sequence[str]) -> list[list[Cell]]:
    """Rows as columns; no rows are columns still."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in names]


def _kind(name: str) -> str:
    if name.endswith("usd"):
        return "numeric"
    if name.endswith("_tokens") or name in _BIG:
        return "bigint"
    if name in _REAL:
        return "double precision"
    if name in _WHOLE:
        return "integer"
    return "bytea" if name == "record" else "text"


def _insert(table: str, names: Sequence[str], *, returns: str = "") -> str:
    arrays = ", ".join(f"${number}::{_kind(name)}[]" for number, name in enumerate(names, 1))
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM unnest({arrays})"  # noqa: S608
        f" ON CONFLICT DO NOTHING{returns}"
    )


_INSERT_CALLS = _insert("calls", CALL_COLUMNS, returns=" RETURNING call_id")
_INSERT_ATTEMPTS = _insert("attempts", ATTEMPT_COLUMNS)
_INSERT_TAGS = _insert("call_tags", TAG_COLUMNS)

if TYPE_CHECKING:
    _: LedgerStore = PostgresStore("")
