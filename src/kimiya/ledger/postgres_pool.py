"""Connections to PostgreSQL for the ledger's two rooms: opened late, migrated, failing fast.

Whatever goes wrong with the connection is ``StoreAway``; after that nobody waits for a connection
again until ``pause_s`` has passed, so a database that swallows packets stalls one call and not all.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from kimiya.errors import LedgerError, redact
from kimiya.ledger.migrations import statements
from kimiya.ledger.store import StoreAway

Connection: TypeAlias = Any
"""``asyncpg``'s connection or pool proxy; its types are its own."""

_CONNECT_S = 5.0
_COMMAND_S = 30.0
_MIGRATION_LOCK = 0x6B696D69
"""Replicas that start together migrate one after the other under this advisory lock."""
_TABLE = "CREATE TABLE IF NOT EXISTS kimiya_schema (room TEXT PRIMARY KEY, taken INTEGER NOT NULL)"


async def _leave_as_it_is(connection: Connection) -> None:
    """Our work leaves nothing behind in a session: resetting it would double the round trips."""


class PostgresPool:
    """A few connections to one database, for one room of tables.

    Args:
        dsn: ``postgresql://user@host/database``; never shown with its password.
        room: Name the room's migrations are counted under.
        steps: Its migrations.
        size: Most connections at once.
        pause_s: How long nobody tries again after the database was found away.
    """

    def __init__(
        self,
        dsn: str,
        room: str,
        steps: Sequence[tuple[str, ...]],
        *,
        size: int = 4,
        pause_s: float = 1.0,
    ) -> None:
        self._dsn = dsn
        self._room = room
        self._steps = steps
        self._size = size
        self._pause_s = pause_s
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self._away: StoreAway | None = None
        self._away_until_s = 0.0

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection, for one piece of work.

        Raises:
            StoreAway: The database cannot be used now.
            LedgerError: It refuses what it was given, and always will.
        """
        now_s = asyncio.get_running_loop().time()
        if self._away is not None and now_s < self._away_until_s:
            raise StoreAway(self._away.message)
        try:
            pool = await self._opened()
            async with pool.acquire(timeout=_COMMAND_S) as connection:
                yield connection
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise LedgerError(f"{self._shown()} refuses a record: {error}") from error
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._away = self._say(error)
            self._away_until_s = now_s + self._pause_s
            raise self._away from error
        self._away = None

    async def aclose(self) -> None:
        """Close every connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                pool: Any = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType]
                    self._dsn,
                    min_size=1,
                    max_size=self._size,
                    timeout=_CONNECT_S,
                    command_timeout=_COMMAND_S,
                    reset=_leave_as_it_is,
                )
                try:
                    async with pool.acquire() as connection:
                        await self._migrate(connection)
                except BaseException:
                    pool.terminate()
                    raise
                self._pool = pool
            return self._pool

    async def _migrate(self, connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(_TABLE)
            taken: int = (
                await connection.fetchval(
                    "SELECT taken FROM kimiya_schema WHERE room=$1", self._room
                )
                or 0
            )
            if taken > len(self._steps):
                raise LedgerError(
                    f"{self._shown()} was written by a newer version of Kimiya (schema {taken} of"
                    f" {self._room}, this one knows {len(self._steps)}). Install that version or"
                    " name another database"
                )
            for step in self._steps[taken:]:
                for statement in statements(step, "postgres"):
                    await connection.execute(statement)
            await connection.execute(
                "INSERT INTO kimiya_schema VALUES ($1,$2)"
                " ON CONFLICT (room) DO UPDATE SET taken=excluded.taken",
                self._room,
                len(self._steps),
            )

    def _say(self, error: BaseException) -> StoreAway:
        return StoreAway(
            f"{self._shown()} cannot be used: {redact(str(error)) or type(error).__name__}. See"
            " that it runs and that ledger.dsn names it"
        )

    def _shown(self) -> str:
        """The database without its password."""
        place = self._dsn.rpartition("@")[2].partition("?")[0].removeprefix("postgresql://")
        return f"the PostgreSQL database {place}"
