"""What a call costs, to the last digit, from its usage and the price row that holds.

Unknown is never zero: a token class without a price makes the whole call unpriced.
"""

from decimal import Decimal

from kimiya.catalog.card import Price
from kimiya.core.exchange import Usage

_MILLION = Decimal(1_000_000)


def cost_usd(usage: Usage, price: Price | None) -> Decimal | None:
    """US dollars for ``usage``, or ``None`` where any part of it has no price.

    Exact: token counts times decimal prices over one million, never rounded.

    >>> from datetime import date
    >>> from kimiya.catalog.card import Source
    >>> row = Price(input_usd_per_mtok=Decimal("0.60"), output_usd_per_mtok=Decimal("3"),
    ...             cache_read_usd_per_mtok=Decimal("0.10"), since=date(2026, 1, 1),
    ...             source=Source(url="measured", checked=date(2026, 1, 1)))
    >>> cost_usd(Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=400), row)
    Decimal('0.00070')
    """
    if price is None:
        return None
    writes_5m = usage.cache_write_tokens - usage.cache_write_1h_tokens
    lines = (
        (usage.fresh_input_tokens, price.input_usd_per_mtok),
        (usage.output_tokens, price.output_usd_per_mtok),
        (usage.cache_read_tokens, price.cache_read_usd_per_mtok),
        (writes_5m, price.cache_write_5m_usd_per_mtok),
        (usage.cache_write_1h_tokens, price.cache_write_1h_usd_per_mtok),
    )
    total = Decimal(0)
    for tokens, usd_per_mtok in lines:
        if tokens == 0:
            continue
        if usd_per_mtok is None:
            return None
        total += tokens * usd_per_mtok / _MILLION
    return total
