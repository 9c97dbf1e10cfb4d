"""The embedded store passes the contract, and survives what happens to files."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from kimiya.errors import LedgerError
from kimiya.ledger.query import CostQuery
from kimiya.ledger.sqlite import SqliteStore
from kimiya.ledger.store import StoreAway
from tests.contracts.ledger import LedgerStoreContract, StoreSubject, encoded
from tests.ledger.records import record


class TestSqliteStore(LedgerStoreContract):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> StoreSubject:
        home, aside = tmp_path / "home", tmp_path / "aside"

        async def take_away() -> None:
            shutil.move(home, aside)
            home.write_text("where the directory was")

        async def bring_back() -> None:
            home.unlink()
            shutil.move(aside, home)

        return StoreSubject(lambda: SqliteStore(home / "ledger.sqlite"), take_away, bring_back)


@pytest.mark.parametrize("damage", [b"this is no database at all" * 400, b""])
async def test_a_corrupt_file_is_named_with_its_remedy_and_left_alone(
    tmp_path: Path, damage: bytes
) -> None:
    path = tmp_path / "ledger.sqlite"
    store = SqliteStore(path)
    await store.write(encoded(*(record(n) for n in range(200))))
    await store.aclose()
    whole = path.read_bytes()
    broken = damage or whole[:5000] + b"\xff" * 20_000 + whole[25_000:]
    path.write_bytes(broken)
    store = SqliteStore(path)
    try:
        with pytest.raises(StoreAway, match=r"ledger\.sqlite cannot be used") as caught:
            await store.write(encoded(*(record(n) for n in range(1000))))
        assert "Move the file away" in caught.value.message
        assert path.read_bytes() == broken
        # Moved away, the ledger begins anew without a restart.
        path.rename(tmp_path / "set-aside")
        assert await store.write(encoded(record(1))) == 1
    finally:
        await store.aclose()


async def test_a_file_moved_away_while_open_takes_no_record_with_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = SqliteStore(path)
    await store.write(encoded(record(1)))
    path.rename(tmp_path / "rotated")
    await store.write(encoded(record(2)))
    assert (await store.costs(CostQuery(by="total")))[0].calls == 1
    await store.aclose()
    assert path.exists()


async def test_a_full_disk_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = SqliteStore(path)
    await store.write(encoded(record(1)))
    # The database's own ceiling answers exactly as a full disk does.
    store._connection.execute("PRAGMA max_page_count=1")
    with pytest.raises(StoreAway, match="Free some space"):
        await store.write(encoded(*(record(n) for n in range(2, 500))))
    assert await store.write(encoded(record(1), record(2))) == 1
    await store.aclose()


async def test_a_newer_schema_is_refused_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    store = SqliteStore(path)
    with pytest.raises(LedgerError, match="newer version") as caught:
        await store.open()
    assert not isinstance(caught.value, StoreAway)
    await store.aclose()


async def test_the_file_is_private(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "new" / "ledger.sqlite")
    await store.write(encoded(record(1)))
    assert os.stat(tmp_path / "new" / "ledger.sqlite").st_mode & 0o077 == 0
    await store.aclose()
