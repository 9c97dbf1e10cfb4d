"""Which candidates are taken, by table."""

import pytest

from kimiya.caching.economy import STANDARD, Chance
from kimiya.caching.placement import Candidate, Mark, Slots, choose

SURE, NEVER, LATER = Chance(0.9, 0.9), Chance(0.01, 0.01), Chance(0.02, 0.9)
BOTH = ("5m", "1h")


def at(position: int, chance: Chance = SURE, alive=None, tokens: int | None = None) -> Candidate:
    return Candidate(position, tokens or 2_000 * (position + 1), chance, alive)


@pytest.mark.parametrize(
    ("candidates", "slots", "marks"),
    [
        ([], Slots(4, BOTH, 1_024), []),
        ([at(0)], Slots(0, BOTH, 1_024), []),
        ([at(0), at(3, NEVER)], Slots(4, BOTH, 1_024), [(0, "5m")]),
        ([at(0), at(3, NEVER, "5m")], Slots(4, BOTH, 1_024), [(0, "5m"), (3, "5m")]),
        ([at(0, tokens=700), at(3)], Slots(4, BOTH, 1_024), [(3, "5m")]),
        ([at(0, LATER)], Slots(4, BOTH, 1_024), [(0, "1h")]),
        ([at(0, LATER)], Slots(4, ("5m",), 1_024), []),
        # an hour behind five minutes: the shallower is raised, unless it lives already
        ([at(0), at(3, LATER)], Slots(4, BOTH, 1_024), [(0, "1h"), (3, "1h")]),
        ([at(0, SURE, "5m"), at(3, LATER)], Slots(4, BOTH, 1_024), [(0, "5m"), (3, "5m")]),
        # the client's own lifetimes bind ours
        ([at(1)], Slots(3, BOTH, 1_024, (Mark(5, "1h"),)), [(1, "1h")]),
        ([at(5, LATER)], Slots(3, BOTH, 1_024, (Mark(1, "5m"),)), [(5, "5m")]),
        ([at(3)], Slots(2, BOTH, 1_024, (Mark(1, "5m"), Mark(5, "1h"))), []),
        # too few slots: the deepest, then what reaches back to the cache, then the largest share
        ([at(0), at(1), at(2)], Slots(1, BOTH, 1_024), [(2, "5m")]),
        ([at(0, SURE, "5m"), at(30), at(31)], Slots(2, BOTH, 1_024), [(0, "5m"), (31, "5m")]),
        ([at(0), at(1), at(9)], Slots(2, BOTH, 1_024), [(1, "5m"), (9, "5m")]),
    ],
)
def test_choice(candidates, slots, marks) -> None:
    assert [(m.position, m.ttl) for m in choose(candidates, STANDARD, slots)] == marks
