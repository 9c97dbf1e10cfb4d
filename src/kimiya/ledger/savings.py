"""What caching and routing saved, against the same tokens without them. Exact, and pure."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from kimiya.catalog.card import Price
from kimiya.catalog.pricing import cost_usd
from kimiya.core.exchange import Usage


def saved_by_caching_usd(usage: Usage, price: Price | None) -> Decimal | None:
    """Dollars the cache saved: all input at the plain price, less what was billed.

    Negative where prefixes were written and not read. ``None`` where there is no price.

    >>> from datetime import date
    >>> from kimiya.catalog.card import Source
    >>> row = Price(input_usd_per_mtok=Decimal(3), output_usd_per_mtok=Decimal(15),
    ...             cache_read_usd_per_mtok=Decimal("0.30"), since=date(2026, 1, 1),
    ...             source=Source(url="measured", checked=date(2026, 1, 1)))
    >>> saved_by_caching_usd(Usage(input_tokens=1000, cache_read_tokens=1000), row)
    Decimal('0.0027')
    """
    billed = cost_usd(usage, price)
    plain = cost_usd(_uncached(usage), price)
    return None if billed is None or plain is None else plain - billed


def saved_by_routing_usd(
    usage: Usage, billed_usd: Decimal | None, members: Iterable[Price | None]
) -> Decimal | None:
    """Dollars the route saved: the same tokens at its dearest member, less what was billed.

    A member without a price for a cache class is priced as if nothing had been cached; one without
    any price is passed over.
    """
    if billed_usd is None:
        return None
    costs = [
        cost
        for price in members
        if (cost := cost_usd(usage, price) or cost_usd(_uncached(usage), price)) is not None
    ]
    return max(costs, default=billed_usd) - billed_usd


def _uncached(usage: Usage) -> Usage:
    return msgspec.structs.replace(
        usage, cache_read_tokens=0, cache_write_tokens=0, cache_write_1h_tokens=0
    )
