"""Calls for the ledger's tests."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from kimiya.catalog.card import Price, Source
from kimiya.core.exchange import Usage
from kimiya.ledger.ledger import LedgerPolicy
from kimiya.ledger.record import LedgerAttempt, LedgerRecord

DAY = date(2026, 11, 1)
BRISK = LedgerPolicy(batch_delay_s=0, retry_s=0, max_retry_s=0, batch_records=16)
"""No waiting: what is tested is order and count, never time."""

PRICE = Price(
    input_usd_per_mtok=Decimal("0.60"),
    output_usd_per_mtok=Decimal("3.00"),
    cache_read_usd_per_mtok=Decimal("0.10"),
    since=date(2026, 1, 1),
    source=Source(url="measured", checked=date(2026, 11, 1)),
)


def attempt(**fields: Any) -> LedgerAttempt:
    """A paid attempt: 600 fresh and 400 cached in, 100 out, 0.0007 dollars."""
    usual: dict[str, Any] = {
        "provider": "moonshot",
        "model_id": "kimi-k2.5",
        "dialect": "openai_chat",
        "usage": Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=400),
        "price": PRICE,
        "usd": Decimal("0.00070"),
        "saved_by_caching_usd": Decimal("0.00020"),
        "duration_s": 1.5,
    }
    return LedgerAttempt(**(usual | fields))


def record(number: int, *, day: int = 1, **fields: Any) -> LedgerRecord:
    """Call ``number`` of a day in November 2026."""
    at = datetime(2026, 11, day, tzinfo=UTC) + timedelta(seconds=number)
    usual: dict[str, Any] = {
        "call_id": f"call-{number:06d}",
        "at": at,
        "model": "kimi",
        "attempts": (attempt(),),
        "first_event_s": 0.25,
        "duration_s": 1.5,
    }
    return LedgerRecord(**(usual | fields))
