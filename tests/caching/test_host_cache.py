"""Hand-computed bills: 1,000-token blocks under Claude Sonnet 4.5's rule (minimum 1,024)."""

import pytest

from kimiya.caching.host_cache import HostCache
from kimiya.caching.prefix import Block
from kimiya.catalog.catalog import Catalog

RULE = Catalog.load({}).find("anthropic", "claude-sonnet-4-5").cache


def prompt(words: str) -> tuple[Block, ...]:
    return tuple(
        Block(words[: at + 1].encode(), 1_000 * (at + 1), "messages", at, 0)
        for at in range(len(words))
    )


A = "5m"
H = "1h"


@pytest.mark.parametrize(
    ("calls", "billed"),
    [
        # (prompt, marks, at): read, written, written for an hour
        ([("abc", {2: A}, 0), ("abc", {2: A}, 299)], [(0, 3000, 0), (3000, 0, 0)]),
        ([("abc", {2: A}, 0), ("abc", {2: A}, 301)], [(0, 3000, 0), (0, 3000, 0)]),
        ([("abc", {2: H}, 0), ("abc", {2: A}, 3599)], [(0, 3000, 3000), (3000, 0, 0)]),
        # a read renews the lifetime
        (
            [("abc", {2: A}, 0), ("abc", {2: A}, 250), ("abc", {2: A}, 500)],
            [(0, 3000, 0), (3000, 0, 0), (3000, 0, 0)],
        ),
        # the conversation grows: the new end finds the old one by searching back
        ([("abc", {2: A}, 0), ("abcde", {4: A}, 9)], [(0, 3000, 0), (3000, 2000, 0)]),
        # under the minimum a mark is nothing
        ([("a", {0: A}, 0), ("a", {0: A}, 9)], [(0, 0, 0), (0, 0, 0)]),
        # another word in front: nothing is found
        ([("abc", {2: A}, 0), ("xbc", {2: A}, 9)], [(0, 3000, 0), (0, 3000, 0)]),
        # what was not marked cannot be read, even inside what was written
        ([("abcd", {3: A}, 0), ("abx", {2: A}, 9)], [(0, 4000, 0), (0, 3000, 0)]),
        ([("abcd", {1: A, 3: A}, 0), ("abx", {2: A}, 9)], [(0, 4000, 0), (2000, 1000, 0)]),
        # both lifetimes: up to the last mark of an hour for an hour, the rest for five minutes
        ([("abcd", {1: H, 3: A}, 0), ("abcd", {3: A}, 400)], [(0, 4000, 2000), (2000, 2000, 0)]),
        # no marks: nothing is read
        ([("abc", {2: A}, 0), ("abc", {}, 9)], [(0, 3000, 0), (0, 0, 0)]),
    ],
)
def test_bills(calls, billed) -> None:
    host = HostCache(RULE)
    got = [host.bill(prompt(words), marks, at) for words, marks, at in calls]
    assert [
        (u.cache_read_tokens, u.cache_write_tokens, u.cache_write_1h_tokens) for u in got
    ] == billed


def test_the_search_back_ends_after_twenty_blocks() -> None:
    words = "abcdefghijklmnopqrstuvwxyz"
    for new, read in ((19, 2_000), (20, 0)):
        host = HostCache(RULE)
        host.bill(prompt(words[:2]), {1: A}, 0)
        assert host.bill(prompt(words[: 2 + new]), {1 + new: A}, 9).cache_read_tokens == read


def test_nothing_is_read_before_the_reply_that_wrote_it_begins() -> None:
    host = HostCache(RULE)
    host.bill(prompt("abc"), {2: A}, 0, begins_s=2)
    assert host.bill(prompt("abc"), {2: A}, 1, begins_s=3).cache_write_tokens == 3_000
    assert host.bill(prompt("abc"), {2: A}, 2.5, begins_s=4).cache_read_tokens == 3_000
