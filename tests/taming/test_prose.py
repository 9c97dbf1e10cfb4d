"""Arguments typed as prose, and asking again."""

from typing import Any

import pytest

from kimiya.core.exchange import (
    Defect,
    NoChoice,
    Request,
    RequiredChoice,
    ToolSpec,
    Verdict,
)
from kimiya.core.messages import user
from kimiya.errors import ConfigError
from kimiya.taming import OpenAITamer
from kimiya.taming.prose import rule_from
from kimiya.taming.retry import asked_again
from tests.taming.test_history import CARD

DECK = {
    "type": "function",
    "x-kimiya-prose": {"kind": "marp", "argument": "markdown"},
    "function": {
        "name": "make_deck",
        "parameters": {"type": "object", "properties": {"markdown": {"type": "string"}},
                       "required": ["markdown"], "additionalProperties": False},
    },
}  # fmt: skip
FRONT = "---\ntheme: gaia\nmarp: true\n---\n\n# One\n\n---\n\n# Two\n"


def tamed(
    text: str, tool: dict[str, Any], size: int, finish: str = "stop"
) -> tuple[str, OpenAITamer]:
    tamer = OpenAITamer([tool])
    out = [
        d for at in range(0, len(text), size) for d in tamer.feed({"content": text[at : at + size]})
    ]
    out += tamer.close(finish)
    return "".join(d.get("content", "") for d in out), tamer


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_typed_deck_becomes_the_call_and_is_never_shown(size: int) -> None:
    shown, tamer = tamed("Your deck:\n\n" + FRONT, DECK, size)
    assert shown == "Your deck:\n\n"
    assert [call.name for call in tamer.engine.calls] == ["make_deck"]
    assert "# Two" in tamer.engine.calls[0].arguments
    assert tamer.finish_reason == "tool_calls"
    assert "call_from_prose" in [repair.code for repair in tamer.verdict.repairs]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "text",
    ["One\n\n---\n\nTwo is a rule between texts", "---\ntitle: no deck\n---\ntext", "a --- b",
     "```\n" + FRONT + "```\nis the form", "---"],
)  # fmt: skip
def test_other_text_passes(text: str, size: int) -> None:
    shown, tamer = tamed(text, DECK, size)
    assert shown == text
    assert tamer.engine.calls == ()


def test_half_a_deck_is_asked_again() -> None:
    shown, tamer = tamed(FRONT, DECK, 5, finish="length")
    assert shown == ""
    assert tamer.verdict.outcome == "retry"


def test_bare_json_is_a_call_only_where_the_tool_says_so() -> None:
    tool = {**DECK, "x-kimiya-prose": {"json": True}}
    shown, tamer = tamed('{"markdown": "# x"}', tool, 4)
    assert (shown, [c.name for c in tamer.engine.calls]) == ("", ["make_deck"])
    plain = {k: v for k, v in DECK.items() if k != "x-kimiya-prose"}
    assert tamed('{"markdown": "# x"}', plain, 4)[1].verdict.outcome == "retry"


@pytest.mark.parametrize(
    "declared",
    ["text", {}, {"argument": "a"}, {"argument": "a", "start": ""},
     {"argument": "a", "start": "x", "pattern": "("}, {"argument": 1, "start": "x"}],
)  # fmt: skip
def test_a_bad_declaration_names_its_tool(declared: Any) -> None:
    with pytest.raises(ConfigError, match="make_deck"):
        rule_from("make_deck", declared)


def spoilt(code: str) -> Verdict:
    return Verdict("retry", defects=(Defect(code, "x"),))


REQUEST = Request("kimi", (user("go"),), (ToolSpec("read", parameters={"type": "object"}),))


def card(**facts: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(CARD, **facts)


def test_the_next_attempt_is_constrained_where_the_host_can() -> None:
    tagged = asked_again(REQUEST, spoilt("undeclared_tool"), card(grammar="structural_tag"))
    assert "functions.read:" in str(tagged.extras["response_format"])
    guided = asked_again(REQUEST, spoilt("bad_arguments"), card(grammar="guided_json"))
    assert guided.extras["guided_json"]["anyOf"][0]["properties"]["name"] == {"const": "read"}
    forced = asked_again(REQUEST, spoilt("truncated_call"), card(grammar="none"))
    assert forced.tool_choice == RequiredChoice()


def test_the_prefix_stays_and_an_empty_turn_is_asked_as_before() -> None:
    again = asked_again(REQUEST, spoilt("empty_turn"), card(grammar="structural_tag"))
    assert again is REQUEST
    constrained = asked_again(REQUEST, spoilt("undeclared_tool"), card(grammar="structural_tag"))
    assert constrained.messages is REQUEST.messages
    assert constrained.tools is REQUEST.tools


def test_a_call_without_tools_is_asked_for_prose() -> None:
    assert asked_again(REQUEST, spoilt("no_tools_declared"), CARD).tool_choice == NoChoice()
