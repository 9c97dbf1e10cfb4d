"""The simulated account's cache against the planner's own model of one, written apart from it."""

from datetime import date
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from kimiya.caching.host_cache import HostCache
from kimiya.caching.prefix import Block as PrefixBlock
from kimiya.catalog.card import CacheRule, Source
from kimiya.core.messages import CacheTtl
from kimiya.providers.simulated.bedrock_cache import Block, PromptCache
from kimiya.providers.simulated.bedrock_models import CacheBehaviour

LEAST = 100
RULE = CacheRule(
    kind="explicit",
    min_tokens=LEAST,
    max_breakpoints=4,
    ttls=("5m", "1h"),
    source=Source(url="measured", checked=date(2026, 11, 22)),
)
BEHAVIOUR = CacheBehaviour("explicit", LEAST, ("5m", "1h"))


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[tuple[int, int]], dict[int, CacheTtl], float]:
    """Blocks (what they say, tokens), lifetimes by position, and seconds since the last call.

    What a block says is drawn from few words, and calls begin alike, so that prefixes meet.
    """
    length = draw(st.integers(1, 45))
    change = draw(st.integers(0, 50))
    said = [(0 if at < change else draw(st.integers(1, 2)), 7 + at % 5 * 9) for at in range(length)]
    places = sorted(draw(st.sets(st.integers(0, length - 1), max_size=4)))
    hours = draw(st.integers(0, len(places)))
    marks: dict[int, CacheTtl] = {
        place: "1h" if number < hours else "5m" for number, place in enumerate(places)
    }
    return said, marks, draw(st.sampled_from([1.0, 100.0, 250.0, 350.0, 3500.0, 3700.0]))


@given(st.lists(calls(), max_size=8))
def test_two_models_of_one_cache_bill_alike(
    made: list[tuple[list[tuple[int, int]], dict[int, CacheTtl], float]],
) -> None:
    ours, theirs, now_s = PromptCache(), HostCache(RULE), 0.0
    for said, marks, gap_s in made:
        now_s += gap_s
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
def test_nothing_is_billed_twice_or_lost(
    made: list[tuple[list[tuple[int, int]], dict[int, CacheTtl], float]], kind: str
) -> None:
    cache, now_s = PromptCache(), 0.0
    behaviour = CacheBehaviour(kind, LEAST, ("5m",))  # pyright: ignore[reportArgumentType]
    for said, _, gap_s in made:
        now_s += gap_s
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
