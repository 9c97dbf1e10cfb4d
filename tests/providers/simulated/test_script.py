"""Scripts say what they mean, and their mistakes name file, line and remedy."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.catalog.catalog import unknown_card
from kimiya.core.clock import VirtualClock
from kimiya.core.events import PartEnd, TextDelta, ToolCallDelta
from kimiya.core.exchange import Request, Response, ToolSpec, Usage
from kimiya.core.messages import Message, Text, ToolCall, ToolResult, system, user
from kimiya.errors import ConfigError, InvalidRequest, ProviderTimeout, RateLimited
from kimiya.providers.simulated import SimulatedProvider, load_script, parse_script, read_script
from kimiya.providers.transport import Timeouts

CARD = unknown_card("simulated", "kimi-simulated", "openai_chat")
RESULT = (
    Message("assistant", (ToolCall("functions.f:0", "f", "{}"),)),
    Message("tool", (ToolResult("functions.f:0", (Text("it is 7"),)),)),
)


def provider(script: str, **options: object) -> SimulatedProvider:
    return SimulatedProvider("sim", parse_script(script), **options)  # type: ignore[arg-type]


def request(*messages: Message, tools: tuple[str, ...] = (), stream: bool = False) -> Request:
    return Request(
        "kimi", messages or (user("hello"),), tools=tuple(map(ToolSpec, tools)), stream=stream
    )


async def say(script: str, asked: Request | None = None) -> Response:
    return await provider(script).complete(asked or request(), CARD)


CONDITIONS = [
    ("user contains 'ell'", request(), True),
    ('user contains "x"', request(), False),
    ("user contains 'a and b'", request(user("a and b")), True),
    ("user matches /^H/i", request(), True),
    ("user matches /^H/", request(), False),
    ("user matches /a\\/b/", request(user("a/b")), True),
    ("user contains 'first'", request(user("first"), *RESULT, user("second")), False),
    ("system contains 'calm'", request(system("Be calm."), user("x")), True),
    ("model matches /^kimi$/", request(), True),
    ("result contains '7'", request(user("x"), *RESULT), True),
    ("tool result", request(user("x"), *RESULT), True),
    ("tool result", request(), False),
    ("tool result", request(user("x"), *RESULT, Message("assistant", (Text("ok"),))), False),
    ("no tool result", request(), True),
    ("not tool result", request(user("x"), *RESULT), False),
    ("tools", request(tools=("f",)), True),
    ("no tools", request(tools=("f",)), False),
    ("tool f", request(tools=("e", "f")), True),
    ("tool f", request(tools=("ff",)), False),
    ("turn 1", request(), True),
    ("turn 2", request(user("x"), *RESULT), True),
    ("request 1", request(), True),
    ("request 2", request(), False),
    ("stream", request(stream=True), True),
    ("stream", request(), False),
    ("turn 1 and user contains 'x' and not stream", request(user("x")), True),
    ("turn 1 and user contains 'y'", request(user("x")), False),
]


@pytest.mark.parametrize(("condition", "asked", "holds"), CONDITIONS)
async def test_conditions(condition: str, asked: Request, holds: bool) -> None:
    script = f"reply when {condition}\n  text: yes\nreply\n  text: no"
    assert (await say(script, asked)).message.text == ("yes" if holds else "no")


async def test_blanks_are_filled_and_other_braces_left() -> None:
    script = (
        "reply when user matches /make (\\w+) of (\\w+)/\n"
        "  text: {1}/{2}/{3}/{user}/{turn}/{request}/{model}/{nobody}/{}\n"
        "  raw: {user}"
    )
    response = await say(script, request(user("make bread of rye")))
    assert response.message.text == ("bread/rye/{3}/make bread of rye/1/1/kimi/{nobody}/{}{user}")


@given(st.text())
def test_what_fills_arguments_is_escaped(text: str) -> None:
    script = parse_script('reply\n  call f: {"said": "{user}", "n": {turn}}')
    host = SimulatedProvider("sim", script).host
    actions = host.perform(request(user(text))).actions
    arguments = "".join(a.arguments for a in actions if isinstance(a, ToolCallDelta))
    assert json.loads(arguments) == {"said": text, "n": 1}


async def test_text_over_several_lines_keeps_its_shape() -> None:
    script = """
reply
  text:
    def f():
        # not a comment of the script
        return 1

    end

  raw: first
    second

"""
    response = await say(script)
    assert response.message.text == (
        "def f():\n    # not a comment of the script\n    return 1\n\nendfirst\nsecond"
    )


async def test_everything_a_reply_can_say() -> None:
    script = """
# a comment
ids: call
reply
  reasoning: hm
  text: one
  call f: {
      "a": [1,
        2]}
  text: two
  usage: input=9 output=4 cache_read=3 cache_write=1 reasoning=2
  finish: length
"""
    response = await say(script)
    kinds = [type(part).__name__ for part in response.parts]
    assert kinds == ["Reasoning", "Text", "ToolCall", "Text"]
    call = response.message.tool_calls[0]
    assert call.call_id.startswith("call_")
    assert len(call.call_id) == len("call_") + 24
    assert response.usage == Usage(9, 4, 3, 1, 0, 2)
    assert response.finish_reason == "length"


ID_CASES = [("canonical", "functions.f:1"), ("toolu", "toolu_"), ("tooluse", "tooluse_")]


@pytest.mark.parametrize(("style", "beginning"), ID_CASES)
async def test_id_styles(style: str, beginning: str) -> None:
    # Canonical ids count calls through the whole conversation.
    response = await say(f"ids: {style}\nreply\n  call f: {{}}", request(user("x"), *RESULT))
    assert response.message.tool_calls[0].call_id.startswith(beginning)


async def test_every_part_of_a_clean_reply_is_ended() -> None:
    sim = provider("reply\n  reasoning: a\n  text: b\n  text: c\n  call f: {}\n  text: d")
    events = [event async for event in sim.stream(request(), CARD)]
    assert [event.part for event in events if isinstance(event, PartEnd)] == [0, 1, 2, 3]


async def test_an_unknown_finish_reason_and_none() -> None:
    assert (await say("reply\n  finish: tired")).raw_finish_reason == "tired"
    silent = await say("reply\n  finish:")
    assert (silent.finish_reason, silent.raw_finish_reason) == ("unknown", None)


async def test_no_usage() -> None:
    assert (await say("reply\n  text: x\n  usage: none")).usage is None


async def test_usage_is_estimated_where_the_script_is_silent() -> None:
    response = await say("reply\n  text: four words of text")
    assert response.usage is not None
    assert response.usage.output_tokens == 5
    assert response.usage.input_tokens > 0


async def test_once() -> None:
    sim = provider("reply once\n  error: 429 c retry_after=250ms\nreply\n  text: fine")
    with pytest.raises(RateLimited) as caught:
        await sim.complete(request(), CARD)
    assert caught.value.retry_after_s == 0.25
    assert (await sim.complete(request(), CARD)).message.text == "fine"


async def test_a_request_nothing_fits() -> None:
    with pytest.raises(InvalidRequest, match=r"no reply of script fits .*turn 1.*'hello'"):
        await say("reply when turn 2\n  text: x")


async def test_pieces_and_delays() -> None:
    clock = VirtualClock()
    sim = provider("pieces: 2\ndelay: 100ms\nreply\n  text: abcde", clock=clock)
    seen: list[tuple[float, str]] = []

    async def read() -> None:
        async for event in sim.stream(request(), CARD):
            if isinstance(event, TextDelta):
                seen.append((round(clock.monotonic(), 3), event.text))

    reading = asyncio.ensure_future(read())
    await clock.advance(1)
    await reading
    assert seen == [(0.0, "ab"), (0.1, "cd"), (0.2, "e")]


async def test_a_stall_shorter_than_the_limit_passes() -> None:
    clock = VirtualClock()
    sim = provider("reply\n  stall: 9s\n  text: x", clock=clock, timeouts=Timeouts(head_s=10))
    asking = asyncio.ensure_future(sim.complete(request(), CARD))
    await clock.advance(8.9)
    assert not asking.done()
    await clock.advance(0.2)
    assert (await asking).message.text == "x"


async def test_a_stall_longer_than_the_limit_is_a_timeout() -> None:
    clock = VirtualClock()
    sim = provider("reply\n  stall: forever", clock=clock, timeouts=Timeouts(head_s=10))
    asking = asyncio.ensure_future(sim.complete(request(), CARD))
    await clock.advance(10.1)
    with pytest.raises(ProviderTimeout, match="10 s"):
        await asking


async def test_without_a_script_the_host_echoes() -> None:
    response = await SimulatedProvider("sim", load_script(None)).complete(request(), CARD)
    assert response.message.text == "hello"


MISTAKES = [
    ("", 1, "no reply"),
    ("# only a comment", 1, "no reply"),
    ("  text: x", 1, "a step without a reply"),
    ("reply\n  text: x\nreply\n  text: y", 3, "never reached"),
    ("reply\n  text: x\n   raw: y\n text: z", 4, "indentation"),
    ("reply\n  shout: x", 2, "'shout' is nothing"),
    ("reply\n  text", 2, "not understood"),
    ("reply when wind\n  text: x", 1, "'wind' is no condition"),
    ("reply if turn 1\n  text: x", 1, "no condition"),
    ("reply when turn zero\n  text: x", 1, "not a whole number"),
    ("reply when turn 0\n  text: x", 1, "no turn 0"),
    ("reply when user contains x\n  text: x", 1, "not quoted"),
    ("reply when user matches x\n  text: x", 1, "no pattern"),
    ("reply when user matches /(/\n  text: x", 1, "no pattern"),
    ("reply\n  call f: {'a': 1}", 2, "not JSON"),
    ("reply\n\n  usage: input=many", 3, "not a whole number"),
    ("reply\n  usage: tokens=1", 2, "no token count"),
    ("reply\n  usage: input", 2, "has no value"),
    ("reply\n  error: 200", 2, "no error"),
    ("reply\n  error: soon", 2, "no error"),
    ("reply\n  error: 429 c retry_after=soon", 2, "no time"),
    ("reply\n  html: 99", 2, "no status"),
    ("reply\n  stall: a while", 2, "no time"),
    ("reply\n  fault: Z", 2, "no fault"),
    ("reply\n  pieces: 0", 2, "needs a character"),
    ("reply\n  ids: mine", 2, "no style"),
    ("seed: x\nreply", 1, "not a whole number"),
    ("models: ,\nreply", 1, "no model"),
    ("faults: A=0.9 B=0.2\nreply", 1, "more than all"),
    ("faults: A=2\nreply", 1, "more than all"),
    ("faults: Q=0.1\nreply", 1, "no fault"),
    ("faults: A\nreply", 1, "has no value"),
    ("reply when turn 1\n  text: x\nseed: 1", 3, "after a reply"),
    ("seed: 1\n  text: x", 1, "takes no steps"),
    ("unknown: 1\nreply", 1, "nothing a script knows"),
]


@pytest.mark.parametrize(("text", "line", "message"), MISTAKES)
def test_mistakes_name_file_line_and_remedy(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_script(text, "my.sim")
    assert (caught.value.file, caught.value.line) == ("my.sim", line)
    assert caught.value.remedy


@given(st.text(alphabet=st.sampled_from("reply when:\n /'\"and{}=0.1text call#error 429cut\t")))
def test_any_text_is_a_script_or_a_named_mistake(text: str) -> None:
    mistake: ConfigError | None = None
    try:
        parse_script(text)
    except ConfigError as error:
        mistake = error
    assert mistake is None or mistake.line is not None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.sim"):
        read_script(tmp_path / "none.sim")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "image.sim"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_script(path)


def test_the_examples_of_the_documentation_are_scripts() -> None:
    page = (Path(__file__).parents[3] / "docs" / "simulate.md").read_text(encoding="utf-8")
    blocks = page.split("```")[1::2]
    scripts = [block for block in blocks if "\nreply" in block and "import" not in block]
    assert len(scripts) == 2
    for script in scripts:
        assert parse_script(script).replies
