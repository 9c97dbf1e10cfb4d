"""Writes the pages of ``docs/reference`` from the code; ``--check`` fails where one is stale.

python scripts/generated_docs.py [--check]
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from kimiya.catalog.catalog import Catalog
from kimiya.cli.main import COMMANDS
from kimiya.gateway.openapi import openapi_document

PAGES = Path(__file__).parent.parent / "docs" / "reference"
NOTICE = "<!-- Written by scripts/generated_docs.py; edit the code instead. -->\n"


def models_page() -> str:
    """Every row of the catalogue."""
    lines = [
        NOTICE,
        "# Models",
        "",
        "One row a model and host. Prices are US dollars per million tokens; a dash is unpriced.",
        "",
        "| name | host | model id | context | in | out | cache read | caching | checked |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for card in Catalog.load().cards:
        price = max(card.prices, key=lambda p: p.since, default=None)
        plain = [p for p in card.prices if p.above_input_tokens == 0]
        price = max(plain, key=lambda p: p.since, default=price)
        shown = [
            "-" if value is None else f"{value:f}"
            for value in (
                price and price.input_usd_per_mtok,
                price and price.output_usd_per_mtok,
                price and price.cache_read_usd_per_mtok,
            )
        ]
        context = f"{card.context_tokens:,}" if card.context_tokens else "-"
        retired = " (retired)" if card.status == "retired" else ""
        cells = [card.name + retired, card.host, f"`{card.model_id}`", context, *shown]
        cells += [card.cache.kind, str(card.source.checked)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def command_page() -> str:
    """What each subcommand says of itself."""
    os.environ["COLUMNS"] = "80"
    parser = argparse.ArgumentParser(prog="kimiya")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    lines = [f"| `kimiya {name}` | {text} |" for name, text in COMMANDS.items()]
    parts = [NOTICE, "# Command line\n", "| command | what it is for |\n| --- | --- |"]
    parts += ["\n".join(lines) + "\n"]
    for name in COMMANDS:
        importlib.import_module(f"kimiya.cli.{name}").add_parser(subparsers)
        subparser = subparsers.choices[name]
        parts.append(f"## kimiya {name}\n\n```\n{subparser.format_help()}```\n")
    return "\n".join(parts)


def openapi_page() -> str:
    """The gateway's OpenAPI description."""
    return msgspec.json.format(msgspec.json.encode(openapi_document()), indent=2).decode() + "\n"


WRITERS: Mapping[str, Callable[[], str]] = {
    "models.md": models_page,
    "command-line.md": command_page,
    "openapi.json": openapi_page,
}


def main() -> int:
    """Write the pages, or say which are stale."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where stale")
    args = parser.parse_args()
    stale = []
    for name, write in WRITERS.items():
        page, text = PAGES / name, write()
        if page.exists() and page.read_text() == text:
            continue
        stale.append(name)
        if not args.check:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text)
            print(f"wrote {page}")
    if args.check and stale:
        print(f"stale: {', '.join(stale)}; run `python scripts/generated_docs.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
