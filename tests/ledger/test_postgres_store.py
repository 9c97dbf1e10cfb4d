"""PostgreSQL passes the same contract as SQLite."""

from collections.abc import AsyncGenerator

import pytest

from kimiya.errors import LedgerError
from kimiya.ledger.store import StoreAway
from tests.contracts.ledger import LedgerStoreContract, StoreSubject
from tests.ledger.postgres import Database, database


@pytest.fixture
async def schema() -> AsyncGenerator[Database]:
    async with database() as found:
        yield found


class TestPostgresStore(LedgerStoreContract):
    @pytest.fixture
    async def subject(self, schema: Database) -> StoreSubject:
        from kimiya.ledger.postgres import PostgresStore

        return StoreSubject(
            lambda: PostgresStore(schema.dsn, pause_s=0), schema.relay.cut, schema.relay.start
        )


async def test_a_newer_schema_is_refused_not_guessed(schema: Database) -> None:
    import asyncpg

    from kimiya.ledger.postgres import PostgresStore

    store = PostgresStore(schema.dsn)
    await store.open()
    connection = await asyncpg.connect(schema.dsn)
    await connection.execute("UPDATE kimiya_schema SET taken = 99")
    await connection.close()
    newer = PostgresStore(schema.dsn)
    with pytest.raises(LedgerError, match="newer version") as caught:
        await newer.open()
    assert not isinstance(caught.value, StoreAway)
    await store.aclose()
    await newer.aclose()


async def test_a_password_is_never_shown() -> None:
    pytest.importorskip("asyncpg")
    from kimiya.ledger.postgres import PostgresStore

    store = PostgresStore("postgresql://me:very-secret-word@127.0.0.1:1/costs")
    with pytest.raises(StoreAway) as caught:
        await store.open()
    assert "127.0.0.1:1/costs" in caught.value.message
    assert "secret" not in caught.value.message
    # Once found away, nobody waits for a connection again for a while.
    with pytest.raises(StoreAway):
        await store.open()
    await store.aclose()
