"""``kimiya cost``: what calls cost, by model, key, tag, conversation or day."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kimiya.cli.configured import add_config_option
from kimiya.errors import ConfigError

if TYPE_CHECKING:
    from kimiya.ledger.cost_explorer import CostExplorerBill
    from kimiya.ledger.query import CostQuery, CostRow, Grouping
    from kimiya.ledger.report import CostReport
    from kimiya.ledger.store import LedgerStore


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``cost``."""
    parser = subparsers.add_parser(
        "cost",
        help="what calls cost, and what caching and routing saved",
        description="What calls cost: tokens, dollars, cache hits, and what was saved.",
    )
    parser.add_argument(
        "--by",
        default="model",
        metavar="GROUP",
        help="model (default), provider, route, key, user, conversation, run, day, total,"
        " or tag:NAME",
    )
    parser.add_argument("--since", type=_day, metavar="DAY", help="first day, YYYY-MM-DD, UTC")
    parser.add_argument("--until", type=_day, metavar="DAY", help="last day, included")
    parser.add_argument("--days", type=_count, metavar="N", help="the last N days, today included")
    parser.add_argument("--key", metavar="ID", help="only calls of this key")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV, with every digit")
    form.add_argument("--json", action="store_true", help="print JSON, with every digit")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it too: .svg or .png")
    parser.add_argument(
        "--import-cost-explorer",
        type=Path,
        metavar="FILE",
        help="lay a Cost Explorer export by tag (CSV or JSON) beside the ledger",
    )
    parser.add_argument(
        "--ledger",
        metavar="PLACE",
        help="a SQLite file, or postgresql://... (default: the configured one)",
    )
    add_config_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report.

    Raises:
        ConfigError: There is no ledger, or what was asked makes no sense.
        LedgerError: The ledger cannot be read.
    """
    from kimiya.ledger.report import CostReport, as_csv, as_json, as_table

    place = _place(args)
    if args.import_cost_explorer is not None:
        return _compare(args, place)
    query = _query(args)
    report = CostReport(query, _costs(place, query))
    if args.plot is not None:
        _draw(report, args.plot)
    form = as_csv if args.csv else as_json if args.json else as_table
    sys.stdout.write(form(report).rstrip("\n") + "\n")
    return 0


def _compare(args: argparse.Namespace, place: "_Place") -> int:
    from kimiya.ledger import cost_explorer as explorer
    from kimiya.ledger.query import CostQuery

    path: Path = args.import_cost_explorer
    for given in ("since", "until", "days", "plot"):
        if getattr(args, given) is not None:
            raise ConfigError(
                f"--{given} does not go with --import-cost-explorer",
                remedy="The export's own days are compared, as a table, CSV or JSON",
            )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text", remedy="Name the downloaded CSV or JSON") from error
    bill: CostExplorerBill = explorer.read_cost_explorer(text, str(path))
    query = CostQuery(by="tag", tag=bill.tag, since=bill.since, until=bill.until, key_id=args.key)
    found = explorer.differences(_costs(place, query), bill)
    form = (
        explorer.as_difference_csv
        if args.csv
        else explorer.as_difference_json
        if args.json
        else explorer.as_difference_table
    )
    sys.stdout.write(form(found, bill).rstrip("\n") + "\n")
    return 0


def _costs(place: "_Place", query: "CostQuery") -> "tuple[CostRow, ...]":
    return asyncio.run(_asked(place, query))


async def _asked(place: "_Place", query: "CostQuery") -> "tuple[CostRow, ...]":
    """The rows, once what a dead gateway left in its spool is in too."""
    from kimiya.ledger.ledger import Ledger

    store = place.store()
    ledger = await Ledger.open(store, place.spool) if place.spool else None
    try:
        if ledger is not None:
            await ledger.flush()
        return await store.costs(query)
    finally:
        await (ledger or store).aclose()


class _Place(NamedTuple):
    """The ledger that is meant: how to reach it, and its spool where that is on this machine."""

    store: "Callable[[], LedgerStore]"
    spool: Path | None


def _place(args: argparse.Namespace) -> _Place:
    from kimiya.books import ledger_store
    from kimiya.config import load_config
    from kimiya.ledger.sqlite import SqliteStore

    place: str | None = args.ledger
    if place is None:
        settings = load_config(args.config).ledger
        spool = Path(settings.spool).expanduser()
        found = spool if spool.is_dir() else None
        if settings.postgres_env is None:
            _see(Path(settings.path).expanduser(), settings.path, is_spooled=found is not None)
        return _Place(lambda: ledger_store(settings, os.environ), found)
    if place.startswith(("postgresql://", "postgres://")):
        from kimiya.ledger.postgres import PostgresStore

        dsn = place
        return _Place(lambda: PostgresStore(dsn), None)
    file = Path(place).expanduser()
    _see(file, place, is_spooled=False)
    return _Place(lambda: SqliteStore(file), None)


def _see(file: Path, name: str, *, is_spooled: bool) -> None:
    """A report makes no ledger where there is none."""
    if not file.is_file() and not is_spooled:
        raise ConfigError(
            f"there is no ledger at {name}",
            remedy="`kimiya serve` keeps one; --ledger names another, a file or postgresql://...",
        )


def _query(args: argparse.Namespace) -> "CostQuery":
    from kimiya.core.nearest import nearest
    from kimiya.ledger.query import GROUPINGS, CostQuery

    by, colon, tag = str(args.by).partition(":")
    if by not in GROUPINGS or (colon and by != "tag"):
        near = nearest(by, GROUPINGS, limit=1)
        hint = f"Did you mean {near[0]}?" if near else f"One of {', '.join(GROUPINGS)}"
        raise ConfigError(f"no report is by {str(args.by)[:80]!r}", remedy=hint)
    grouping: Grouping = next(each for each in GROUPINGS if each == by)
    since: date | None = args.since
    if args.days is not None:
        if since is not None:
            raise ConfigError("--days and --since say the same thing", remedy="Give one of them")
        since = (args.until or datetime.now(UTC).date()) - timedelta(days=args.days - 1)
    return CostQuery(by=grouping, tag=tag or None, since=since, until=args.until, key_id=args.key)


def _draw(report: "CostReport", path: Path) -> None:
    from kimiya.ledger.chart import write_chart

    write_chart(report, path)
    print(f"{path} is drawn", file=sys.stderr)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2026-11-22") from None


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 36_500:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days")
    return int(text)
