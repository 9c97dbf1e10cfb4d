"""Taming at scale: damaged replies made from gold calls, and the engine's speed.

The gold calls are those of the Berkeley Function Calling Leaderboard, whose data ships in the
``bfcl-eval`` wheel (fetched with pip into a cache, read and never installed). Without it a seeded
generator of our own makes the calls, and the result says so.

    python bench/taming.py [--quick] [--json] [--seed N] [--replies N]
"""

import argparse
import json
import random
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from taming_replies import MAKERS, Call, Line

from kimiya.core.events import Finish, TextDelta
from kimiya.core.exchange import ToolSpec
from kimiya.core.schema import compiled
from kimiya.taming.calls import Toolbox
from kimiya.taming.replay import Places, mark, recut, replay
from kimiya.taming.tamer import Engine

WHEEL = "bfcl-eval==2026.3.23"
CACHE = Path.home() / ".cache" / "kimiya" / "bench"
SETS = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple",
        "live_multiple", "live_parallel", "live_parallel_multiple")  # fmt: skip
Case = tuple[list[dict[str, Any]], list[Call]]

_KINDS = {"dict": "object", "float": "number", "tuple": "array", "int": "integer",
          "bool": "boolean",
          "str": "string", "list": "array"}  # fmt: skip


def fetched() -> Path | None:
    """The wheel, from the cache or by pip; ``None`` where neither has it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        if found := sorted(CACHE.glob("bfcl_eval-*.whl")):
            return found[-1]
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", WHEEL, "-d", CACHE]
        subprocess.run(command, check=False, capture_output=True, timeout=300)
    return None


def json_schema(node: Any) -> Any:
    """BFCL's Python-flavoured types as JSON Schema."""
    if isinstance(node, list):
        return [json_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties" and isinstance(value, dict):
            out[key] = {name: json_schema(child) for name, child in value.items()}
        elif key == "type" and isinstance(value, str):
            if value != "any":
                out[key] = _KINDS.get(value, value)
        elif key not in ("default", "optional", "format", "description"):
            out[key] = json_schema(value)
    return out


def chosen(options: Any) -> Any:
    """One possible answer out of BFCL's lists of them."""
    value = next((option for option in options if option != ""), None)
    if isinstance(value, dict):
        return {k: c for k, v in value.items()
                if (c := chosen(v) if isinstance(v, list) else v) is not None}  # fmt: skip
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return [chosen([v]) for v in value]
    return value


def bfcl_cases(wheel: Path) -> list[Case]:
    """Tools and gold calls, those that fit their own schemas."""
    cases: list[Case] = []
    with zipfile.ZipFile(wheel) as archive:
        for name in SETS:
            asked = _jsonl(archive.read(f"bfcl_eval/data/BFCL_v4_{name}.json"))
            answers = _jsonl(archive.read(f"bfcl_eval/data/possible_answer/BFCL_v4_{name}.json"))
            truth = {answer["id"]: answer["ground_truth"] for answer in answers}
            cases += [case for row in asked if (case := _case(row, truth.get(row["id"], [])))]
    return cases


def _jsonl(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in data.decode().splitlines() if text.strip()]


def _case(row: dict[str, Any], truth: list[dict[str, Any]]) -> Case | None:
    schemas = {f["name"]: json_schema(f["parameters"]) for f in row["function"]}
    if len(schemas) < len(row["function"]):
        return None
    for schema in schemas.values():
        schema["additionalProperties"] = False
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}}
             for name, schema in schemas.items()]  # fmt: skip
    calls: list[Call] = []
    for gold in truth:
        for name, options in gold.items():
            given = {k: c for k, v in options.items() if (c := chosen(v)) is not None}
            if name not in schemas or not compiled(schemas[name]).fits(given):
                return None
            calls.append((name, given))
    return (tools, calls) if calls else None


def own_cases(rng: random.Random, count: int = 400) -> list[Case]:
    """Tools and calls of our own, for machines that cannot fetch the wheel."""
    verbs = ["get", "set", "find", "send", "list", "make", "drop", "move", "read", "write"]
    nouns = ["file", "mail", "page", "user", "order", "route", "image", "table", "note", "job"]
    kinds: dict[str, Any] = {
        "string": lambda: " ".join(rng.choice(nouns) for _ in range(rng.randrange(1, 9))),
        "integer": lambda: rng.randrange(-10, 100_000),
        "number": lambda: rng.randrange(1, 999) / 8,
        "boolean": lambda: rng.random() < 0.5,
        "array": lambda: [rng.choice(nouns) for _ in range(rng.randrange(0, 4))],
    }
    cases: list[Case] = []
    for _ in range(count):
        names = rng.sample([f"{v}_{n}" for v in verbs for n in nouns], rng.randrange(1, 5))
        tools, made = [], {}
        for name in names:
            fields = {
                key: rng.choice(list(kinds)) for key in rng.sample(nouns, rng.randrange(1, 4))
            }
            made[name] = fields
            schema = {"type": "object", "properties": {k: {"type": t} for k, t in fields.items()},
                      "required": list(fields), "additionalProperties": False}  # fmt: skip
            tools.append({"type": "function", "function": {"name": name, "parameters": schema}})
        picked = rng.sample(names, rng.randrange(1, min(3, len(names)) + 1))
        cases.append((tools, [(n, {k: kinds[t]() for k, t in made[n].items()}) for n in picked]))
    return cases


def lines(cases: list[Case], count: int, rng: random.Random) -> list[Line]:
    """``count`` damaged replies, the families in turn."""
    out: list[Line] = []
    while len(out) < count:
        for makers in MAKERS.values():
            tools, calls = rng.choice(cases)
            made = rng.choice(makers)(tools, calls, rng)
            if made is not None and "<|" not in json.dumps([tools, calls]):
                out.append({**made, "id": len(out)})
    return out[:count]


def score(replies: list[Line], seed: int) -> dict[str, Any]:
    """Exact recovery and wrong calls over all replies, whole and cut at random."""
    rows: dict[str, Counter[str]] = {}
    misses: list[str] = []
    for number, reply in enumerate(replies):
        cut = recut(reply, Places(1 + number % 9, random.Random(seed + number)))
        judged = mark(replay(reply, cut), reply["expected"])
        row = rows.setdefault(reply["family"], Counter())
        kind = "retry" if reply["expected"].get("retry") else "recoverable"
        row[kind] += 1
        row[f"{kind}_right"] += judged.is_right
        row["wrong_calls"] += judged.wrong_calls
        if not judged.is_right and len(misses) < 40:
            misses.append(f"{reply['family']} {judged.why[:300]} <- {reply['deltas']}"[:900])
    total = sum(rows.values(), Counter())
    return {
        "replies": len(replies),
        "recovered_share": round(total["recoverable_right"] / total["recoverable"], 5),
        "retried_share": round(total["retry_right"] / total["retry"], 5),
        "wrong_calls": total["wrong_calls"],
        "families": {name: dict(row) for name, row in sorted(rows.items())},
        "misses": misses,
    }


def speed(quick: bool) -> dict[str, float]:
    """Clean streamed text: megabytes a second in large pieces, microseconds in token-sized ones."""
    rng = random.Random(7)
    words = (
        "the agent reads each file, then writes (once) what it has found. Functions: 3 < 5!".split()  # noqa: SIM905
    )
    text = "".join(
        rng.choice(words) + (" " if rng.random() < 0.95 else "\n") for _ in range(200_000)
    )
    text = text[: 300_000 if quick else 1_000_000]
    half = ("<|tool_calls_section_begi" * (len(text) // 25 + 1))[: len(text)]
    clean = min(_seconds(text, 16_384)[0] for _ in range(3))
    tokens, count = min(_seconds(text, 5) for _ in range(3))
    return {
        "mb_per_s": round(len(text.encode()) / 1e6 / clean, 1),
        "us_per_delta": round(tokens / count * 1e6, 2),
        "half_markers_factor": round(min(_seconds(half, 16_384)[0] for _ in range(3)) / clean, 2),
    }


def _seconds(text: str, size: int) -> tuple[float, int]:
    tools = [ToolSpec(f"tool_{n}", None, {"type": "object"}) for n in range(20)]
    engine = Engine(Toolbox(tools))
    events = [TextDelta(0, text[at : at + size]) for at in range(0, len(text), size)]
    began = time.process_time()
    for event in events:
        engine.feed(event)
    engine.feed(Finish("stop"))
    return time.process_time() - began, len(events)


def main() -> int:
    """Run the bench; exit 1 where a wrong call got through."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="2,200 replies instead of 22,000")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--replies", type=int)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    wheel = fetched()
    cases = bfcl_cases(wheel) if wheel else own_cases(rng)
    count = arguments.replies or (2_200 if arguments.quick else 22_000)
    figures = {
        "source": wheel.name if wheel else "own generator: bfcl-eval could not be fetched",
        "cases": len(cases),
        "seed": arguments.seed,
        **score(lines(cases, count, rng), arguments.seed),
        **speed(arguments.quick),
    }
    misses = figures.pop("misses")
    for miss in misses:
        print("miss:", miss)
    for name, row in figures["families"].items():
        print(name, row)
    print({key: value for key, value in figures.items() if key != "families"})
    if arguments.json:
        print(json.dumps(figures))
    return 1 if figures["wrong_calls"] else 0


if __name__ == "__main__":
    sys.exit(main())
