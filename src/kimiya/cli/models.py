"""``kimiya models``: what the catalogue knows, as tables of 78 columns, or as JSON."""

import argparse
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from kimiya.cli.configured import add_config_option
from kimiya.errors import UnknownModel

if TYPE_CHECKING:
    from kimiya.catalog.card import ModelCard
    from kimiya.catalog.catalog import Catalog


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``models``."""
    parser = subparsers.add_parser("models", help="what is known of each model")
    parser.add_argument("name", nargs="?", help="only models whose name, alias or id holds this")
    parser.add_argument("--host", help="only this host")
    parser.add_argument("--all", action="store_true", help="retired ones too")
    parser.add_argument("--json", action="store_true", help="every field, as a JSON list")
    parser.add_argument(
        "--caching", action="store_true", help="prompt caching: rule, prices, source and date"
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help="ask the hosts of NAME with two small calls each, which cost money, and compare",
    )
    add_config_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the cards that match.

    Raises:
        UnknownModel: None does, with the nearest names.
        ConfigError: A mistake in the configuration, or ``--probe`` without a name.
    """
    from kimiya.catalog.catalog import Catalog
    from kimiya.config import load_config

    if args.probe:
        from kimiya.cli.probe import probe

        return probe(args)
    catalog = Catalog.load(load_config(args.config).overrides)
    cards = _chosen(catalog, args)
    if args.json:
        print(msgspec.json.encode(cards).decode())
        return 0
    if args.caching:
        from kimiya.cli.caching_table import lines

        print("\n".join(lines(cards, datetime.now(UTC).date())))
        return 0
    print("\n".join(_lines(cards)))
    return 0


def _chosen(catalog: "Catalog", args: argparse.Namespace) -> Sequence["ModelCard"]:
    word = (args.name or "").casefold()
    cards = [
        card
        for card in catalog.cards
        if (args.all or card.status == "current")
        and (args.host is None or card.host == args.host)
        and (not word or any(word in text.casefold() for text in _names(card)))
    ]
    if not cards:
        if args.host is not None and args.host not in catalog.hosts:
            raise UnknownModel(f"{args.host}/{args.name or '*'}", catalog.hosts)
        raise UnknownModel(args.name or "*", catalog.nearest(args.name or ""))
    return cards


def _names(card: "ModelCard") -> tuple[str, ...]:
    return (card.name, card.model_id, *card.aliases)


_HEADINGS = ("model", "context", "sees", "tools", "thinks", "$/Mtok in/out", "cache")
_ROW = "{:<27} {:>7} {:<6} {:<5} {:<6} {:>13} {:<8}"
"""78 columns: fits every terminal, and needs no wrapping."""


def _lines(cards: Sequence["ModelCard"]) -> list[str]:
    """A block for each host; under a model what else there is to say of it."""
    lines: list[str] = []
    for host in dict.fromkeys(card.host for card in cards):
        lines += [*([""] if lines else []), host, _ROW.format(*_HEADINGS).rstrip()]
        for card in cards:
            if card.host == host:
                lines += _row(card)
    return lines


def _row(card: "ModelCard") -> list[str]:
    row = _ROW.format(
        card.name[:27],
        _tokens(card.context_tokens),
        _sees(card),
        "yes" if card.has_tools else "no",
        _thinks(card),
        _price(card),
        card.cache.kind,
    )
    more = [f"id {card.model_id}"] if card.model_id != card.name else []
    more += [f"also {', '.join(card.aliases)}"] if card.aliases else []
    if card.status == "retired":
        more.append("retired here")
    elif card.retires is not None:
        more.append(f"until {card.retires}")
    return [
        row.rstrip(),
        *textwrap.wrap(
            "; ".join(more), 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        ),
    ]


def _tokens(count: int | None) -> str:
    """
    >>> _tokens(262144), _tokens(1_000_000), _tokens(8192), _tokens(None)
    ('256k', '1M', '8k', '?')
    """
    if count is None:
        return "?"
    if count >= 1_000_000:
        return f"{count / 1_000_000:.3g}M" if count % 1_048_576 else f"{count // 1_048_576}M"
    return f"{count // 1024}k" if count % 1000 else f"{count // 1000}k"


def _sees(card: "ModelCard") -> str:
    if card.has_video:
        return "video"
    return "images" if card.has_vision else "-"


def _thinks(card: "ModelCard") -> str:
    modes = card.thinking.modes
    if len(modes) == 2:
        return "on/off" if card.thinking.default == "thinking" else "off/on"
    return "always" if modes == ("thinking",) else "no"


def _price(card: "ModelCard") -> str:
    price = card.price_on(datetime.now(UTC).date())
    if price is None:
        return "unpriced"
    return f"{price.input_usd_per_mtok.normalize():f}/{price.output_usd_per_mtok.normalize():f}"
