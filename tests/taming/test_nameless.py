"""Arguments that lost their header: the one tool they fit is called, or the turn asked again."""

import json
from typing import Any

import pytest

from kimiya.taming import tame_openai_stream

ARGUMENTS = "<|tool_call_argument_begin|>"
END = "<|tool_call_end|>"
DECK = '{"markdown": "# Tea"}'


def declared(name: str, argument: str, *, is_open: bool = False) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"}},
        "required": [argument],
        **({} if is_open else {"additionalProperties": False}),
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [declared("make_deck", "markdown"), declared("web_search", "query")]
channels = pytest.mark.parametrize("channel", ["content", "reasoning_content"])


def tamed(
    channel: str, text: str, tools: list[dict[str, Any]], cut: int
) -> tuple[str, list[tuple[str, Any]], str]:
    """What is shown, the calls, and the verdict; the text comes in pieces of ``cut``."""
    pieces = [text[at : at + cut] for at in range(0, len(text), cut)]
    deltas = [{channel: piece} for piece in pieces]
    *out, last = tame_openai_stream(deltas, tools, finish="stop")
    calls = [call["function"] for delta in out for call in delta.get("tool_calls", ())]
    shown = "".join(delta.get("content", "") + delta.get("reasoning_content", "") for delta in out)
    return (
        shown,
        [(call["name"], json.loads(call["arguments"])) for call in calls],
        last["kimiya"]["verdict"],
    )


@channels
@pytest.mark.parametrize("cut", [1, 7, 10_000])
@pytest.mark.parametrize(
    "text",
    [
        f"{ARGUMENTS}{DECK}{END}",
        f"{ARGUMENTS} \n {DECK} {END}<|tool_calls_section_end|>",
        f"<|tool_calls_section_begin|>{ARGUMENTS}{DECK}{END}<|tool_calls_section_end|>",
    ],
)
def test_the_one_tool_they_fit_is_called(channel: str, cut: int, text: str) -> None:
    shown, calls, verdict = tamed(channel, f"Now the slides. {text}", TOOLS, cut)
    assert calls == [("make_deck", {"markdown": "# Tea"})]
    assert verdict == "repaired"
    assert shown.strip() == "Now the slides."


@channels
@pytest.mark.parametrize("cut", [1, 10_000])
@pytest.mark.parametrize(
    ("arguments", "tools"),
    [
        pytest.param(DECK, [*TOOLS, declared("save", "markdown")], id="two tools fit"),
        pytest.param('{"other": 1}', TOOLS, id="none fits"),
        pytest.param('{"markdown": "# T', TOOLS, id="cut"),
        pytest.param('{"markdown": 5, "query": 6}', TOOLS, id="invalid"),
    ],
)
def test_whatever_else_is_asked_again_and_not_shown(
    channel: str, cut: int, arguments: str, tools: list[dict[str, Any]]
) -> None:
    shown, calls, verdict = tamed(channel, f"Now. {ARGUMENTS}{arguments}{END}", tools, cut)
    assert calls == []
    assert verdict == "retry"
    assert shown.strip() == "Now."


@pytest.mark.parametrize("cut", [1, 10_000])
@pytest.mark.parametrize("gap", ["", " ", " " * 300])
def test_a_stray_marker_before_words_is_just_removed(cut: int, gap: str) -> None:
    shown, calls, verdict = tamed("content", f"Now {ARGUMENTS}{gap}the slides.", TOOLS, cut)
    assert (shown, calls, verdict) == (f"Now {gap}the slides.", [], "repaired")


@pytest.mark.parametrize("space", [150, 250, 400])
def test_far_away_braces_are_read_the_same_however_they_are_cut(space: int) -> None:
    text = f"Now. {ARGUMENTS}{' ' * space}{DECK}{END}"
    assert len({str(tamed("content", text, TOOLS, cut)) for cut in (1, 13, 10_000)}) == 1
