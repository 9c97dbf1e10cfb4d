"""Budgets on PostgreSQL: the contract, and three gateways that share 97 calls' worth."""

from collections.abc import AsyncGenerator
from decimal import Decimal

import pytest

from kimiya.core.clock import VirtualClock
from kimiya.ledger.budget import Spender
from kimiya.ledger.budgets import Budgets
from tests.contracts.budget import (
    NOW,
    BudgetStoreContract,
    BudgetSubject,
    daily,
    pass_through,
)
from tests.ledger.postgres import Database, database


@pytest.fixture
async def schema() -> AsyncGenerator[Database]:
    async with database() as found:
        yield found


class TestPostgresBudgets(BudgetStoreContract):
    @pytest.fixture
    async def subject(self, schema: Database) -> BudgetSubject:
        from kimiya.ledger.budget_postgres import PostgresBudgets

        return BudgetSubject(
            lambda: PostgresBudgets(schema.dsn, pause_s=0), schema.relay.cut, schema.relay.start
        )


@pytest.mark.slow
async def test_of_300_over_three_replicas_exactly_97_pass_for_100_seeds(schema: Database) -> None:
    from kimiya.ledger.budget_postgres import PostgresBudgets

    replicas = [
        Budgets(
            # The second binds too and has room: two counters are locked, in whatever order.
            [daily(usd="0.97"), daily("all", usd="1000", path=())],
            PostgresBudgets(schema.dsn, size=4),
            clock=VirtualClock(NOW),
        )
        for _ in range(3)
    ]
    for seed in range(100):
        spender = Spender(key=f"key {seed}")
        passed = await pass_through(replicas, calls=300, seed=seed, spender=spender)
        assert passed == 97, f"seed {seed}"
        (_, balance), (_, _) = await replicas[0].standing(spender)
        assert balance.spent.usd + balance.reserved.usd == Decimal("0.97"), f"seed {seed}"
    for replica in replicas:
        await replica.aclose()
