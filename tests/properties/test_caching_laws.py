"""Laws of caching: what a plan may change, what a digest covers, what a host may bill."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kimiya.caching import Go, MemoryHistory, Pins, Planner, SingleFlight, WaitFor, ranked
from kimiya.caching.host_cache import HostCache
from kimiya.caching.mends import mend
from kimiya.caching.prefix import marked, read_prefix
from kimiya.caching.volatile import StableHeads, find_volatile, stable_length
from kimiya.catalog.catalog import Catalog
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request, ToolSpec, Usage
from kimiya.core.messages import Message, Reasoning, Text, ToolResult, system, user
from kimiya.errors import InvalidRequest

from .strategies import requests_for

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CARDS = Catalog.load({}).cards
EXPLICIT = [card for card in CARDS if card.cache.kind == "explicit"]
OTHERS = [card for card in CARDS if card.cache.kind != "explicit"]
DIALECTS = ("anthropic_messages", "bedrock_converse", "openai_chat")


def unmarked(thing):
    """A request without marks, each system message's texts joined."""
    if isinstance(thing, Request):
        messages = tuple(_joined(message) for message in thing.messages)
        tools = tuple(replace(tool, cache=None) for tool in thing.tools)
        return replace(thing, messages=messages, tools=tools)
    raise TypeError(thing)


def _joined(message: Message) -> Message:
    parts = []
    for part in message.parts:
        bare = part if isinstance(part, Reasoning) else replace(part, cache=None)
        last = parts[-1] if parts else None
        if message.role in ("system", "developer") and isinstance(bare, Text) and last is not None:
            if isinstance(last, Text) and last.extras == bare.extras:
                parts[-1] = replace(last, text=last.text + bare.text)
                continue
            if isinstance(last, Text) and not last.extras:
                parts[-1] = replace(bare, text=last.text + bare.text)
                continue
        parts.append(bare)
    return replace(message, parts=tuple(parts))


def grown(request: Request, tokens: int, clock: str) -> Request:
    """The same with a system prompt long enough to be cached."""
    prompt = f"{'All that is gold does not glitter. ' * (tokens // 8)}\n{clock}\nGo on."
    return replace(request, messages=(system(prompt), *request.messages))


requests = st.sampled_from(DIALECTS).flatmap(requests_for)
clocks = st.sampled_from(["", "The time is 14:03:22.", "Session id: 7f3a", "Be quick."])


@settings(max_examples=60)
@given(st.lists(requests, min_size=1, max_size=3), st.sampled_from(EXPLICIT), clocks, st.data())
def test_a_plan_adds_marks_and_nothing_else(drawn, card, clock, data) -> None:
    planner, now = Planner(MemoryHistory()), NOW
    size = data.draw(st.sampled_from([0, 6_000, 30_000]))
    for request in (*drawn, *drawn):
        request = grown(request, size, clock)
        before = read_prefix(request, "x")
        planned = planner.plan(request, card, CallContext(key_id="k"), now)
        after = read_prefix(planned.request, "x")
        assert unmarked(planned.request) == unmarked(request)
        theirs = [before.blocks[at].path for at in marked(before)]
        assert len(list(marked(after))) >= len(theirs)
        if planned.request is request:
            assert not planned.adjustments
        else:
            assert planned.adjustments
            _check_ours(before, after, card, planned)
        usage = Usage(input_tokens=max(1, after.tokens), cache_write_tokens=after.tokens // 2)
        planner.observe(planned.prefix, card, usage, now)
        now += timedelta(seconds=data.draw(st.integers(1, 4_000)))


def _check_ours(before, after, card, planned) -> None:
    marks = list(marked(after))
    assert len(marks) <= card.cache.max_breakpoints
    own = {(b.digest, b.mark) for b in before.blocks if b.mark is not None}
    kept = {(b.digest, b.mark) for b in after.blocks if b.mark is not None}
    is_split = any(a.code == "system_text_split" for a in planned.adjustments)
    assert is_split or own <= kept, "a client's mark was moved or dropped"
    ttls = [after.blocks[at].mark.ttl or "5m" for at in marks]
    rising = [b.mark.ttl or "5m" for b in before.blocks if b.mark is not None]
    if rising == sorted(rising):  # "1h" sorts before "5m"
        assert ttls == sorted(ttls)
    messages = planned.request.messages
    for at in marks:
        block = after.blocks[at]
        if block.part >= 0 and (block.digest, block.mark) not in own and not is_split:
            assert messages[block.index].role != "assistant"
            assert block.place in card.cache.places
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolResult) and not before.has_foreign_marks:
                assert not any(inner.cache for inner in part.content)


@settings(max_examples=40)
@given(requests, st.sampled_from(OTHERS))
def test_other_hosts_get_the_same_object(request, card) -> None:
    request = grown(request, 6_000, "It is 14:03 now.")
    assert Planner(MemoryHistory()).plan(request, card, CallContext(), NOW).request is request


@settings(max_examples=60)
@given(requests, requests)
def test_a_digest_covers_all_before_it_and_no_marks(one, other) -> None:
    heads = StableHeads()
    first = [b.digest for b in read_prefix(one, "x", heads).blocks]
    assert first == [b.digest for b in read_prefix(unmarked_only(one), "x", heads).blocks]
    longer = replace(one, messages=(*one.messages, *other.messages))
    whole = [b.digest for b in read_prefix(longer, "x", heads).blocks]
    if all(m.role not in ("system", "developer") for m in other.messages):
        assert whole[: len(first)] == first
    assert not first or first[0] != read_prefix(one, "y", heads).blocks[0].digest
    assert len(set(whole)) == len(whole)


def unmarked_only(request: Request) -> Request:
    messages = tuple(
        replace(
            m,
            parts=tuple(p if isinstance(p, Reasoning) else replace(p, cache=None) for p in m.parts),
        )
        for m in request.messages
    )
    return replace(
        request, messages=messages, tools=tuple(replace(t, cache=None) for t in request.tools)
    )


@given(st.lists(st.text("ab", min_size=1), min_size=1, max_size=6), st.integers(0, 5))
def test_a_change_moves_every_digest_from_there_on(texts, place) -> None:
    place %= len(texts)
    changed = [*texts[:place], texts[place] + "!", *texts[place + 1 :]]
    one = read_prefix(Request("m", tuple(map(user, texts))), "x").blocks
    other = read_prefix(Request("m", tuple(map(user, changed))), "x").blocks
    same = [a.digest == b.digest for a, b in zip(one, other, strict=True)]
    assert same == [at < place for at in range(len(texts))]


@given(st.lists(st.text("ab", max_size=3), min_size=2, max_size=5), st.data())
def test_where_one_part_ends_is_part_of_the_digest(texts, data) -> None:
    at = data.draw(st.integers(0, len(texts) - 2))
    joined = [*texts[:at], texts[at] + texts[at + 1], *texts[at + 2 :]]
    one = Request("m", (Message("user", tuple(map(Text, texts))),))
    other = Request("m", (Message("user", tuple(map(Text, joined))),))
    assert read_prefix(one, "x").blocks[-1].digest != read_prefix(other, "x").blocks[-1].digest


@given(
    st.text(), st.sampled_from(["time: 14:03", "12:59:59 UTC", "2026-11-22T14:03:22Z"]), st.text()
)
def test_a_cut_does_not_move_with_the_word(before, word, after) -> None:
    text = f"{before}\nnow {word}{after}"
    cut = stable_length(text)
    assume(cut is not None)
    assert text[:cut] + text[cut:] == text
    other = text.replace("14:03", "15:44").replace("12:59:59", "01:02:03")
    assume(find_volatile(before) is None)
    assert stable_length(other) == cut or find_volatile(other) is None


@given(st.text(max_size=400))
def test_remembered_heads_agree_with_a_fresh_search(text) -> None:
    heads = StableHeads(capacity=1)
    variants = [text, f"{text}\nIt is 10:00 now", f"{text}\nIt is 11:30 now", text]
    assert [heads.length(v) for v in variants] == [stable_length(v) for v in variants]


schemas = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.text(max_size=2), schemas), max_size=5), st.randoms())
def test_mending_loses_nothing_and_ends(tools, rng) -> None:
    specs = tuple(ToolSpec(name, parameters=schema) for name, schema in tools)
    request = Request("m", (user("hi"),), specs)
    mended = mend(request)
    assert sorted(map(repr, map(_plain, mended.request.tools))) == sorted(
        map(repr, map(_plain, specs))
    )
    assert mend(mended.request).request is mended.request
    assert bool(mended.adjustments) == (mended.request is not request)
    if len({name for name, _ in tools}) == len(tools):
        shuffled = list(specs)
        rng.shuffle(shuffled)
        again = mend(replace(request, tools=tuple(shuffled))).request
        assert again.tools == mended.request.tools


def _plain(tool: ToolSpec):
    def ordered(value):
        if isinstance(value, dict):
            return [(key, ordered(value[key])) for key in sorted(value)]
        return [ordered(item) for item in value] if isinstance(value, list) else value

    return (tool.name, ordered(tool.parameters))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**32))
def test_one_writer_at_a_time_and_everybody_goes(owners, seed) -> None:
    import random

    rng = random.Random(seed)
    flight, now_s = SingleFlight(patience_s=10), 0.0
    waiting = [tuple(f"{owner}/{depth}".encode() for depth in (1, 0)) for owner in owners]
    flying: dict[int, tuple[bytes, ...]] = {}
    for _ in range(1_000):
        if not waiting and not flying:
            break
        now_s += rng.random() * 3
        if waiting and (not flying or rng.random() < 0.6):
            gates = waiting.pop(rng.randrange(len(waiting)))
            match flight.admit(gates, now_s):
                case Go(ticket):
                    overdue = [t for t in flying if not flight.is_open(t)]
                    live = [d for t, held in flying.items() if t not in overdue for d in held]
                    assert not set(gates) & set(live), f"two writers of one prefix (seed {seed})"
                    flying[ticket] = gates
                case WaitFor(ticket, digest, until_s):
                    assert digest in gates
                    assert until_s > now_s
                    assert flight.is_open(ticket)
                    waiting.append(gates)
        else:
            ticket = rng.choice(list(flying))
            del flying[ticket]
            rng.choice([flight.written, flight.abandoned])(ticket)
    assert not waiting, f"seed {seed}"
    assert len(flight) == 0


@given(st.text(), st.sets(st.text(), min_size=2, max_size=6))
def test_only_the_conversations_of_a_lost_replica_move(key, replicas) -> None:
    order = ranked(key, replicas)
    pins = Pins()
    if key:
        assert pins.pick(key, sorted(replicas)) == order[0]
        for lost in replicas - {order[0]}:
            assert pins.pick(key, sorted(replicas - {lost})) == order[0]
        assert pins.pick(key, sorted(replicas - {order[0]})) == order[1]
        for status in (400, 401, 404, 413):
            assert pins.failed(key, order[0], status, sorted(replicas)) is None
        for status in (429, 500, 503, None):
            assert Pins().failed(key, order[0], status, sorted(replicas)) == order[1]


marks_of = st.dictionaries(st.integers(0, 5), st.sampled_from(["5m", "1h"]), max_size=4)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(1, 6), marks_of, st.integers(0, 2_000)), max_size=12))
def test_a_host_bills_every_token_once(calls) -> None:
    """Conversations over one history: every token is read, written or plain; reads were written."""
    card = EXPLICIT[0]
    least = card.cache.min_tokens
    host, now_s, written = HostCache(card.cache), 0.0, 0
    for length, marks, gap_s in calls:
        now_s += gap_s
        blocks = read_prefix(Request("m", (user("word " * least),) * length), "x").blocks
        marks = {at: ttl for at, ttl in marks.items() if at < length}
        ordered = [marks[at] for at in sorted(marks)]
        if ordered != sorted(ordered):
            with pytest.raises(InvalidRequest):
                host.bill(blocks, marks, now_s)
            continue
        usage = host.bill(blocks, marks, now_s)
        assert usage.input_tokens == blocks[-1].tokens
        assert min(usage.fresh_input_tokens, usage.cache_read_tokens, usage.cache_write_tokens) >= 0
        assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
        assert usage.cache_read_tokens == 0 or written, "read before anything was written"
        assert marks or usage.cache_read_tokens == usage.cache_write_tokens == 0
        written += usage.cache_write_tokens
