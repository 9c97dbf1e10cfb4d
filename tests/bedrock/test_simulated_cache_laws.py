"""The simulated account's cache against the planner's own model of one, written apart from it."""

from datetime import date
from hashlib import sha256
from typing import TypeAlias

from hypothesis import example, given
from hypothesis import strategies as st

from kimiya.caching.host_cache import HostCache
from kimiya.caching.prefix import Block as PrefixBlock
from kimiya.catalog.card import CacheRule, Source
from kimiya.core.messages import CacheTtl
from kimiya.providers.simulated.bedrock_cache import Block, PromptCache
from kimiya.providers.simulated.bedrock_models import CacheBehaviour

LEAST = 90
RULE = CacheRule(
    kind="explicit",
    min_tokens=LEAST,
    max_breakpoints=4,
    ttls=("5m", "1h"),
    source=Source(url="measured", checked=date(2026, 11, 22)),
)
BEHAVIOUR = CacheBehaviour("explicit", LEAST, ("5m", "1h"))


Call: TypeAlias = tuple[int, int, dict[int, CacheTtl], float]
"""How many blocks, from which on they are this call's own, lifetimes by position, and seconds since
the call before."""


def blocks_said(length: int, change: int, number: int) -> list[tuple[int, int]]:
    """What each block says, and its tokens: 10, 30, 60, 70, 90 and so on, added up."""
    return [(0 if at < change else number + 1, 10 + at % 3 * 10) for at in range(length)]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Calls that often share a prefix, with marks often as far apart as a look-back reaches."""
    length = draw(st.sampled_from([5, 13, 26, 32, 33, 45]))
    change = draw(st.sampled_from([4, 6, 13, 26, 45]))
    near = [at for at in (3, 4, 5, 12, 24, 25, 31, 32, 44) if at < length]
    places = sorted(draw(st.sets(st.sampled_from(near), max_size=4)))
    hours = draw(st.sampled_from([0, 0, len(places), len(places) // 2]))
    marks: dict[int, CacheTtl] = {
        place: "1h" if number < hours else "5m" for number, place in enumerate(places)
    }
    return length, change, marks, draw(st.sampled_from([1.0, 250.0, 350.0, 3700.0]))


SHORT: dict[int, CacheTtl] = {12: "5m"}
BOTH: dict[int, CacheTtl] = {5: "5m", 12: "5m"}


@example(made=[(5, 5, {4: "5m"}, 1.0), (5, 5, {4: "5m"}, 1.0)])  # exactly the minimum
@example(made=[(13, 13, SHORT, 1.0), (32, 32, {31: "5m"}, 1.0)])  # the last place looked at
@example(made=[(13, 13, SHORT, 1.0), (33, 33, {32: "5m"}, 1.0)])  # one too far
@example(made=[(13, 13, BOTH, 1.0), (13, 13, BOTH, 250.0), (13, 6, BOTH, 250.0)])  # kept alive
@given(made=st.lists(calls(), max_size=8))
def test_two_models_of_one_cache_bill_alike(made: list[Call]) -> None:
    ours, theirs, now_s = PromptCache(), HostCache(RULE), 0.0
    for number, (length, change, marks, gap_s) in enumerate(made):
        now_s += gap_s
        said = blocks_said(length, change, number)
        chain, total = b"", 0
        blocks: list[Block] = []
        prefix: list[PrefixBlock] = []
        for at, (word, tokens) in enumerate(said):
            chain, total = sha256(chain + b"%d" % word).digest(), total + tokens
            blocks.append(Block("messages", tokens, chain))
            prefix.append(PrefixBlock(chain, total, "messages", at))
            if at in marks:
                blocks.append(Block("messages", digest=chain, ttl=marks[at]))
        bill = ours.bill(blocks, BEHAVIOUR, now_s)
        ours.commit(bill, now_s)
        usage = theirs.bill(prefix, marks, now_s)
        assert bill.input_tokens == usage.input_tokens == total
        assert bill.read_tokens == usage.cache_read_tokens
        assert bill.written_tokens == usage.cache_write_tokens
        assert dict(bill.written).get("1h", 0) == usage.cache_write_1h_tokens


@given(st.lists(calls(), max_size=6), st.sampled_from(["explicit", "implicit", "none"]))
def test_nothing_is_billed_twice_or_lost(made: list[Call], kind: str) -> None:
    cache, now_s = PromptCache(), 0.0
    behaviour = CacheBehaviour(kind, LEAST, ("5m",))  # pyright: ignore[reportArgumentType]
    for number, (length, change, _, gap_s) in enumerate(made):
        now_s += gap_s
        said = blocks_said(length, change, number)
        chain = b""
        blocks: list[Block] = []
        for word, tokens in said:
            chain = sha256(chain + b"%d" % word).digest()
            blocks.append(Block("messages", tokens, chain))
        bill = cache.bill(blocks, behaviour, now_s)
        assert bill.input_tokens == sum(tokens for _, tokens in said)
        assert min(bill.fresh_tokens, bill.read_tokens, bill.written_tokens) >= 0
        assert kind == "implicit" or bill.read_tokens + bill.written_tokens == 0
        again = cache.bill(blocks, behaviour, now_s)
        assert again == bill  # nothing is readable before the reply begins
        cache.commit(bill, now_s)
        if kind == "implicit" and bill.input_tokens >= LEAST:
            assert cache.bill(blocks, behaviour, now_s).read_tokens == bill.input_tokens
