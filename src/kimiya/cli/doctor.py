"""``kimiya doctor``: what is there and what is missing, one line each, with the remedy."""

import argparse
import json
import sys
from collections.abc import Mapping

from kimiya.cli.configured import add_config_option

_MARKS: Mapping[str, str] = {"ok": "ok     ", "missing": "missing", "wrong": "WRONG  "}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``doctor``."""
    parser = subparsers.add_parser("doctor", help="what is there, what is missing, and the remedy")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--offline", action="store_true", help="open no connection to any host")
    add_config_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every finding.

    Returns:
        0 where at least one model can be called and nothing is wrong; else 1.
    """
    from kimiya.cli.findings import findings

    found = findings(args.config, connects=not args.offline)
    if args.json:
        rows = [
            {"state": f.state, "what": f.what, "detail": f.detail, "remedy": f.remedy}
            for f in found
        ]
        print(json.dumps(rows))
    else:
        for one in found:
            remedy = f" -> {one.remedy}" if one.remedy else ""
            print(f"{_MARKS[one.state]}  {one.what}: {one.detail}{remedy}")
    can_call = any(one.state == "ok" and one.is_host for one in found)
    if not can_call:
        print("kimiya: no model can be called yet", file=sys.stderr)
    return 0 if can_call and all(one.state != "wrong" for one in found) else 1
