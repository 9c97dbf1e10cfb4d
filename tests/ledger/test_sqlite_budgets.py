"""Budgets on SQLite: the contract, and 300 calls at once over processes of one machine."""

import shutil
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest

from kimiya.core.clock import VirtualClock
from kimiya.ledger.budget import Limit, Spender
from kimiya.ledger.budget_sqlite import SqliteBudgets
from kimiya.ledger.budgets import Budgets
from kimiya.ledger.store import StoreAway
from tests.contracts.budget import (
    CENT,
    LEASE,
    NOW,
    BudgetStoreContract,
    BudgetSubject,
    daily,
    pass_through,
)


class TestSqliteBudgets(BudgetStoreContract):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> BudgetSubject:
        home, aside = tmp_path / "home", tmp_path / "aside"

        async def take_away() -> None:
            shutil.move(home, aside)
            home.write_text("where the directory was")

        async def bring_back() -> None:
            home.unlink()
            shutil.move(aside, home)

        return BudgetSubject(lambda: SqliteBudgets(home / "budgets.sqlite"), take_away, bring_back)


@pytest.mark.parametrize("replicas", [1, 3])
async def test_of_300_at_once_exactly_97_pass(tmp_path: Path, replicas: int) -> None:
    gateways = [
        Budgets([daily(usd="0.97")], SqliteBudgets(tmp_path / "b.sqlite"), clock=VirtualClock(NOW))
        for _ in range(replicas)
    ]
    for seed in range(10):
        spender = Spender(key=f"key {seed}")
        passed = await pass_through(gateways, calls=300, seed=seed, spender=spender)
        assert passed == 97, f"seed {seed}"
        ((_, balance),) = await gateways[0].standing(spender)
        assert balance.spent.usd + balance.reserved.usd == Decimal("0.97"), f"seed {seed}"
    for gateway in gateways:
        await gateway.aclose()


async def test_a_file_another_process_holds_is_waited_for_off_the_loop(tmp_path: Path) -> None:
    store = SqliteBudgets(tmp_path / "b.sqlite")
    await store.balances(["c"])
    holder = sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    waits: list[int] = []
    attempt = store._attempt

    def attempt_and_let_go(work, patience_ms):
        waits.append(patience_ms)
        if patience_ms:
            holder.execute("ROLLBACK")
        return attempt(work, patience_ms)

    store._attempt = attempt_and_let_go
    await store.settle("r", ["c"], CENT, LEASE)
    assert waits[0] == 0
    assert waits[1] > 0
    holder.close()
    await store.aclose()


async def test_a_corrupt_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "budgets.sqlite"
    path.write_bytes(b"nothing a database would say" * 300)
    budgets = Budgets([daily(limit=Limit(requests=1))], SqliteBudgets(path))
    with pytest.raises(StoreAway, match=r"budgets\.sqlite cannot be used.*moved away"):
        await budgets.reserve(Spender(key="k"), CENT)
    path.rename(tmp_path / "aside")
    await budgets.reserve(Spender(key="k"), CENT)
    await budgets.aclose()
