"""Where conversations go."""

from collections import Counter

import pytest
from msgspec.structs import replace

from kimiya.caching import MemoryHistory, Pins, Planner, affinity_key, ranked
from kimiya.caching.single_flight import Go, SingleFlight, WaitFor
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import Message, Text, system

from .test_planner import KIMI, ME, NOW

NOBODY = CallContext()


def chat(*words: str, prompt: str = "Be kind.") -> Request:
    spoken = [Message("assistant" if at % 2 else "user", (Text(w),)) for at, w in enumerate(words)]
    return Request("m", (system(prompt), *spoken))


NOON, EVENING = "Be kind.\nIt is 12:03 now.", "Be kind.\nIt is 19:09 now."


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (chat("a"), chat("a", "b", "c"), True),
        (chat("a"), chat("b"), False),
        (chat("a"), chat("a", prompt="Be rude."), False),
        (chat("a", prompt=NOON), chat("a", prompt=EVENING), True),
        (replace(chat("a"), tools=(ToolSpec("x"),)), chat("a"), False),
        (Request("m", ()), Request("m", ()), True),
    ],
)
def test_keys(one, other, same) -> None:
    assert (affinity_key(one, NOBODY) == affinity_key(other, NOBODY)) is same


def test_a_named_conversation_belongs_to_its_key() -> None:
    mine, yours = (CallContext(key_id=k, conversation="1") for k in ("me", "you"))
    assert affinity_key(chat("a"), mine) == affinity_key(chat("b"), mine)
    assert affinity_key(chat("a"), mine) != affinity_key(chat("a"), yours)


def test_a_plan_knows_it_too() -> None:
    planner = Planner(MemoryHistory())
    keys = [planner.plan(chat(*w), KIMI, ME, NOW).prefix.affinity for w in ("a", "abc", "b")]
    assert keys[0] == keys[1] != keys[2]


def test_replicas_share_evenly() -> None:
    load = Counter(ranked(str(n), ["one", "two", "three"])[0] for n in range(3_000))
    assert all(850 < count < 1_150 for count in load.values()), load


def test_a_conversation_moves_on_refusal_and_stays_where_it_went() -> None:
    pins, replicas = Pins(capacity=2), ["one", "two", "three"]
    home, second, third = ranked("k", replicas)
    assert pins.failed("k", home, 429, replicas) == second
    assert pins.pick("k", replicas) == second
    assert pins.failed("k", second, 503, replicas) == third
    assert pins.pick("k", replicas) == third
    assert pins.pick("k", [home, second]) == home
    for number in range(9):
        pins.failed(f"{number}", "one", None, replicas)
    assert len(pins) == 2
    assert pins.failed("k", "one", 500, ["one"]) is None
    assert pins.failed("k", "gone", 500, replicas) is None
    with pytest.raises(ValueError, match="no replicas"):
        pins.pick("k", [])
    assert pins.pick("", replicas) == "one"


def test_the_first_goes_ahead() -> None:
    flight = SingleFlight(patience_s=10)
    first = flight.admit((b"deep", b"shallow"), 0)
    assert isinstance(first, Go)
    assert flight.admit((b"other", b"shallow"), 1) == WaitFor(first.ticket, b"shallow", 10)
    assert isinstance(flight.admit((b"unlike",), 1), Go)
    assert flight.admit((), 1) == Go(0)
    flight.written(first.ticket)
    flight.abandoned(first.ticket)
    assert isinstance(flight.admit((b"other", b"shallow"), 2), Go)


def test_a_lost_ticket_delays_and_never_blocks() -> None:
    flight = SingleFlight(patience_s=10)
    lost = flight.admit((b"x",), 0)
    assert isinstance(flight.admit((b"x",), 9.9), WaitFor)
    heir = flight.admit((b"x",), 10)
    assert isinstance(heir, Go)
    flight.written(lost.ticket)
    assert isinstance(flight.admit((b"x",), 11), WaitFor), "an old ticket closed a new one's"
    flight.written(heir.ticket)
    assert len(flight) == 0


def test_single_flight_is_bounded() -> None:
    flight = SingleFlight(capacity=5)
    tickets = [flight.admit((str(n).encode(),), 0).ticket for n in range(20)]
    assert sum(map(bool, tickets)) == 5
