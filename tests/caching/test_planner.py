"""Where marks go, call by call."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from kimiya.caching import MemoryHistory, Planner
from kimiya.caching.host_cache import HostCache
from kimiya.caching.prefix import marked, read_prefix
from kimiya.catalog.catalog import Catalog
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request, ToolSpec, Usage
from kimiya.core.messages import (
    Breakpoint,
    Image,
    Inline,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    system,
    user,
)

CATALOG = Catalog.load({})
CLAUDE = CATALOG.find("bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0")
KIMI = CATALOG.find("moonshot", "kimi-k2.6")
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
LONG = "A rule that holds. " * 2_000
ME = CallContext(key_id="me")


class Desk:
    """A planner, a host that bills exactly, and a clock."""

    def __init__(self, card=CLAUDE) -> None:
        self.planner, self.host, self.card = Planner(MemoryHistory()), HostCache(card.cache), card
        self.now = NOW

    def call(self, request: Request, gap_s: float = 10, context: CallContext = ME) -> Usage:
        self.now += timedelta(seconds=gap_s)
        self.planned = self.planner.plan(request, self.card, context, self.now)
        blocks = read_prefix(self.planned.request, "x").blocks
        marks = {at: b.mark.ttl or "5m" for at, b in enumerate(blocks) if b.mark}
        usage = self.host.bill(blocks, marks, self.now.timestamp())
        self.planner.observe(self.planned.prefix, self.card, usage, self.now)
        return usage

    @property
    def marks(self) -> list[str]:
        prefix = read_prefix(self.planned.request, "x")
        return [prefix.blocks[at].path for at in marked(prefix)]


def test_an_agents_loop_reads_all_but_its_newest_step() -> None:
    desk = Desk()
    tools = (ToolSpec("look", "Looks.", {"type": "object"}),)
    messages = [system(LONG), user("Go. " * 50)]
    read = []
    for step in range(6):
        usage = desk.call(Request("m", tuple(messages), tools))
        read.append(usage.cache_read_tokens / usage.input_tokens)
        assert usage.fresh_input_tokens == 0
        thought = Reasoning("hm", signature="s")
        messages.append(Message("assistant", (thought, ToolCall(f"c{step}", "look", "{}"))))
        messages.append(Message("tool", (ToolResult(f"c{step}", (Text("seen " * 100),)),)))
    assert read[0] == 0
    assert min(read[1:]) > 0.9


def test_a_question_that_is_never_repeated_is_no_longer_written() -> None:
    desk = Desk()
    for number in range(12):
        usage = desk.call(Request("m", (system(LONG), user(f"Question {number}. " * 40))), 70)
    assert desk.marks == ["messages[0].parts[0]"]
    assert usage.cache_read_tokens > 9_000
    assert usage.cache_write_tokens == 0


def test_lone_calls_stop_being_written_and_start_again_when_they_repeat() -> None:
    desk = Desk()
    for number in range(12):
        usage = desk.call(Request("m", (user(f"{number} {LONG}"),)), 400)
    assert usage.cache_write_tokens == 0
    for _ in range(2):
        desk.call(Request("m", (user(LONG),)), 20)
    assert desk.call(Request("m", (user(LONG),)), 20).cache_read_tokens > 9_000


def test_another_keys_habits_are_not_mine() -> None:
    desk = Desk()
    for number in range(12):
        desk.call(Request("m", (user(f"{number} {LONG}"),)), 400)
    other = CallContext(key_id="other")
    assert desk.call(Request("m", (user("x" + LONG),)), 10, other).cache_write_tokens > 0


def test_slow_turns_come_to_be_written_for_an_hour() -> None:
    desk = Desk()
    messages = [system(LONG)]
    ttls = []
    for number in range(6):
        messages.append(user(f"Question {number}. " * 40))
        desk.call(Request("m", tuple(messages)), 1_000)
        prefix = read_prefix(desk.planned.request, "x")
        ttls.append([prefix.blocks[at].mark.ttl for at in marked(prefix)])
        messages.append(Message("assistant", (Text("Answer. " * 40),)))
    assert ttls[0] == [None, None]
    assert set(ttls[-1]) == {"1h"}


def test_a_clock_in_the_prompt_keeps_the_breakpoint_before_it() -> None:
    desk = Desk()
    messages = [user("Hello")]
    for minute in range(4):
        clock = f"{LONG}\nThe time is 14:{minute:02d}:07.\nAnswer briefly."
        usage = desk.call(Request("m", (system(clock), *messages)), 60)
        texts = [part.text for part in desk.planned.request.messages[0].parts]
        assert texts == [f"{LONG}\n", f"The time is 14:{minute:02d}:07.\nAnswer briefly."]
        assert desk.marks == ["messages[0].parts[0]"]
        codes = [a.code for a in desk.planned.adjustments]
        assert codes == ["cache_breakpoints_placed", "system_text_split"]
        messages += [Message("assistant", (Text("Yes."),)), user("And?")]
    assert usage.cache_read_tokens > 9_000
    assert usage.cache_write_tokens == 0


def test_a_clock_that_stands_still_is_no_clock() -> None:
    desk = Desk()
    messages = [system(f"{LONG}\nStarted: current time 14:03:07."), user("Hello " * 300)]
    for _ in range(4):
        usage = desk.call(Request("m", tuple(messages)))
        messages += [Message("assistant", (Text("Yes."),)), user("And? " * 300)]
    assert usage.cache_read_tokens > usage.input_tokens * 0.7


def test_client_marks_stay_and_ours_come_only_on_evidence() -> None:
    desk = Desk()
    marked_prompt = Message("system", (Text(LONG, Breakpoint("1h")),))
    messages = [marked_prompt, user("Hello " * 300)]
    desk.call(Request("m", tuple(messages)))
    assert desk.planned.request.messages[0].parts[0].cache == Breakpoint("1h")
    assert desk.marks == ["messages[0].parts[0]"]
    assert not desk.planned.adjustments
    for _ in range(4):
        messages += [Message("assistant", (Text("Yes."),)), user("And? " * 300)]
        desk.call(Request("m", tuple(messages)))
    assert desk.planned.request.messages[0].parts[0].cache == Breakpoint("1h")
    assert len(desk.marks) <= 4


@pytest.mark.parametrize(
    "request_",
    [
        Request("m", (user(LONG),), extras={"cache_control": {"type": "ephemeral"}}),
        Request("m", (Message("user", (Text(LONG, extras={"cache_control": {"x": 1}}),)),)),
        Request("m", (Message("tool", (ToolResult("c", (Text(LONG, Breakpoint()),)),)),)),
    ],
    ids=["automatic caching", "an unknown mark", "a mark inside a result"],
)
def test_marks_we_cannot_count_are_left_alone(request_) -> None:
    assert Desk().planner.plan(request_, CLAUDE, ME, NOW).request is request_


@pytest.mark.parametrize(
    ("request_", "card"),
    [
        (Request("m", ()), CLAUDE),
        (Request("m", (Message("user", ()),)), CLAUDE),
        (Request("m", (user(""), user(" \n" * 9_000))), CLAUDE),
        (Request("m", (user("short"),)), CLAUDE),
        (Request("m", (Message("assistant", (Reasoning("x" * 90_000),)),)), CLAUDE),
        (Request("m", (Message("user", (Opaque("d", {"document": "x" * 90_000}),)),)), CLAUDE),
        (Request("m", (system(LONG), user("hi"))), KIMI),
    ],
    ids=[
        "no messages",
        "no parts",
        "blank",
        "short",
        "only reasoning",
        "only a document",
        "implicit",
    ],
)
def test_nothing_to_mark(request_, card) -> None:
    desk = Desk()
    planned = desk.planner.plan(request_, card, ME, NOW)
    assert planned.request is request_
    desk.planner.observe(planned.prefix, card, None, NOW)
    desk.planner.observe(planned.prefix, card, Usage(), NOW)


def test_hostile_input_is_planned_like_any_other() -> None:
    desk = Desk()
    wild = "\ud800\x00 " * 3_000
    image = Image(Inline("image/png", "!" * 10_000))
    messages = tuple(Message("user", (Text(wild), image), name="\ud800") for _ in range(300))
    tools = (ToolSpec("a" * 5_000, parameters={"\ud83d": [[[]]] * 500}),)
    for _ in range(3):
        usage = desk.call(Request("m", messages, tools))
    assert usage.cache_read_tokens > 0.9 * usage.input_tokens


def test_usage_that_denies_a_write_is_believed() -> None:
    desk = Desk()
    request = Request("m", (system(LONG), user("Hello")))
    for _ in range(3):
        planned = desk.planner.plan(request, CLAUDE, ME, desk.now)
        desk.planner.observe(planned.prefix, CLAUDE, Usage(input_tokens=9_000), desk.now)
        desk.now += timedelta(seconds=5)
    assert planned.prefix.gates, "nothing was written, so it is not waited for"
    desk.planner.observe(
        planned.prefix, CLAUDE, Usage(input_tokens=9_000, cache_write_tokens=9_000), desk.now
    )
    assert not desk.planner.plan(request, CLAUDE, ME, desk.now).prefix.gates


def test_places_and_numbers_of_the_card_hold() -> None:
    rule = replace(CLAUDE.cache, places=("system", "messages"), max_breakpoints=2)
    card = replace(CLAUDE, cache=rule)
    tools = (ToolSpec("look", LONG),)
    planned = Desk().planner.plan(Request("m", (system(LONG), user(LONG)), tools), card, ME, NOW)
    marks = [b.path for b in read_prefix(planned.request, "x").blocks if b.mark]
    assert marks == ["messages[0].parts[0]", "messages[1].parts[0]"]


def test_history_is_bounded() -> None:
    history = MemoryHistory(prefixes=100, scopes=50)
    planner = Planner(history)
    for number in range(300):
        planned = planner.plan(Request("m", (system(LONG), user(f"{number}"))), CLAUDE, ME, NOW)
        planner.observe(planned.prefix, CLAUDE, Usage(input_tokens=9_000), NOW)
    assert len(history) <= 100


def test_mends_are_asked_for_and_said() -> None:
    tools = (ToolSpec("b", parameters={"z": 1, "a": 2}), ToolSpec("a"))
    request = Request("m", (user("hi"),), tools)
    assert Planner(MemoryHistory()).plan(request, KIMI, ME, NOW).request is request
    planned = Planner(MemoryHistory(), mends=True).plan(request, KIMI, ME, NOW)
    assert [t.name for t in planned.request.tools] == ["a", "b"]
    assert list(planned.request.tools[1].parameters) == ["a", "z"]
    assert [a.code for a in planned.adjustments] == ["schema_keys_sorted", "tools_sorted"]


def test_a_host_that_forgets_early_is_believed() -> None:
    desk = Desk()
    request = Request("m", (system(LONG), user("Hello")))
    desk.call(request)
    assert not desk.planner.plan(request, CLAUDE, ME, desk.now).prefix.gates
    planned = desk.planner.plan(request, CLAUDE, ME, desk.now)
    desk.planner.observe(planned.prefix, CLAUDE, Usage(input_tokens=9_000), desk.now)
    assert desk.planner.plan(request, CLAUDE, ME, desk.now).prefix.gates


def test_tools_with_a_mark_among_them_keep_their_order() -> None:
    tools = (ToolSpec("b", cache=Breakpoint()), ToolSpec("a"))
    request = Request("m", (user("hi"),), tools)
    assert Planner(MemoryHistory(), mends=True).plan(request, CLAUDE, ME, NOW).request is request
