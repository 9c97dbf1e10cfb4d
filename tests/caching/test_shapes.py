"""The claim of ``bench/caching.py``, on one seed, and that its yardstick is what it says it is."""

import itertools

import pytest
from caching_optimum import bound, exhaustive, found
from caching_shapes import BESIDE, RECORDED, document

import caching as bench
from kimiya.catalog.catalog import Catalog
from kimiya.errors import InvalidRequest

CARD = Catalog.load({}).find("anthropic", "claude-sonnet-4-5")
assert CARD is not None


@pytest.mark.parametrize("name", RECORDED)
def test_within_five_percent_of_the_cheapest_placement(name) -> None:
    shape = RECORDED[name](7)
    least = bound(shape, CARD, bench.host_counted)
    ours = bench.kimiya(shape, CARD)
    assert least <= ours <= least * 105 / 100
    others = [bench.no_caching, bench.strands_auto, bench.mark_everything]
    assert ours <= min(policy(shape, CARD) for policy in others)


@pytest.mark.parametrize(("name", "most"), [("slow_chat", 1.5), ("lone_questions", 1.06)])
def test_what_learning_costs_beside_them(name, most) -> None:
    shape = BESIDE[name](7)
    ours = bench.kimiya(shape, CARD)
    assert float(ours / bound(shape, CARD, bench.host_counted)) < most
    assert ours < bench.mark_everything(shape, CARD)


def test_every_placement_tried_is_no_cheaper_than_the_bound() -> None:
    for shape in bench.short_shapes(3):
        least = bound(shape, CARD, bench.host_counted)
        cheapest, tried = exhaustive(shape, CARD, bench.host_counted)
        assert tried > 20
        assert least <= cheapest <= found(shape, CARD, bench.host_counted), shape.name
        assert float(bench.kimiya(shape, CARD) / cheapest) < 1.06, shape.name


def test_the_exhaustive_search_finds_what_is_cheaper_than_a_guess(monkeypatch) -> None:
    """With no guess to begin with, the search alone comes to the bound."""
    import caching_optimum

    shape = document(5, questions=3, tokens=3_000)
    monkeypatch.setattr(caching_optimum, "found", lambda *_: 1_000_000)
    cheapest, tried = exhaustive(shape, CARD, bench.host_counted)
    assert cheapest == bound(shape, CARD, bench.host_counted)
    assert tried > 50


def test_a_host_refuses_what_a_real_one_refuses() -> None:
    from kimiya.caching.host_cache import HostCache

    _, blocks = next(iter(_calls(document(1, questions=1, tokens=3_000))))
    with pytest.raises(InvalidRequest, match="5 cache marks, 4 are allowed"):
        HostCache(CARD.cache).bill(blocks * 3, dict.fromkeys(range(5), "5m"), 0.0)
    with pytest.raises(InvalidRequest, match="behind one of 5m"):
        HostCache(CARD.cache).bill(blocks, {0: "5m", 1: "1h"}, 0.0)


def _calls(shape):
    from caching_optimum import calls_of

    return itertools.islice(calls_of(shape, bench.host_counted), 5)
