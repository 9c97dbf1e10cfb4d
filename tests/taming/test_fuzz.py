"""Fuzzing, bounded: ``KIMIYA_FUZZ_S=600 pytest -m soak tests/taming/test_fuzz.py``.

Random soups, cut at random, against every law at once: no exception, no marker shown, no undeclared
or invalid call, cutting changes nothing, and a bound on time per character.
"""

import os
import random
import re
import time
from typing import Any

import pytest

from kimiya.core.schema import compiled
from kimiya.taming.grammar import CONTROL
from kimiya.taming.replay import Places, recut, replay
from tests.taming.replies import (
    BODIES,
    FOREIGN,
    HALVES,
    HEADERS,
    MARKERS,
    NAMES,
    PLAIN,
    QUOTES,
    THINK,
    TOOLS,
)

SCHEMAS = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}
QUOTED = re.compile(r'"[^"]{0,3}<\|tool_call_end\|>[^"]{0,3}"')
"""The one piece of a soup that is JSON and quotes a marker, a character of it changed perhaps."""
PIECES = MARKERS + THINK + HALVES + HEADERS + BODIES + FOREIGN + PLAIN
WHOLE = [
    f"<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{body}<|tool_call_end|>"
    for n, name in enumerate(NAMES)
    for body in BODIES[:6]
]


def soup(rng: random.Random, *, quoting: bool) -> str:
    pool = PIECES + WHOLE * 2 + (QUOTES * 3 if quoting else [])
    text = "".join(rng.choice(pool) for _ in range(rng.randrange(0, 14)))
    if rng.random() < 0.3 and text:
        # Flip, drop or double one character: what no list of pieces would hold.
        at = rng.randrange(len(text))
        other = rng.choice(["", text[at] * 2, chr(rng.randrange(32, 500))])
        text = text[:at] + other + text[at + 1 :]
    return text


def reply(rng: random.Random, *, quoting: bool) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.randrange(4)
        if kind < 2:
            deltas.append({"content": soup(rng, quoting=quoting)})
        elif kind == 2:
            deltas.append({"reasoning_content": soup(rng, quoting=quoting)})
        else:
            function = {
                "name": rng.choice([*NAMES, "", soup(rng, quoting=quoting)]),
                "arguments": rng.choice([*BODIES, soup(rng, quoting=quoting)]),
            }
            call = {"index": rng.choice([0, 1, None]), "id": rng.choice(["", "a", "functions.r:0"]),
                    "function": function}  # fmt: skip
            deltas.append({"tool_calls": [call]})
    return deltas


def check(seed: int) -> None:
    rng = random.Random(seed)
    quoting = rng.random() < 0.5
    tools = rng.choice([TOOLS, TOOLS, TOOLS[:1], []])
    line = {"tools": tools, "deltas": reply(rng, quoting=quoting),
            "finish_reason": rng.choice(["stop", "tool_calls", "length", None])}  # fmt: skip
    outcome = replay(line)
    names = {tool["function"]["name"] for tool in tools}
    for call in outcome.calls:
        assert call["name"] in names, (seed, outcome)
        assert compiled(SCHEMAS[call["name"]]).problem(call["arguments"]) is None, (seed, outcome)
    if not quoting and tools:
        said = QUOTED.sub("", outcome.text + outcome.reasoning)
        assert CONTROL.search(said) is None, (seed, outcome)
    for places in (Places(), Places(3, random.Random(seed))):
        assert replay(line, recut(line, places)) == outcome, seed


@pytest.mark.soak
@pytest.mark.skipif("KIMIYA_FUZZ_S" not in os.environ, reason="set KIMIYA_FUZZ_S to fuzz")
def test_fuzz() -> None:
    seconds = float(os.environ["KIMIYA_FUZZ_S"])
    seed = int(os.environ.get("KIMIYA_FUZZ_SEED", "0"))
    end = time.process_time() + seconds
    tried = 0
    while time.process_time() < end:
        check(seed)
        seed += 1
        tried += 1
    print(f"{tried} replies, next seed {seed}")


@pytest.mark.parametrize("seed", range(40))
def test_a_few_seeds(seed: int) -> None:
    check(seed)
