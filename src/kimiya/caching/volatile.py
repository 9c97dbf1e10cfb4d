"""Text that is another one at every call: a time of day, an instant, an id made for the call.

One such word in a system prompt makes everything after it new to a host's cache. Calendar dates are
not among them: a date holds for a day, a cached prefix for an hour at most.

Searches start from a literal character where they can, because a system prompt may be large and an
alternation would be tried at every letter.
"""

import re
from collections import OrderedDict
from hashlib import sha256
from typing import Literal

from msgspec import Struct

VolatileKind = Literal["time", "uuid", "epoch", "counter"]

_TIME = re.compile(r":[0-5]\d(?::[0-5]\d)?(?![\d:])")
_HOUR_BEFORE = re.compile(r"(?<![\d:./])(?:[01]?\d|2[0-3])\Z")
_UUID = re.compile(r"-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?![0-9a-fA-F])")
_EIGHT_BEFORE = re.compile(r"(?<![0-9a-zA-Z])[0-9a-fA-F]{8}\Z")
_EPOCH = re.compile(r"1[6-9]\d{8}(?:\d{3})?(?![\d.])")
_COUNTED = re.compile(r"\s*([0-9A-Za-z_-]{1,64})")
_COUNTER_BEFORE = re.compile(
    r"(?i)\b(?:request|call|message|turn|attempt|session|trace|nonce)[ _-]?"
    r"(?:id|no\.?|number|count)?\s*\Z"
)
_NEAR = re.compile(
    r"(?i)\b(?:now|current|currently|time|today|clock|timestamp|generated|UTC|GMT)\b"
)
_FORM = re.compile(r"(?i)\A\s*(?:now\b|Z\b|[+-]\d\d:?\d\d|UTC|GMT|[ap]\.?m\b|\.\d+)")
_DATE_BEFORE = re.compile(r"(?:\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4})[T ,]*\Z")
_WINDOW = 60
"""Characters around a clock time in which a word must say that it is the present one."""


class Volatile(Struct, frozen=True):
    """A volatile word and where it stands."""

    kind: VolatileKind
    start: int
    """Offset of its first character."""
    end: int


def find_volatile(text: str) -> Volatile | None:
    """The first volatile word of ``text``.

    >>> find_volatile("Be kind. The time is 14:03:22 UTC."), find_volatile("Open 09:00 to 17:00.")
    (Volatile(kind='time', start=21, end=29), None)
    """
    found = [hit for hit in (_time(text), _uuid(text), _epoch(text), _counter(text)) if hit]
    return min(found, key=lambda hit: hit.start, default=None)


def stable_length(text: str) -> int | None:
    """Characters before the line (or sentence) of the first volatile word; ``None`` without one.

    The cut stands at the start of its line where that leaves something, else right before the
    sentence, else before the word: a cut must fall at the same place whatever the word says.

    >>> stable_length("Rules.\\nNow: 14:03"), stable_length("The time is 14:03"), stable_length("a")
    (7, 0, None)
    """
    hit = find_volatile(text)
    if hit is None:
        return None
    line = text.rfind("\n", 0, hit.start) + 1
    if line:
        return line
    sentence = text.rfind(". ", 0, hit.start)
    return sentence + 2 if sentence >= 0 else 0


class StableHeads:
    """Remembers how far texts are stable, so that a large prompt is searched once, not per call.

    A text is recognised by its beginning. What is remembered for it holds only while the characters
    before the cut are the very same; otherwise it is searched again.
    """

    def __init__(self, capacity: int = 512) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, tuple[int | None, bytes]] = OrderedDict()

    def length(self, text: str) -> int | None:
        """As ``stable_length``."""
        name = text[:200]
        known = self._known.get(name)
        if known is not None:
            cut, digest = known
            if digest == _digest(text if cut is None else text[:cut]):
                return cut
        cut = stable_length(text)
        self._known[name] = (cut, _digest(text if cut is None else text[:cut]))
        self._known.move_to_end(name)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return cut


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _time(text: str) -> Volatile | None:
    """A clock time said to be the present one, or part of an instant. Opening hours are neither."""
    at = 0
    while (hit := _TIME.search(text, at)) is not None:
        at = hit.end()
        hour = _HOUR_BEFORE.search(text, max(0, hit.start() - 3), hit.start())
        if hour is None:
            continue
        start = hour.start()
        around = text[max(0, start - _WINDOW) : start]
        dated = _DATE_BEFORE.search(around)
        if (
            dated
            or _NEAR.search(around)
            or (_FORM.match(text[at : at + 12]) and _NEAR.search(text[at : at + _WINDOW]))
        ):
            begin = start - (len(around) - dated.start()) if dated else start
            return Volatile("time", begin, at)
    return None


def _uuid(text: str) -> Volatile | None:
    at = 0
    while (hit := _UUID.search(text, at)) is not None:
        first = _EIGHT_BEFORE.search(text, max(0, hit.start() - 9), hit.start())
        if first is not None:
            return Volatile("uuid", first.start(), hit.end())
        at = hit.end()
    return None


def _epoch(text: str) -> Volatile | None:
    at = 0
    while (hit := _EPOCH.search(text, at)) is not None:
        before = text[hit.start() - 1] if hit.start() else " "
        if not (before.isalnum() or before in "._-"):
            return Volatile("epoch", hit.start(), hit.end())
        at = hit.end()
    return None


def _counter(text: str) -> Volatile | None:
    """A number or id said to be this call's: ``Request #17``, ``session_id: 3fa9``."""
    found: Volatile | None = None
    for sign in ":=#":
        at = text.find(sign)
        while at >= 0 and (found is None or at < found.start):
            if _COUNTER_BEFORE.search(text, max(0, at - 24), at):
                value = _COUNTED.match(text, at + 1)
                if value is not None and any(letter.isdigit() for letter in value[1]):
                    found = Volatile("counter", value.start(1), value.end())
                    break
            at = text.find(sign, at + 1)
    return found
