"""``kimiya models --caching``: is prompt caching supported, under which rule, at which price."""

import textwrap
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal

from kimiya.catalog.card import ModelCard

_ROW = "{:<27} {:<8} {:>6} {:>6} {:<6} {:>20}"
_HEADINGS = ("model", "caching", "min", "points", "ttl", "$/Mtok read/5m/1h")
_SAID: Mapping[str, str] = {"explicit": "yes", "implicit": "implicit", "none": "no"}


def lines(cards: Sequence[ModelCard], day: date) -> list[str]:
    """A block for each host; under a model where breakpoints may stand, and who says so."""
    out: list[str] = []
    for host in dict.fromkeys(card.host for card in cards):
        out += [*([""] if out else []), host, _ROW.format(*_HEADINGS).rstrip()]
        for card in cards:
            if card.host == host:
                out += _row(card, day)
    return out


def _row(card: ModelCard, day: date) -> list[str]:
    rule = card.cache
    row = _ROW.format(
        card.name[:27],
        _SAID[rule.kind],
        "-" if rule.kind == "none" else ("?" if rule.min_tokens is None else rule.min_tokens),
        rule.max_breakpoints or "-",
        ",".join(rule.ttls) or "-",
        _prices(card, day),
    )
    places = f"in {', '.join(rule.places)}; " if rule.places else ""
    more = f"{places}{rule.source.url}, {rule.source.checked}"
    return [
        row.rstrip(),
        *textwrap.wrap(
            more, 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        ),
    ]


def _prices(card: ModelCard, day: date) -> str:
    price = card.price_on(day)
    if card.cache.kind == "none":
        return "-"
    if price is None:
        return "unpriced"
    each = (
        price.cache_read_usd_per_mtok,
        price.cache_write_5m_usd_per_mtok,
        price.cache_write_1h_usd_per_mtok,
    )
    return "/".join(map(_usd, each))


def _usd(amount: Decimal | None) -> str:
    """
    >>> _usd(Decimal("3.750")), _usd(None)
    ('3.75', '-')
    """
    return "-" if amount is None else f"{amount.normalize():f}"
