"""Every family of faults strikes, by seed, at its rate, and only what it can befall."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.catalog.catalog import unknown_card
from kimiya.core.clock import VirtualClock
from kimiya.core.events import Finish, ReasoningDelta, StreamStart, TextDelta, ToolCallDelta
from kimiya.core.exchange import Request, Response, ToolSpec
from kimiya.core.fold import fold
from kimiya.core.messages import ToolCall, user
from kimiya.errors import ProviderError, RemoteProtocolError
from kimiya.providers.simulated import SimulatedProvider, parse_script
from kimiya.providers.simulated.damage import FORMS, Clean
from kimiya.providers.simulated.faults import FAMILIES, OUTAGES
from kimiya.providers.simulated.script import Cut, Fail, Pause

CARD = unknown_card("simulated", "kimi-simulated", "openai_chat")
ASKED = Request("kimi", (user("hi"),), tools=(ToolSpec("read_file"), ToolSpec("list_dir")))

CALLING = """
reply
  reasoning: I look.
  text: Looking.
  call read_file: {"path": "a.txt"}
  call list_dir: {"path": "."}
"""
TALKING = "reply\n  reasoning: I think.\n  text: Hello."


def struck(fault: str, script: str = CALLING) -> tuple[Response, str | None]:
    """A reply with a fault, folded, and the fault that struck."""
    clock = VirtualClock()
    provider = SimulatedProvider("sim", parse_script(f"{script}\n  fault: {fault}"), clock=clock)
    performance = provider.host.perform(ASKED)
    return fold(performance.actions), performance.performed.fault  # type: ignore[arg-type]


def said(response: Response) -> dict[str, object]:
    message = response.message
    return {
        "reasoning": message.reasoning,
        "text": message.text,
        "calls": [(call.name, call.arguments) for call in message.tool_calls],
        "finish": response.finish_reason,
    }


CLEAN_CALLS = said(struck("K")[0])
CLEAN_TALK = {"reasoning": "I think.", "text": "Hello.", "calls": [], "finish": "stop"}


def test_k_leaves_replies_with_calls_alone() -> None:
    assert struck("K") == (struck("K")[0], None)
    assert CLEAN_CALLS["calls"] == [
        ("read_file", '{"path": "a.txt"}'),
        ("list_dir", '{"path": "."}'),
    ]


FRAMINGS = ("H.fragments", "H.repeats", "H.empties")
"""What they break is seen in the deltas, not in the reply they fold to."""
CALL_FORMS = [name for name, form in FORMS.items() if form.need == "calls"]


@pytest.mark.parametrize("name", [n for n in CALL_FORMS if n not in FRAMINGS])
def test_each_form_damages_a_call(name: str) -> None:
    response, fault = struck(name)
    assert fault == name
    assert said(response) != CLEAN_CALLS


@pytest.mark.parametrize("name", CALL_FORMS)
def test_a_form_for_calls_leaves_talk_alone(name: str) -> None:
    response, fault = struck(name, TALKING)
    assert fault is None
    assert said(response) == CLEAN_TALK


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.need == "text"])
def test_controls_keep_the_words_and_make_no_call(name: str) -> None:
    response, fault = struck(name, TALKING)
    assert fault == name
    assert "Hello." in response.message.text
    assert response.message.text != "Hello."
    assert response.finish_reason == "stop"


LEAKS = [
    ("A.plain", "reasoning", ["<|tool_calls_section_begin|>", "functions.read_file:0", '"a.txt"']),
    ("A.think", "reasoning", ["</think>"]),
    ("B.spaced", "text", ["<|tool_call_begin|> functions.list_dir:1 <|tool_call_argument_begin|>"]),
    ("C.no_begin", "text", ["functions.read_file:0<|tool_call_argument_begin|>"]),
    ("C.singular", "text", ["<|tool_call_section_begin|>"]),
    ("D.no_index", "text", ["<|tool_call_begin|>functions.read_file<|tool_call_arg"]),
    ("D.no_prefix", "text", ["<|tool_call_begin|>read_file:0<|"]),
    ("D.opaque_id", "text", ["<|tool_call_begin|>tooluse_"]),
    ("G.function", "text", ['<function=read_file>{"path": "a.txt"}</function>']),
    ("G.invoke", "text", ['<invoke name="read_file"><parameter name="path">a.txt</parameter>']),
    ("G.json", "text", ['{"name":"read_file","arguments":"{\\"path\\": \\"a.txt\\"}"}']),
    ("G.fenced", "text", ['```json\n{"name":"list_dir","arguments":{"path":"."}}\n```']),
    ("G.k3", "text", ['<|open|>call tool="read_file" index="1"<|sep|>']),
    ("J.leaked", "text", ["functions.open_portal:0"]),
]


@pytest.mark.parametrize(("name", "channel", "pieces"), LEAKS)
def test_what_leaks_where(name: str, channel: str, pieces: list[str]) -> None:
    response, _ = struck(name)
    words = str(said(response)[channel])
    assert [piece for piece in pieces if piece not in words] == []
    assert response.message.tool_calls == ()
    assert response.finish_reason == "stop"


def test_leaked_ids_are_the_models_own_whatever_the_host_writes() -> None:
    response, _ = struck("B.plain", f"ids: toolu\n{CALLING}")
    assert "functions.list_dir:1<|" in response.message.text
    assert "toolu_" not in response.message.text


ARGUMENTS = [
    ("F.double", '"{\\"path\\": \\"a.txt\\"}"'),
    ("F.no_brace", '{"path": "a.txt"'),
    ("F.comma", '{"path": "a.txt",}'),
    ("F.python", "{'path': 'a.txt'}"),
    ("F.marker", '{"path":<|tool_call_end|> "a.txt"}'),
    ("F.cut", '{"path": "a'),
]


@pytest.mark.parametrize(("name", "expected"), ARGUMENTS)
def test_damaged_arguments(name: str, expected: str) -> None:
    assert struck(name)[0].message.tool_calls[0].arguments == expected


NAMES = [
    ("D.dotted", "functions.read_file:0"),
    ("D.underscored", "functions_read_file_2"),
    ("D.tailed", "read_file<|tooluse_end|><|ASSISTANT|>"),
    ("D.case", "READ_FILE"),
    (
        "E.glued",
        ' functions-read_file-2 {"path": "a.txt"} <|tool_call_end|> <|tool_calls_section_end|>',
    ),
    ("J.native", "open_portal"),
]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_damaged_names(name: str, expected: str) -> None:
    assert struck(name)[0].message.tool_calls[0].name == expected


def deltas(fault: str) -> list[ToolCallDelta]:
    provider = SimulatedProvider("sim", parse_script(f"pieces: 6\n{CALLING}\n  fault: {fault}"))
    actions = provider.host.perform(ASKED).actions
    return [action for action in actions if isinstance(action, ToolCallDelta)]


def test_framing() -> None:
    assert [d.name for d in deltas("H.fragments") if d.name] == ["read", "_file", "list", "_dir"]
    assert {d.name for d in deltas("H.repeats")} == {"read_file", "list_dir"}
    assert len(deltas("H.repeats")) > 2
    assert any(d == ToolCallDelta(d.part) for d in deltas("H.empties"))
    for fault in FRAMINGS:
        assert said(struck(fault)[0]) == CLEAN_CALLS


def test_framing_lies_about_the_end() -> None:
    assert struck("H.no_finish")[0].finish_reason == "unknown"
    assert struck("H.says_stop")[0].finish_reason == "stop"
    assert len(struck("H.says_stop")[0].message.tool_calls) == 2
    silent, _ = struck("H.says_calls")
    assert (silent.finish_reason, silent.message.tool_calls) == ("tool_calls", ())


def test_nothing_usable() -> None:
    assert struck("I.empty")[0].parts == ()
    assert said(struck("I.think_only")[0])["text"] == ""
    assert said(struck("I.think_only")[0])["reasoning"] == "I look."
    assert set(struck("I.marks")[0].message.text) == {"!"}


def test_an_undeclared_name_is_really_undeclared() -> None:
    clean = Clean("", "", (), frozenset({"open_portal", "open_portal_2"}), Finish("stop"))
    (call,) = FORMS["J.native"].damage(clean, random.Random(1)).deltas
    assert isinstance(call, ToolCallDelta)
    assert call.name not in clean.declared


@given(
    name=st.sampled_from(sorted(FORMS)),
    arguments=st.one_of(st.text(), st.just("{}"), st.just('{"a": [1, {"b": null}]}')),
    text=st.text(),
    seed=st.integers(),
)
def test_any_reply_can_be_damaged(name: str, arguments: str, text: str, seed: int) -> None:
    clean = Clean(text, text, (ToolCall("x", "f", arguments),), frozenset({"f"}), Finish("stop"))
    damaged = FORMS[name].damage(clean, random.Random(seed))
    assert fold([*damaged.deltas, damaged.finish])


def test_every_family_has_forms_and_every_form_a_family() -> None:
    assert {name[0] for name in FORMS} == set(FAMILIES)


RATES = "A=0.05 B=0.05 C=0.05 D=0.05 E=0.05 F=0.05 G=0.05 H=0.05 I=0.05 J=0.05"
OUTAGE_RATES = "429=0.05 5xx=0.05 stall=0.05 cut=0.05"


def faults(seed: int, count: int = 400) -> list[str | None]:
    script = f"faults: {RATES} {OUTAGE_RATES}\nretry_after: 3s\n{CALLING}"
    host = SimulatedProvider("sim", parse_script(script), seed).host
    return [host.perform(ASKED).performed.fault for _ in range(count)]


def test_the_same_seed_gives_the_same_faults() -> None:
    assert faults(7) == faults(7)
    assert faults(7) != faults(8)


def test_faults_do_not_depend_on_what_is_asked() -> None:
    script = parse_script(f"faults: {RATES}\n{CALLING}")
    hosts = [SimulatedProvider("sim", script, 3).host for _ in range(2)]
    other = Request("kimi", (user("else"),), tools=ASKED.tools)
    assert [hosts[0].perform(ASKED).performed.fault for _ in range(50)] == [
        hosts[1].perform(other).performed.fault for _ in range(50)
    ]


def test_rates_are_kept() -> None:
    counted = Counter(fault.partition(".")[0] if fault else "clean" for fault in faults(11, 4000))
    assert set(counted) == {*"ABCDEFGHIJ", *OUTAGES, "clean"}
    for fault, count in counted.items():
        expected = 0.3 if fault == "clean" else 0.05
        assert abs(count / 4000 - expected) < 0.02, (fault, count)


def test_a_script_has_its_own_seed_and_the_caller_the_last_word() -> None:
    script = parse_script("seed: 5\nreply")
    assert SimulatedProvider("sim", script).host.seed == 5
    assert SimulatedProvider("sim", script, 6).host.seed == 6
    assert SimulatedProvider("sim", script, 0).host.seed == 0


def outage(fault: str) -> list[object]:
    script = f"faults: {fault}=1\nretry_after: 3s\n{CALLING}"
    return list(SimulatedProvider("sim", parse_script(script)).host.perform(ASKED).actions)


def test_outages() -> None:
    assert outage("429") == [Fail(429, "rate_limit_exceeded", "simulated: too many requests", 3.0)]
    (down,) = outage("5xx")
    assert isinstance(down, Fail)
    assert down.status in (500, 502, 503, 529)
    stalled = outage("stall")
    assert stalled.count(Pause(None)) == 1
    assert isinstance(stalled[-1], Finish)
    cut = outage("cut")
    assert cut[-1] == Cut()
    assert not any(isinstance(action, Finish) for action in cut)


async def test_a_fault_of_a_reply_strikes_every_time_and_is_told() -> None:
    provider = SimulatedProvider("sim", parse_script(f"{CALLING}\n  fault: 5xx"))
    for _ in range(3):
        with pytest.raises(ProviderError):
            await provider.complete(ASKED, CARD)
    assert [p.fault for p in provider.host.performed] == ["5xx"] * 3


async def test_pauses_and_cuts_of_a_damaged_reply_still_happen() -> None:
    provider = SimulatedProvider("sim", parse_script(f"{CALLING}\n  fault: B\n  cut"))
    seen = []

    async def read() -> None:
        async for event in provider.stream(ASKED, CARD):
            seen.append(event)

    with pytest.raises(RemoteProtocolError):
        await read()
    assert isinstance(seen[0], StreamStart)
    assert any(isinstance(event, ReasoningDelta) for event in seen)
    assert any(isinstance(event, TextDelta) for event in seen)
