"""The path of a call keeps its books: refusals, warnings, retries and what was paid."""

from decimal import Decimal
from pathlib import Path

import pytest

from kimiya.assembly import App, assemble
from kimiya.config.settings import (
    BudgetConfig,
    Config,
    LedgerConfig,
    LimitConfig,
    ProviderConfig,
    RouteConfig,
)
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request
from kimiya.core.messages import user
from kimiya.errors import BudgetExceeded, RateLimited
from kimiya.ledger.record import LedgerRecord
from kimiya.pipeline.accounts import Accounts

SCRIPT = """
reply once
  error: 503 overloaded "no room"

reply
  text: {user}
  usage: input=1000 output=100
"""
ROW = {
    "name": "m",
    "host": "sim",
    "model_id": "m",
    "dialects": ["openai_chat"],
    "max_output_tokens": 100,
    "thinking": {"form": "none", "modes": ["instant"], "default": "instant"},
    "cache": {"kind": "none", "source": {"url": "measured", "checked": "2026-11-22"}},
    "source": {"url": "measured", "checked": "2026-11-22"},
    "prices": [
        {
            "input_usd_per_mtok": 1,
            "output_usd_per_mtok": 10,
            "since": "2026-01-01",
            "source": {"url": "measured", "checked": "2026-11-22"},
        }
    ],
}


class Shelf:
    """A ledger's place in these tests: keeps records where they can be looked at."""

    def __init__(self) -> None:
        self.records: list[LedgerRecord] = []

    def admit(self) -> None:
        pass

    def settle(self, record: LedgerRecord) -> None:
        self.records.append(record)

    async def aclose(self) -> None:
        pass


async def app_with(folder: Path, **fields: object) -> tuple[App, Shelf]:
    """Parts with books open, the ledger's store replaced by a shelf."""
    script = folder / "s.sim"
    script.write_text(SCRIPT)
    config = Config(
        providers={"sim": ProviderConfig(kind="simulated", host="sim", script=str(script))},
        routes={"m": RouteConfig(targets=("sim:m",), retries=2)},
        models=(ROW,),
        ledger=LedgerConfig(enabled=False, path=str(folder / "l.db"), spool=str(folder / "s")),
        **fields,  # pyright: ignore[reportArgumentType]
    )
    app = assemble(config, env={})
    app.pipeline.retry = app.pipeline.retry.__class__(base_s=0.0)
    await app.open_books({})
    shelf = Shelf()
    books = app.pipeline.accounts
    app.pipeline.accounts = Accounts(
        app.pipeline.clock,
        ledger=shelf,  # pyright: ignore[reportArgumentType]
        budgets=books.budgets,
        rate_limits=books._rate_limits,  # pyright: ignore[reportPrivateUsage]
        limits=books._limits,  # pyright: ignore[reportPrivateUsage]
    )
    return app, shelf


async def test_every_attempt_stands_in_the_record_with_its_dollars(tmp_path: Path) -> None:
    app, shelf = await app_with(tmp_path)
    context = CallContext(key_id="k1", tags={"team": "x"}, conversation="c")
    outcome = await app.pipeline.complete(Request("m", (user("hi"),)), context)
    record = shelf.records[0]
    assert [attempt.error for attempt in record.attempts] == ["Overloaded", None]
    assert record.usd == outcome.report.cost_usd == Decimal("0.002")
    assert (record.key_id, record.tags, record.conversation) == ("k1", {"team": "x"}, "c")
    assert record.outcome == "ok"
    await app.aclose()


async def test_a_stream_that_is_left_is_abandoned_and_still_recorded(tmp_path: Path) -> None:
    app, shelf = await app_with(tmp_path)
    call = app.pipeline.stream(Request("m", (user("a long text to be sent in pieces"),)))
    async for _ in call:
        break
    await call.aclose()
    assert [record.outcome for record in shelf.records] == ["abandoned"]
    await app.aclose()


async def test_a_budget_lets_in_what_fits_and_the_refusal_is_recorded(tmp_path: Path) -> None:
    budget = BudgetConfig(requests=2, period="day", per=("key",), soft_share=Decimal("0.5"))
    app, shelf = await app_with(tmp_path, budgets={"team": budget})
    context = CallContext(key_id="k1")
    first = await app.pipeline.complete(Request("m", (user("hi"),)), context)
    second = await app.pipeline.complete(Request("m", (user("hi"),)), context)
    with pytest.raises(BudgetExceeded, match="team"):
        await app.pipeline.complete(Request("m", (user("hi"),)), context)
    assert [record.outcome for record in shelf.records] == ["ok", "ok", "refused"]
    assert shelf.records[-1].error == "BudgetExceeded"
    assert first.report.budget_warnings == ()
    assert second.report.budget_warnings == ("team",)
    other = await app.pipeline.complete(Request("m", (user("hi"),)), CallContext(key_id="k2"))
    assert other.response.message.text == "hi"
    await app.aclose()


async def test_a_key_that_calls_too_fast_is_told_when_to_come_back(tmp_path: Path) -> None:
    app, shelf = await app_with(tmp_path, limits={"*": LimitConfig(requests_per_minute=1)})
    context = CallContext(key_id="k1")
    await app.pipeline.complete(Request("m", (user("hi"),)), context)
    with pytest.raises(RateLimited) as refused:
        await app.pipeline.complete(Request("m", (user("hi"),)), context)
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= 60
    assert shelf.records[-1].outcome == "refused"
    await app.aclose()
