"""Replies of every family come to what was meant: own cases, and a shared corpus if present."""

import random
from pathlib import Path
from typing import Any

import pytest

from kimiya.taming.replay import Places, lines_of, mark, recut, replay

CASES = Path(__file__).parent / "cases" / "replies.jsonl"
SHARED = Path(__file__).parents[3] / "shared" / "corpus" / "kimi_replies.jsonl"
OWN = list(lines_of(CASES.read_text(encoding="utf-8")))


@pytest.mark.parametrize("line", OWN, ids=[line["id"] for line in OWN])
def test_own_case(line: dict[str, Any]) -> None:
    outcome = replay(line)
    judged = mark(outcome, line["expected"])
    assert judged.is_right, judged.why
    assert judged.wrong_calls == 0
    for places in (Places(), Places(5, random.Random(1))):
        assert replay(line, recut(line, places)) == outcome


def test_negative_controls_are_unchanged_to_the_byte() -> None:
    for line in OWN:
        if line["family"] == "K":
            outcome = replay(line)
            assert outcome.text == line["expected"]["text"]
            assert outcome.verdict == "ok"


@pytest.mark.skipif(not SHARED.exists(), reason="no shared corpus beside the repository")
def test_shared_corpus() -> None:
    lines = list(lines_of(SHARED.read_text(encoding="utf-8")))
    marks = [(line, mark(replay(line), line["expected"])) for line in lines]
    assert sum(judged.wrong_calls for _, judged in marks) == 0
    retried = [judged for line, judged in marks if line["expected"].get("retry")]
    assert all(judged.is_right for judged in retried)
    recovered = [judged.is_right for line, judged in marks if not line["expected"].get("retry")]
    assert sum(recovered) / len(recovered) >= 0.97
    controls = [judged for line, judged in marks if line["family"] == "K"]
    assert all(judged.is_right for judged in controls)
