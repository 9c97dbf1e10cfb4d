"""Dollars and tokens against figures worked out by hand, for each way a host counts.

Each case is written as the host shows it, with the sum in the comment; the ledger must show the
same raw figures back, and the store the same dollars.
"""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from kimiya.catalog.card import Price, Source
from kimiya.catalog.pricing import cost_usd
from kimiya.core.exchange import Usage
from kimiya.ledger.query import CostQuery
from kimiya.ledger.record import LedgerAttempt, LedgerRecord
from kimiya.ledger.savings import saved_by_caching_usd, saved_by_routing_usd
from kimiya.ledger.sqlite import SqliteStore
from tests.contracts.ledger import encoded
from tests.ledger.records import attempt, record


def row(fresh: str, output: str, read=None, w5=None, w1=None, above: int = 0) -> Price:
    """A price row, in dollars a million tokens."""

    def usd(text: str | None) -> Decimal | None:
        return None if text is None else Decimal(text)

    return Price(
        input_usd_per_mtok=Decimal(fresh),
        output_usd_per_mtok=Decimal(output),
        cache_read_usd_per_mtok=usd(read),
        cache_write_5m_usd_per_mtok=usd(w5),
        cache_write_1h_usd_per_mtok=usd(w1),
        since=date(2026, 1, 1),
        above_input_tokens=above,
        source=Source(url="measured", checked=date(2026, 11, 1)),
    )


SUBSET = row("0.95", "4.00", read="0.16")
ADDITIVE = row("3.00", "15.00", read="0.30", w5="3.75", w1="6.00")
WRITING_SUBSET = row("3.00", "15.00", read="0.30", w5="3.00", w1="6.00")

# dialect, price, usage, raw input as the host shows it, dollars, saved by caching
CASES = {
    # prompt 1000, completion 500: 1000*.95 + 500*4 = 950 + 2000 = 2950
    "subset plain": ("openai_chat", SUBSET, Usage(1000, 500), 1000, "0.002950", "0"),
    # prompt 1000 of which 768 cached: 232*.95 + 768*.16 + 500*4 = 220.4 + 122.88 + 2000
    "subset read": (
        "openai_chat", SUBSET, Usage(1000, 500, 768), 1000, "0.00234328", "0.00060672",
    ),
    # reasoning 300 of the 500 output is billed as output, once
    "reasoning": (
        "openai_responses", SUBSET, Usage(1000, 500, reasoning_tokens=300), 1000, "0.002950", "0",
    ),
    # prompt 10000: 6000 read, 3000 written 5m, 1000 fresh: 3000 + 1800 + 9000 + 10*15 = 13950
    # without a cache 30000 + 150 = 30150
    "subset write 5m": (
        "openai_chat", WRITING_SUBSET, Usage(10_000, 10, 6000, 3000), 10_000,
        "0.013950", "0.016200",
    ),
    # the same, written for an hour: 3000 + 1800 + 18000 + 150 = 22950
    "subset write 1h": (
        "openai_chat", WRITING_SUBSET, Usage(10_000, 10, 6000, 3000, 3000), 10_000,
        "0.022950", "0.007200",
    ),
    # input_tokens 21 beside 188086 read: 21*3 + 188086*.3 + 393*15 = 63 + 56425.8 + 5895
    "additive read": (
        "anthropic_messages", ADDITIVE, Usage(188_107, 393, 188_086), 21,
        "0.0623838", "0.5078322",
    ),
    # 2000 fresh, 10000 written 5m: 6000 + 37500 + 100*15 = 45000; plain 36000 + 1500: -7500
    "additive write 5m costs first": (
        "anthropic_messages", ADDITIVE, Usage(12_000, 100, 0, 10_000), 2000,
        "0.045000", "-0.007500",
    ),
    # 500 fresh, 1000 read, 4000 written 5m, 2000 written 1h, 50 out:
    # 1500 + 300 + 15000 + 12000 + 750 = 29550; plain 7500*3 + 750 = 23250
    "additive both lifetimes": (
        "bedrock_converse", ADDITIVE, Usage(7500, 50, 1000, 6000, 2000), 500,
        "0.029550", "-0.006300",
    ),
    # an image of 1290 tokens is input like any other: 1300*3 + 5*15 = 3975
    "image": ("bedrock_converse", ADDITIVE, Usage(1300, 5), 1300, "0.003975", "0"),
    "nothing": ("bedrock_converse", ADDITIVE, Usage(), 0, "0", "0"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_call_costs_what_a_pencil_says(tmp_path: Path, case) -> None:
    dialect, price, usage, raw_input, usd, saved = case
    tried = LedgerAttempt(
        provider="p",
        model_id="m",
        dialect=dialect,
        usage=usage,
        price=price,
        usd=cost_usd(usage, price),
        saved_by_caching_usd=saved_by_caching_usd(usage, price),
    )
    assert tried.raw_input_tokens == raw_input
    assert tried.usd == Decimal(usd)
    assert tried.saved_by_caching_usd == Decimal(saved)
    store = SqliteStore(tmp_path / "ledger.sqlite")
    await store.write(encoded(record(1, attempts=(tried,))))
    (line,) = await store.costs(CostQuery(by="total"))
    assert (line.usd, line.saved_by_caching_usd) == (Decimal(usd), Decimal(saved))
    assert (line.input_tokens, line.output_tokens) == (usage.input_tokens, usage.output_tokens)
    await store.aclose()


def test_a_retry_is_paid_for_and_shown() -> None:
    call: LedgerRecord = record(
        1,
        attempts=(
            attempt(error="ProviderTimeout", usage=None, usd=None),
            attempt(error="AskAgain", usd=Decimal("0.0007")),
            attempt(usd=Decimal("0.0023")),
        ),
    )
    assert call.usd == Decimal("0.0030")
    assert call.usage.input_tokens == 2000
    assert [tried.is_free for tried in call.attempts] == [True, False, False]


@pytest.mark.parametrize(
    "attempts",
    [
        (attempt(usd=None),),
        (attempt(), attempt(usd=None)),
        # Left by its caller in the midst: the host bills something, nobody knows what.
        (attempt(usage=None, usd=None),),
    ],
)
def test_unknown_is_unpriced_never_zero(attempts) -> None:
    assert record(1, attempts=attempts).usd is None


def test_a_class_without_a_price_makes_the_call_unpriced() -> None:
    assert cost_usd(Usage(10, 1, cache_write_tokens=5), SUBSET) is None
    assert saved_by_caching_usd(Usage(10, 1, cache_write_tokens=5), SUBSET) is None


@pytest.mark.parametrize(
    ("billed", "members", "saved"),
    [
        # 1000 in of which 400 cached, 100 out; dear: 600*3 + 400*.3 + 1500 = 3420
        ("0.00070", [SUBSET, ADDITIVE], "0.00272"),
        # no price for cache reads there: all at the plain price, 950 + 400
        ("0.00070", [row("0.95", "4")], "0.00065"),
        ("0.00342", [SUBSET, ADDITIVE], "0"),
        ("0.00070", [None], "0"),
        ("0.00070", [], "0"),
    ],
)
def test_routing_saves_against_the_dearest_member(billed, members, saved) -> None:
    usage = Usage(1000, 100, 400)
    assert saved_by_routing_usd(usage, Decimal(billed), members) == Decimal(saved)
    assert saved_by_routing_usd(usage, None, members) is None
