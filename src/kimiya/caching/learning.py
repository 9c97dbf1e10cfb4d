"""From what has been seen to how likely each prefix comes back.

A prefix that was seen before speaks for itself. A new one is judged by its like: prefixes of its
kind under the same key, the conversation it continues, and what became of earlier ends behind the
same prefix. Each kind starts from a prior worth a few observations, so a key's own habit prevails
after a handful of calls.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from kimiya.caching.economy import Chance
from kimiya.caching.history import TTL_S, PrefixHistory, Rates, Sight
from kimiya.core.exchange import Usage
from kimiya.core.messages import CacheTtl

Kind = Literal["tools", "system", "head", "loop", "chat", "single", "volatile"]
"""What a prefix ends with: the tools; the system prompt; a part of the first user message before
its last; a call of an agent with tools; a later turn of a chat; a lone question; any of these
behind a volatile word."""

PRIOR: Mapping[Kind, float] = {
    "tools": 0.80,
    "system": 0.80,
    "head": 0.60,
    "loop": 0.80,
    "chat": 0.70,
    "single": 0.40,
    "volatile": 0.05,
}
"""How likely a new prefix of the kind comes back within the hour, before anything is known."""

ENDS: frozenset[Kind] = frozenset(("loop", "chat", "single", "volatile"))
"""Kinds that end a call."""

_QUICK_SHARE = 0.9
"""Of what comes back, how much does within five minutes, before anything is known."""
_PRIOR_WEIGHT = 4.0
_SIGHT_WEIGHT = 2.0
_ENDS_WEIGHT = 3.0
_YOUNG_S = 60.0
_YOUNG_MISS = 0.1
_OLD_MISS = 0.75
"""How much of a miss one is that has not come back yet, before and after ``_YOUNG_S`` seconds."""
_MOST_OPEN = 256
_MOST_EVIDENCE = 200.0
"""Above it all counts are halved: a key's habits change."""


class Landmark(Struct, frozen=True, gc=False):
    """A prefix worth remembering: the end of a section, or of the whole request."""

    digest: bytes
    tokens: int
    """Estimated."""
    kind: Kind
    ttl: CacheTtl | None = None
    """Lifetime of the breakpoint behind it as sent; ``None`` without one."""


def scope_of(key: str, kind: Kind) -> str:
    """Names a class of prefixes of one key in the history."""
    return f"{kind}\0{key}"


def behind(digest: bytes) -> str:
    """Names the class of ends that calls have added right behind one prefix."""
    return f"behind\0{digest.hex()}"


def evidence(rates: Rates, now_s: float) -> float:
    """How much is known of a class, in observations."""
    waiting = rates.open_s
    old = bisect_left(waiting, now_s - _YOUNG_S, key=_seen_s)
    doubt = _OLD_MISS * old + _YOUNG_MISS * (len(waiting) - old)
    return rates.quick + rates.slow + rates.missed + doubt


def _seen_s(item: tuple[float, bytes]) -> float:
    return item[0]


def _is_end(scope: str) -> bool:
    """Whether prefixes of the scope end a call: only they tell of a conversation's pace."""
    return scope.partition("\0")[0] in ENDS


def chance_of_kind(rates: Rates, kind: Kind, now_s: float) -> Chance:
    """Of a new prefix, by its like alone."""
    settle(rates, now_s)
    prior, weight = PRIOR[kind], _PRIOR_WEIGHT
    total = evidence(rates, now_s) + weight
    quick = (rates.quick + weight * prior * _QUICK_SHARE) / total
    return Chance(quick, (rates.quick + rates.slow + weight * prior) / total)


def chance_of_known(sight: Sight, kind: Chance, now_s: float) -> Chance:
    """Of a prefix seen before and here again."""
    here = came_back(sight, now_s)
    total = here.returns + _SIGHT_WEIGHT
    return Chance(
        (here.quick + _SIGHT_WEIGHT * kind.quick) / total,
        (here.quick + here.slow + _SIGHT_WEIGHT * kind.hour) / total,
    )


def chance_of_end(anchor: Sight, others: Rates, kind: Chance, now_s: float) -> Chance:
    """Of a new end behind a known prefix.

    Args:
        anchor: The prefix; it tells the pace of its conversation.
        others: How earlier ends behind the same prefix fared.
        kind: Of its like.
        now_s: Unix seconds.
    """
    settle(others, now_s)
    quick, slow = anchor.line_quick, anchor.line_slow
    if any(map(_is_end, anchor.trials)):
        here = came_back(anchor, now_s)
        quick, slow = quick + here.quick - anchor.quick, slow + here.slow - anchor.slow
    total = quick + slow + _PRIOR_WEIGHT
    hour = (quick + slow + _PRIOR_WEIGHT * kind.hour) / total
    share = (quick + _PRIOR_WEIGHT * kind.quick) / total / hour if hour else 0.0
    returned = others.quick + others.slow
    hour = (hour * _ENDS_WEIGHT + returned) / (_ENDS_WEIGHT + evidence(others, now_s))
    return Chance(hour * share, hour)


def came_back(sight: Sight, now_s: float) -> Sight:
    """The sight with one more return, now."""
    gap_s = now_s - sight.last_s
    last_s = max(now_s, sight.last_s)
    if gap_s <= TTL_S["5m"]:
        return replace(sight, last_s=last_s, quick=sight.quick + 1)
    if gap_s <= TTL_S["1h"]:
        return replace(sight, last_s=last_s, slow=sight.slow + 1)
    return replace(sight, last_s=last_s, late=sight.late + 1)


def settle(rates: Rates, now_s: float) -> None:
    """Count what has not come back in five minutes as missed."""
    waiting = rates.open_s
    gone = 0
    limit_s = now_s - TTL_S["5m"]
    while gone < len(waiting) and waiting[gone][0] < limit_s:
        gone += 1
    gone = max(gone, len(waiting) - _MOST_OPEN)
    if gone:
        rates.missed += gone
        del waiting[:gone]
    if rates.quick + rates.slow + rates.missed > _MOST_EVIDENCE:
        rates.quick, rates.slow, rates.missed = rates.quick / 2, rates.slow / 2, rates.missed / 2


class Lesson:
    """What one finished call teaches; made anew for each, it writes to the history at the end."""

    def __init__(self, history: PrefixHistory, key: str, at_s: float) -> None:
        self._history = history
        self._key = key
        self._at_s = at_s
        self._changed: dict[bytes, Sight] = {}

    def take(self, landmarks: tuple[Landmark, ...], also: tuple[bytes, ...], reach: float) -> None:
        """Learn from a call.

        Args:
            landmarks: Of the request, shallow to deep.
            also: Further prefixes to recognise later on.
            reach: Tokens (as estimated) up to which the host's cache was read or written; -1 where
                it did not say.
        """
        anchor: bytes | None = None
        known = self._history.sights(landmark.digest for landmark in landmarks)
        for landmark, sight in zip(landmarks, known, strict=True):
            if sight is None:
                sight = self._first(landmark, anchor)
            else:
                sight = self._again(landmark.digest, sight)
                anchor = landmark.digest
            self._changed[landmark.digest] = self._with_life(sight, landmark, reach)
        for digest, sight in zip(also, self._history.sights(also), strict=True):
            if sight is None and digest not in self._changed:
                self._changed[digest] = Sight(self._at_s)
        self._history.keep_sights(self._changed.items())

    def _first(self, landmark: Landmark, anchor: bytes | None) -> Sight:
        scope = scope_of(self._key, landmark.kind)
        parent = self._sight(anchor)
        if anchor is None or parent is None or landmark.kind not in ENDS:
            self._await(landmark.digest, scope)
            return Sight(self._at_s, trials=(scope,))
        among = behind(anchor)
        self._await(landmark.digest, scope, among)
        return Sight(
            self._at_s,
            trials=(scope, among),
            line_quick=parent.line_quick,
            line_slow=parent.line_slow,
        )

    def _await(self, digest: bytes, *scopes: str) -> None:
        for scope in scopes:
            rates = self._history.rates(scope)
            settle(rates, self._at_s)
            insort(rates.open_s, (self._at_s, digest))
            self._history.keep_rates(scope, rates)

    def _again(self, digest: bytes, before: Sight) -> Sight:
        sight = came_back(before, self._at_s)
        if not sight.trials:
            return sight
        quick, slow = sight.quick - before.quick, sight.slow - before.slow
        for scope in sight.trials:
            rates = self._history.rates(scope)
            settle(rates, self._at_s)
            rates.quick += quick
            rates.slow += slow
            _close(rates, digest, was_missed=slow > 0)
            self._history.keep_rates(scope, rates)
        if not any(map(_is_end, sight.trials)):
            return replace(sight, trials=())
        return replace(
            sight,
            trials=(),
            line_quick=sight.line_quick + quick,
            line_slow=sight.line_slow + slow,
        )

    def _sight(self, digest: bytes | None) -> Sight | None:
        if digest is None:
            return None
        return self._changed.get(digest) or self._history.sights((digest,))[0]

    def _with_life(self, sight: Sight, landmark: Landmark, reach: float) -> Sight:
        if landmark.ttl is None or reach < 0:
            return sight
        if landmark.tokens > reach:
            return replace(sight, alive_until_s=0.0)
        ttl = sight.ttl if sight.is_alive(self._at_s) else landmark.ttl
        return replace(sight, alive_until_s=self._at_s + TTL_S[ttl], ttl=ttl)


def reach_of(usage: Usage | None, estimated_tokens: int) -> float:
    """How far into the request the host's cache went, on the scale of the estimate."""
    if usage is None or usage.input_tokens <= 0:
        return -1.0
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    if not cached:
        return 0.0
    # The estimate errs differently in different parts of a request.
    return cached * estimated_tokens / usage.input_tokens * 1.05 + 64


def _close(rates: Rates, digest: bytes, *, was_missed: bool) -> None:
    """Take one out of what is awaited, or out of what had been given up too early."""
    for place, (_, awaited) in enumerate(rates.open_s):
        if awaited == digest:
            del rates.open_s[place]
            return
    if was_missed:
        rates.missed = max(0.0, rates.missed - 1)
