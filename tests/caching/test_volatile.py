"""What counts as volatile, by table."""

import pytest

from kimiya.caching.volatile import find_volatile, stable_length


@pytest.mark.parametrize(
    ("text", "kind", "word"),
    [
        ("The time is 14:03.", "time", "14:03"),
        ("Current date and time: 2026-11-22 14:03:22", "time", "2026-11-22 14:03:22"),
        ("at 2026-11-22T14:03:22.123Z", "time", "2026-11-22T14:03:22"),
        ("It is 9:05 AM now", "time", "9:05"),
        ("x" * 100 + " clock 23:59", "time", "23:59"),
        ("Today is 2026-11-22.", None, ""),
        ("Open from 09:00 to 17:00 on weekdays.", None, ""),
        ("Use the ratio 16:09 for slides.", None, ""),
        ("See John 3:16 and line 12:30:15:8.", None, ""),
        (
            "id 3f2504e0-4f89-41d3-9a0c-0305e82c3301.",
            "uuid",
            "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        ),
        ("x3f2504e0-4f89-41d3-9a0c-0305e82c3301", None, ""),
        ("ts=1763820202 ok", "epoch", "1763820202"),
        ("ts=1763820202123 ok", "epoch", "1763820202123"),
        ("call 17638202021234567", None, ""),
        ("price 1.1763820202", None, ""),
        ("Request #17 of the day", "counter", "17"),
        ("session_id: 7fa3-b", "counter", "7fa3-b"),
        ("Turn number = 4", "counter", "4"),
        ("request id: required", None, ""),
        ("", None, ""),
        (":" * 5_000 + "-" * 5_000, None, ""),
        ("\ud800 time 14:03", "time", "14:03"),
    ],
)
def test_words(text, kind, word) -> None:
    hit = find_volatile(text)
    assert (hit.kind if hit else None) == kind
    if hit is not None:
        assert text[hit.start : hit.end] == word


@pytest.mark.parametrize(
    ("text", "stable"),
    [
        ("Rules.\nThe time is 14:03.\nMore.", "Rules.\n"),
        ("Be kind. The time is 14:03.", "Be kind. "),
        ("The time is 14:03.", ""),
        ("Nothing here.", None),
    ],
)
def test_cuts(text, stable) -> None:
    cut = stable_length(text)
    assert (None if cut is None else text[:cut]) == stable


def test_a_large_text_without_any_is_searched_once_through() -> None:
    text = "See section 4:3 (page 12-14), item #7; a1b2-c3d4. " * 20_000
    assert find_volatile(text) is None
