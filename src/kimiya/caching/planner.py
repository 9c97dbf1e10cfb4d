"""Where the cache breakpoints of a call go, learnt from what the host's usage has shown to repeat.

``plan`` before a call is sent, ``observe`` after it has ended well: that is the whole seam.

Invariants:

* A client's own marks are neither moved nor dropped. Where it placed some, ours join them only on
  evidence, never on a guess.
* For hosts that cache by themselves, or not at all, the request comes back as the same object
  (unless mends are asked for).
* Marks stand where the card allows, never inside a tool result, never in an assistant's message
  (so never after reasoning), and their lifetimes do not rise from tools to system to messages.
* The same request, history and time give the same plan.
"""

from datetime import datetime

from msgspec import Struct

from kimiya.caching.affinity import beginning_of, conversation_key
from kimiya.caching.economy import Chance, Factors, factors_of
from kimiya.caching.history import PrefixHistory, Sight
from kimiya.caching.learning import (
    ENDS,
    Kind,
    Landmark,
    Lesson,
    behind,
    chance_of_end,
    chance_of_kind,
    chance_of_known,
    reach_of,
    scope_of,
)
from kimiya.caching.marking import with_marks
from kimiya.caching.mends import mend
from kimiya.caching.placement import Candidate, Mark, Slots, choose
from kimiya.caching.prefix import Block, Prefix, marked, read_prefix
from kimiya.caching.volatile import StableHeads
from kimiya.catalog.card import ModelCard
from kimiya.core.context import CallContext
from kimiya.core.exchange import Adjustment, Request, Usage
from kimiya.core.messages import CacheTtl

_MOST_KNOWN = 64
"""Prefixes of one request remembered beside its landmarks."""
_MIN_TOKENS = 1024
"""For cards that do not say: Claude's most common minimum."""
_GATE_TOKENS = 2048
"""A prefix below this is not worth waiting for while another call writes it."""


class PrefixKeys(Struct, frozen=True):
    """What ``observe`` and single flight need to know of a planned call."""

    landmarks: tuple[Landmark, ...] = ()
    also: tuple[bytes, ...] = ()
    """Further prefixes to recognise in later calls."""
    key: str = ""
    """Whose habits the call tells of."""
    at_s: float = 0.0
    """When it was planned, in Unix seconds."""
    tokens: int = 0
    """Estimated input tokens."""
    affinity: str = ""
    """What pins the conversation to a replica (``affinity_key``, root included)."""
    gates: tuple[bytes, ...] = ()
    """Prefixes this call would write that others may be writing right now; deep to shallow."""


class Planned(Struct, frozen=True):
    """A request with its breakpoints, and every change on the way to it."""

    request: Request
    adjustments: tuple[Adjustment, ...] = ()
    prefix: PrefixKeys = PrefixKeys()


class Planner:
    """Plans breakpoints; one for all calls of a process.

    Args:
        history: Where it keeps what it learns.
        mends: Whether to sort tools and the keys of their schemas first (``mends.mend``).
    """

    def __init__(self, history: PrefixHistory, *, mends: bool = False) -> None:
        self._history = history
        self._mends = mends
        self._heads = StableHeads()
        self._factors: dict[tuple[str, str, int, bool], Factors] = {}

    def plan(
        self, request: Request, card: ModelCard, context: CallContext, now: datetime
    ) -> Planned:
        """Place breakpoints in ``request`` for the host of ``card``.

        Args:
            request: After taming, before ``adapt``.
            card: The model at the host it goes to.
            context: On whose account.
            now: UTC.
        """
        notes: tuple[Adjustment, ...] = ()
        if self._mends:
            mended = mend(request)
            request, notes = mended.request, mended.adjustments
        prefix = read_prefix(request, f"{card.host}/{card.model_id}", self._heads)
        if not prefix.blocks:
            return Planned(request, notes)
        now_s = now.timestamp()
        view = _View(self._history, prefix, request, context, now_s)
        if card.cache.kind != "explicit" or prefix.has_foreign_marks:
            return Planned(request, notes, view.keys(()))
        slots = _slots(card, prefix)
        factors = self._factors_of(card, now, prefix.tokens)
        marks = choose(view.candidates(card, is_guessing=not slots.fixed), factors, slots)
        keys = view.keys((*marks, *slots.fixed))
        if not marks:
            return Planned(request, notes, keys)
        blocks = {mark.position: prefix.blocks[mark.position] for mark in marks}
        planned = with_marks(request, blocks, {mark.position: mark.ttl for mark in marks})
        return Planned(planned, (*notes, *_notes(blocks, marks)), keys)

    def observe(
        self, prefix: PrefixKeys, card: ModelCard, usage: Usage | None, now: datetime
    ) -> None:
        """Learn from a call that ended well.

        Args:
            prefix: Of its plan.
            card: The one it was planned for.
            usage: What the host reported; ``None`` teaches what repeats, but not what is cached.
            now: UTC; kept for stores that expire by it.
        """
        if not prefix.landmarks:
            return
        lesson = Lesson(self._history, prefix.key, min(prefix.at_s, now.timestamp()))
        lesson.take(prefix.landmarks, prefix.also, reach_of(usage, prefix.tokens))

    def _factors_of(self, card: ModelCard, now: datetime, tokens: int) -> Factors:
        name = (card.host, card.model_id, now.toordinal(), tokens > 100_000)
        found = self._factors.get(name)
        if found is None:
            if len(self._factors) > 256:
                self._factors.clear()
            found = self._factors[name] = factors_of(card, now.date(), tokens)
        return found


def _slots(card: ModelCard, prefix: Prefix) -> Slots:
    fixed = tuple(
        Mark(at, (mark.ttl or "5m")) for at in marked(prefix) if (mark := prefix.blocks[at].mark)
    )
    rule = card.cache
    lifetimes: tuple[CacheTtl, ...] = tuple(ttl for ttl in rule.ttls if ttl != "30m") or ("5m",)
    least = _MIN_TOKENS if rule.min_tokens is None else rule.min_tokens
    return Slots(rule.max_breakpoints - len(fixed), lifetimes, least, fixed)


def _notes(blocks: dict[int, Block], marks: tuple[Mark, ...]) -> tuple[Adjustment, ...]:
    where = ", ".join(f"{blocks[m.position].path} ({m.ttl})" for m in marks)
    notes = [Adjustment("cache_breakpoints_placed", f"{len(marks)} after {where}")]
    for block in blocks.values():
        if block.cut is not None:
            notes.append(
                Adjustment(
                    "system_text_split",
                    f"sent as two texts, cut at character {block.cut}: what follows holds a time,"
                    " a counter or an id that changes and would keep all of it out of the cache",
                    block.path,
                )
            )
    return tuple(notes)


class _View:
    """One request beside what is known of its prefixes."""

    def __init__(
        self,
        history: PrefixHistory,
        prefix: Prefix,
        request: Request,
        context: CallContext,
        now_s: float,
    ) -> None:
        self._history = history
        self._prefix = prefix
        self._key = context.key_id or ""
        self._now_s = now_s
        self.affinity = (
            beginning_of(prefix) if context.conversation is None else conversation_key(context)
        )
        blocks = prefix.blocks
        self._sights = history.sights([block.digest for block in blocks])
        self._anchor = next(
            (at for at in range(len(blocks) - 1, -1, -1) if self._sights[at] is not None), -1
        )
        self._volatile = next(
            (at for at, block in enumerate(blocks) if block.is_volatile), len(blocks)
        )
        if self._volatile <= self._anchor:
            self._volatile = len(blocks)
        self._kinds = self._landmarks(request)

    def _landmarks(self, request: Request) -> dict[int, Kind]:
        """Positions worth thinking about, with what each ends."""
        blocks = self._prefix.blocks
        kinds: dict[int, Kind] = {}
        first_message = len(blocks)
        for at, block in enumerate(blocks):
            if block.place == "messages":
                first_message = at
                break
            following = blocks[at + 1] if at + 1 < len(blocks) else None
            if block.place == "system":
                kinds[at] = "system"
            elif following is None or following.place != "tools":
                kinds[at] = "tools"
        self._first_user(kinds, first_message)
        tail = _tail_kind(request)
        for at, sight in enumerate(self._sights):
            is_known = sight is not None and (at == self._anchor or sight.is_alive(self._now_s))
            if is_known or blocks[at].mark is not None:
                kinds.setdefault(at, tail)
        kinds.setdefault(self._tip(), tail)
        return dict(sorted(kinds.items()))

    def _first_user(self, kinds: dict[int, Kind], first: int) -> None:
        """A document and a question about it: each part of the first message but its last."""
        blocks = self._prefix.blocks
        at = first
        while at + 1 < len(blocks) and blocks[at + 1].index == blocks[first].index:
            if blocks[at].holds_mark and at - first < 8:
                kinds[at] = "head"
            at += 1

    def _tip(self) -> int:
        blocks = self._prefix.blocks
        for at in range(len(blocks) - 1, -1, -1):
            if blocks[at].holds_mark:
                return at
        return len(blocks) - 1

    def candidates(self, card: ModelCard, *, is_guessing: bool) -> list[Candidate]:
        """Prefixes a mark may end, with how likely each comes back.

        Args:
            card: Says in which sections marks may stand.
            is_guessing: Whether priors count, or only what was seen to repeat.
        """
        out: list[Candidate] = []
        limit = Chance(1.0, 1.0)
        for at, kind in self._kinds.items():
            block, sight = self._prefix.blocks[at], self._sights[at]
            chance = self._chance(at, kind)
            limit = Chance(min(limit.quick, chance.quick), min(limit.hour, chance.hour))
            if (
                not block.holds_mark
                or block.mark is not None
                or block.place not in card.cache.places
            ):
                continue
            if not is_guessing and (sight is None or not sight.returns) and at > self._anchor:
                # Beside a client's own marks a new end needs a conversation that has gone on.
                anchor = self._sights[self._anchor] if self._anchor >= 0 else None
                if anchor is None or anchor.line_quick + anchor.line_slow < 1:
                    continue
            alive = sight.ttl if sight is not None and sight.is_alive(self._now_s) else None
            out.append(Candidate(at, block.tokens, limit, alive))
        return out

    def _chance(self, at: int, kind: Kind) -> Chance:
        sight = self._sights[at]
        if sight is None and at >= self._volatile:
            kind = "volatile"
        rates = self._history.rates(scope_of(self._key, kind))
        base = chance_of_kind(rates, kind, self._now_s)
        if sight is not None:
            return chance_of_known(sight, base, self._now_s)
        if kind in ENDS and self._anchor >= 0:
            anchor = self._sights[self._anchor]
            if anchor is not None:
                among = self._history.rates(behind(self._prefix.blocks[self._anchor].digest))
                return chance_of_end(anchor, among, base, self._now_s)
        return base

    def keys(self, marks: tuple[Mark, ...]) -> PrefixKeys:
        """What to learn from, once the call has ended."""
        blocks = self._prefix.blocks
        ttls: dict[int, CacheTtl] = {mark.position: mark.ttl for mark in marks}
        landmarks = tuple(
            Landmark(
                blocks[at].digest,
                blocks[at].tokens,
                "volatile" if at >= self._volatile and self._sights[at] is None else kind,
                ttls.get(at),
            )
            for at, kind in self._kinds.items()
        )
        also = tuple(
            block.digest
            for at, block in enumerate(blocks[:_MOST_KNOWN])
            if self._sights[at] is None and at not in self._kinds and block.place == "tools"
        )
        return PrefixKeys(
            landmarks,
            also,
            self._key,
            self._now_s,
            self._prefix.tokens,
            self.affinity,
            self._gates(ttls),
        )

    def _gates(self, ttls: dict[int, CacheTtl]) -> tuple[bytes, ...]:
        blocks = self._prefix.blocks
        return tuple(
            blocks[at].digest
            for at in sorted(ttls, reverse=True)
            if blocks[at].tokens >= _GATE_TOKENS and not _lives(self._sights[at], self._now_s)
        )


def _lives(sight: Sight | None, now_s: float) -> bool:
    return sight is not None and sight.is_alive(now_s)


def _tail_kind(request: Request) -> Kind:
    if request.tools:
        return "loop"
    if any(message.role == "assistant" for message in request.messages):
        return "chat"
    return "single"
