"""Whether writing a prefix pays: prices as multiples of plain input, and what each way costs.

For every block the question is the same. Now: read plainly (1), or written for five minutes or an
hour. Later: it comes back some number of times, each within the lifetime (a read) or after it (a
write anew). Whoever does not write now can still write at the next return, so waiting is the third
way.
"""

from datetime import date
from decimal import Decimal

from msgspec import Struct

from kimiya.catalog.card import ModelCard, Price
from kimiya.core.messages import CacheTtl

MOST_RETURNS = 12.0
"""No prefix is expected back more often than this, however good its record."""


class Factors(Struct, frozen=True):
    """Prices of input tokens, as multiples of the plain one."""

    read: float = 0.10
    write_5m: float = 1.25
    write_1h: float = 2.00


STANDARD = Factors()
"""Claude's, at Anthropic and Bedrock (platform.claude.com, 2026-11-22): for unpriced cards."""


def factors_of(card: ModelCard, day: date, input_tokens: int) -> Factors:
    """What the card's price row says, else ``STANDARD``."""
    price = card.price_on(day, input_tokens)
    if price is None or not price.input_usd_per_mtok:
        return STANDARD
    return Factors(
        _factor(price, price.cache_read_usd_per_mtok, STANDARD.read),
        _factor(price, price.cache_write_5m_usd_per_mtok, STANDARD.write_5m),
        _factor(price, price.cache_write_1h_usd_per_mtok, STANDARD.write_1h),
    )


def _factor(price: Price, usd_per_mtok: Decimal | None, default: float) -> float:
    if usd_per_mtok is None:
        return default
    return float(usd_per_mtok / price.input_usd_per_mtok)


class Chance(Struct, frozen=True, gc=False):
    """How likely a prefix comes back."""

    quick: float
    """Within five minutes."""
    hour: float
    """Within an hour, the quick ones included."""


def best_lifetime(
    chance: Chance, factors: Factors, lifetimes: tuple[CacheTtl, ...]
) -> CacheTtl | None:
    """The lifetime to write with now; ``None`` where waiting is expected to cost no more.

    >>> often, seldom, late = Chance(0.8, 0.8), Chance(0.1, 0.1), Chance(0.0, 0.8)
    >>> both = ("5m", "1h")
    >>> [best_lifetime(chance, STANDARD, both) for chance in (often, seldom, late)]
    ['5m', None, '1h']
    """
    if chance.hour <= 0:
        return None
    returns = min(MOST_RETURNS, chance.hour / max(1e-9, 1 - chance.hour))
    quick = chance.quick / chance.hour
    ways: dict[CacheTtl, float] = {
        "5m": factors.write_5m + returns * (quick * factors.read + (1 - quick) * factors.write_5m),
        "1h": factors.write_1h + returns * factors.read,
    }
    offered: list[CacheTtl] = [ttl for ttl in lifetimes if ttl in ways]
    if not offered:
        return None
    ttl = min(offered, key=ways.__getitem__)
    cost = ways[ttl]
    return ttl if cost < 1 + chance.hour * cost else None
