"""``kimiya tame``: recorded replies through the engine, offline. Parsing and printing only."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kimiya.errors import ConfigError
from kimiya.taming.explain import explain
from kimiya.taming.replay import Mark, Outcome, Places, lines_of, mark, recut, replay

__all__ = ["add_parser", "run"]

_FAILED = 1


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],  # pyright: ignore[reportPrivateUsage]
) -> None:
    """Add ``tame`` to the command's subcommands; the parsed arguments carry ``run``."""
    parser = subparsers.add_parser(
        "tame",
        help="mend recorded replies, offline",
        description="Recorded replies through the taming engine, with no host and no gateway.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    again = actions.add_parser("replay", help="one JSON line for each line of a JSONL file")
    again.add_argument("file", metavar="FILE.jsonl", help="corpus lines; - reads stdin")
    again.add_argument(
        "--score", action="store_true", help="a table by family against each line's `expected`"
    )
    again.add_argument(
        "--cut",
        metavar="N",
        type=int,
        help="also re-cut each reply at N random places and at every character: nothing may change",
    )
    again.add_argument("--seed", type=int, default=0, help="of the random cuts (0)")
    again.add_argument(
        "--json", action="store_true", help="with --score: the figures as one JSON object"
    )
    why = actions.add_parser("explain", help="one reply: what was seen and why it was so decided")
    why.add_argument("file", metavar="FILE", help="a JSON reply, or JSONL; - reads stdin")
    why.add_argument("--id", help="which line of a JSONL file (the first)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the parsed command out; the exit code is 1 where a cut changed something.

    Raises:
        ConfigError: The file cannot be read as replies.
    """
    lines = _lines(arguments.file)
    if arguments.action == "explain":
        return _explain(lines, arguments.id, arguments.file)
    return _replay(lines, arguments)


def _lines(file: str) -> list[dict[str, Any]]:
    try:
        if file == "-":
            text = sys.stdin.buffer.read().decode()
        else:
            text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=file) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file=file) from error
    try:
        whole: Any = msgspec.json.decode(text)
        text = json.dumps(whole)
    except (msgspec.DecodeError, RecursionError):
        pass  # several lines: each is read, and complained about, by itself
    try:
        return list(lines_of(text))
    except ValueError as error:
        remedy = 'A reply is {"tools": [...], "deltas": [...], "finish_reason": ...}.'
        raise ConfigError(str(error), file=file, remedy=remedy) from error


def _replay(lines: list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    outcomes = [replay(line) for line in lines]
    unstable: list[str] = []
    if arguments.cut is not None:
        for line, outcome in zip(lines, outcomes, strict=True):
            if not _is_stable(line, outcome, arguments.cut, arguments.seed):
                unstable.append(str(outcome.id))
    if not arguments.score:
        for outcome in outcomes:
            print(json.dumps(outcome.line(), ensure_ascii=False))
    else:
        _print_score(lines, outcomes, unstable, arguments)
    if unstable:
        print(f"cutting changed {len(unstable)}: {', '.join(unstable)}", file=sys.stderr)
    return _FAILED if unstable else 0


def _is_stable(line: dict[str, Any], outcome: Outcome, count: int, seed: int) -> bool:
    cuts = [Places(), Places(max(0, count), random.Random(seed))]
    return all(replay(line, recut(line, places)) == outcome for places in cuts)


def _print_score(
    lines: list[dict[str, Any]],
    outcomes: list[Outcome],
    unstable: list[str],
    arguments: argparse.Namespace,
) -> None:
    marks = [
        (str(line.get("family", "?")), bool(line["expected"].get("retry")), outcome,
         mark(outcome, line["expected"]))
        for line, outcome in zip(lines, outcomes, strict=True)
        if isinstance(line.get("expected"), dict)
    ]  # fmt: skip
    figures = _figures(marks)
    figures["unstable_when_cut"] = unstable if arguments.cut is not None else None
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{'family':8} {'lines':>6} {'right':>6} {'wrong calls':>12}")
    for family, row in sorted(figures["families"].items()):
        print(f"{family:8} {row['lines']:6} {row['right']:6} {row['wrong_calls']:12}")
    recoverable, retried = figures["recoverable"], figures["retry"]
    print(
        f"recovered {recoverable['right']} of {recoverable['lines']}, retried "
        f"{retried['right']} of {retried['lines']} that must be, "
        f"{figures['wrong_calls']} wrong calls"
    )
    for family, _, outcome, judged in marks:
        if not judged.is_right:
            print(f"  {outcome.id} ({family}): {judged.why[:160]}")


def _figures(marks: Iterable[tuple[str, bool, Outcome, Mark]]) -> dict[str, Any]:
    families: dict[str, Counter[str]] = {}
    kinds = {"recoverable": Counter[str](), "retry": Counter[str]()}
    for family, is_retry, _, judged in marks:
        kind = kinds["retry" if is_retry else "recoverable"]
        for row in (families.setdefault(family, Counter()), kind):
            row["lines"] += 1
            row["right"] += judged.is_right
            row["wrong_calls"] += judged.wrong_calls
    keys = ("lines", "right", "wrong_calls")
    return {
        "families": {name: {key: row[key] for key in keys} for name, row in families.items()},
        **{name: {key: row[key] for key in keys} for name, row in kinds.items()},
        "wrong_calls": sum(row["wrong_calls"] for row in kinds.values()),
    }


def _explain(lines: list[dict[str, Any]], wanted: str | None, file: str) -> int:
    chosen = [line for line in lines if wanted is None or str(line.get("id")) == wanted]
    if not chosen:
        known = ", ".join(str(line.get("id")) for line in lines[:8])
        raise ConfigError(f"holds no reply {wanted!r}", file=file, remedy=f"It holds {known}.")
    for label, text in explain(chosen[0]):
        print(f"{label:>20}  {text}")
    return 0
