"""The laws of taming, over generated replies (tests/taming/replies.py)."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kimiya.core.schema import compiled
from kimiya.taming.grammar import CONTROL
from kimiya.taming.replay import Outcome, Places, recut, replay
from tests.taming.replies import TOOLS, as_deltas, lines, plain_piece, quoting_piece

MANY = settings(max_examples=100, deadline=None)
SCHEMAS = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}


@given(lines(quoting_piece), st.integers(0, 2**32))
@MANY
def test_cutting_anywhere_changes_nothing(line: dict[str, Any], seed: int) -> None:
    whole = replay(line)
    for places in (Places(), Places(1, random.Random(seed)), Places(4, random.Random(seed))):
        deltas = recut(line, places)
        assert replay(line, deltas) == whole, deltas


@given(lines(quoting_piece))
@MANY
def test_no_call_is_undeclared_or_invalid(line: dict[str, Any]) -> None:
    outcome = replay(line)
    names = {tool["function"]["name"] for tool in line["tools"]}
    for call in outcome.calls:
        assert call["name"] in names
        assert compiled(SCHEMAS[call["name"]]).problem(call["arguments"]) is None
    if outcome.calls:
        assert outcome.finish_reason in ("tool_calls", "content_filter")
    if outcome.verdict in ("retry", "failed"):
        assert not outcome.calls


@given(lines(plain_piece))
@MANY
def test_no_marker_reaches_text_or_reasoning(line: dict[str, Any]) -> None:
    line = {**line, "tools": TOOLS}
    outcome = replay(line)
    said = _without_json(outcome.text)
    assert CONTROL.search(said) is None, outcome
    assert CONTROL.search(_without_json(outcome.reasoning)) is None, outcome
    for call in outcome.calls:
        assert CONTROL.search(str(call["arguments"])) is None


def _without_json(text: str) -> str:
    """Text without the one piece of the soup that is JSON and quotes a marker."""
    return text.replace('{"path": "<|tool_call_end|>"}', "")


@given(lines(plain_piece))
@MANY
def test_taming_a_tamed_reply_changes_nothing(line: dict[str, Any]) -> None:
    once = replay({**line, "tools": TOOLS})
    if once.verdict in ("retry", "failed"):
        return
    again = replay({"tools": TOOLS, "deltas": as_deltas(once), "finish_reason": once.finish_reason})
    assert _shown(again) == _shown(once), again


def _shown(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.calls, outcome.text, outcome.reasoning, outcome.finish_reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
tool_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,40}", fullmatch=True)
prose = st.text(st.characters(exclude_characters="<{`\"'“◁", exclude_categories=["Cs"])).filter(
    lambda text: (
        "functions" not in text
        and "ool" not in text
        and not text.strip().startswith(("!", "?", "."))
    )
)


@given(
    st.lists(st.tuples(tool_names, st.dictionaries(st.text(), json_values)), max_size=3),
    prose,
    prose,
    st.integers(0, 2**32),
)
@MANY
def test_a_well_formed_reply_passes_unchanged(
    calls: list[tuple[str, dict[str, Any]]], text: str, reasoning: str, seed: int
) -> None:
    import json

    if any(CONTROL.search(str(arguments)) for _, arguments in calls):
        return
    tools = [{"function": {"name": name, "parameters": {"type": "object"}}} for name, _ in calls]
    shuffled = list(tools)
    random.Random(seed).shuffle(shuffled)
    deltas: list[dict[str, Any]] = []
    if reasoning:
        deltas.append({"reasoning_content": reasoning})
    if text:
        deltas.append({"content": text})
    for index, (name, arguments) in enumerate(calls):
        function = {"name": name, "arguments": json.dumps(arguments)}
        deltas.append({"tool_calls": [{"index": index, "id": f"c{index}", "function": function}]})
    finish = "tool_calls" if calls else "stop"
    outcome = replay({"tools": shuffled, "deltas": deltas, "finish_reason": finish})
    if not calls and not text.strip():
        assert outcome.verdict == "retry"
        return
    assert outcome.verdict == "ok", outcome
    assert outcome.text == text
    assert outcome.reasoning == reasoning
    assert [(c["name"], c["arguments"]) for c in outcome.calls] == calls
    assert outcome.finish_reason == finish
