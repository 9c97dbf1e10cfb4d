"""Each rule by a case that breaks it and one that does not, and what it is said to have cost."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from kimiya.caching.linter import RULES, Linter, findings_json, findings_of
from kimiya.catalog.catalog import Catalog
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import Breakpoint, Message, Text, system, user
from kimiya.errors import RemoteProtocolError

CATALOG = Catalog.load({})
CLAUDE = CATALOG.find("anthropic", "claude-sonnet-4-5")
KIMI = CATALOG.find("moonshot", "kimi-k2.6")
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
LONG = "A rule that holds. " * 2_000
"""9,500 tokens by estimate."""
MARK = Breakpoint()
ME = CallContext(key_id="me", conversation="one")


def prompt(text: str, mark: Breakpoint | None = MARK) -> Message:
    return Message("system", (Text(text, mark),))


def ask(*messages: Message, tools: tuple[ToolSpec, ...] = ()) -> Request:
    return Request("m", messages, tools)


def lint(*requests: Request, card=CLAUDE, gap_s: float = 60):
    linter = Linter()
    for number, request in enumerate(requests):
        linter.feed(request, card, ME, NOW + timedelta(seconds=gap_s * number))
    return linter.findings


def codes(*requests: Request, **options) -> list[str]:
    return [finding.code for finding in lint(*requests, **options)]


A, B = ToolSpec("a", LONG), ToolSpec("b", parameters={"x": 1, "y": 2})
B2 = replace(B, parameters={"y": 2, "x": 1})
HI, YES, MORE = user("Hi"), Message("assistant", (Text("Yes."),)), user("More")


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([ask(prompt(LONG), HI), ask(prompt(LONG), HI, YES, MORE)], []),
        ([ask(prompt(f"Now 14:03. {LONG}"), HI)], ["PC001"]),
        ([ask(Message("system", (Text(LONG, MARK), Text("Now 14:03."))), HI)], []),
        ([ask(prompt(f"{LONG} v1"), HI), ask(prompt(f"{LONG} v2"), HI, YES, MORE)], ["PC001"]),
        ([ask(HI, tools=(A, B)), ask(HI, tools=(B, A))], ["PC002"]),
        ([ask(HI, tools=(A, B)), ask(HI, tools=(A,))], []),
        ([ask(HI, tools=(A, B)), ask(HI, tools=(A, B2))], ["PC003"]),
        ([ask(prompt("short"), HI)], ["PC004"]),
        ([ask(*(prompt(LONG) for _ in range(5)), HI)], ["PC005"]),
        ([ask(prompt(f"{n}{LONG}", None), prompt("x"), HI) for n in range(4)], ["PC006"]),
        ([ask(HI, YES, MORE, YES), ask(user("Ho"), YES, MORE, YES, HI)], ["PC008"]),
        ([ask(HI, YES, MORE), ask(HI, YES, user("Rather this"))], []),
        (
            [ask(Message("system", (Text(LONG, MARK), Text(LONG, Breakpoint("1h")))), HI)],
            ["PC009"],
        ),
        ([ask(Message("system", (Text(LONG, Breakpoint("1h")), Text(LONG, MARK))), HI)], []),
    ],
)
def test_rules(requests, expected) -> None:
    assert [code for code in codes(*requests) if code in expected or not expected] == expected


def test_hosts_without_marks() -> None:
    assert codes(ask(prompt(LONG), HI), card=KIMI) == ["PC010"]
    assert codes(ask(prompt(f"Now 14:03. {LONG}", None), HI), card=KIMI) == ["PC001"]
    assert codes(ask(prompt(LONG, None), HI), card=KIMI) == []


@pytest.mark.parametrize(
    ("gap_s", "ttl", "expected"),
    [(60, None, []), (600, None, ["PC007"]), (600, "1h", []), (7_200, None, [])],
)
def test_lifetimes(gap_s, ttl, expected) -> None:
    request = ask(prompt(LONG, Breakpoint(ttl)), HI)
    assert codes(request, request, gap_s=gap_s) == expected


def test_a_finding_names_place_offset_cost_and_mend() -> None:
    first, second = (ask(prompt(f"Be kind. Now 14:0{n}. {LONG}"), HI) for n in (3, 4))
    (finding,) = lint(first, second)
    assert (finding.code, finding.path, finding.offset) == ("PC001", "messages[0].parts[0]", 13)
    assert finding.count == 2
    assert "14:04" in finding.detail
    assert finding.mend == RULES["PC001"]
    # 9,516 tokens at 3 dollars a million, of which a read would have cost a tenth
    assert finding.lost_usd is not None
    assert abs(finding.lost_usd - Decimal("0.0257")) < Decimal("0.0002")


def test_the_difference_is_found_to_the_character() -> None:
    first, second = (ask(prompt(f"{LONG}Mood: {mood}."), *more) for mood, more in
                     (("glad", (HI,)), ("gloomy", (HI, YES, MORE))))  # fmt: skip
    (finding,) = lint(first, second)
    assert finding.offset == len(LONG) + len("Mood: gl")


def test_an_unpriced_model_is_unpriced() -> None:
    (finding,) = lint(ask(prompt("short"), HI), card=replace(CLAUDE, prices=()))
    assert finding.lost_usd is None


def test_findings_travel_as_json() -> None:
    found = lint(ask(prompt("short \ud800"), HI), ask(prompt("Now 14:03 \x00"), HI))
    assert findings_of(findings_json(found)) == found
    for bad in (b"", b"{}", b"[1]", b"\xff", b"<html>"):
        with pytest.raises(RemoteProtocolError):
            findings_of(bad)


def test_a_linter_forgets_and_never_grows() -> None:
    linter = Linter(conversations=4, most_findings=10)
    for number in range(200):
        context = CallContext(conversation=f"{number}")
        messages = (*[prompt("x")] * (number % 20), HI)
        linter.feed(ask(*messages), CLAUDE, context, NOW)
    assert len(linter.findings) <= 10
    assert len(linter._seen) <= 4


@pytest.mark.parametrize(
    "request_",
    [ask(), ask(Message("user", ())), ask(system("\ud800"), user("\x00" * 9_000))],
)
def test_odd_requests_are_no_findings(request_) -> None:
    assert codes(request_, request_) == []
