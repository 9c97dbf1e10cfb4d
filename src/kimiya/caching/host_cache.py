"""What a host's prompt cache does with one call: how many tokens are read, written and plain.

The exact model of a card's rule: lifetimes refreshed by use, the minimum, the number of marks, the
search back from each mark, and that a prefix can be read only once the reply that wrote it has
begun. Tests and the bench bill with it, the linter counts with it what a mistake has cost.

Source: platform.claude.com/docs/en/build-with-claude/prompt-caching and the Bedrock user guide's
page of the same name, 2026-11-22.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from kimiya.caching.history import TTL_S
from kimiya.caching.prefix import Block
from kimiya.catalog.card import CacheRule
from kimiya.core.exchange import Usage
from kimiya.core.messages import CacheTtl
from kimiya.errors import InvalidRequest

LOOKBACK_BLOCKS = 20
"""Blocks before a mark, the marked one included, in which an earlier entry is looked for."""
_SWEEP = 4096


class Entry(Struct, frozen=True):
    """A prefix the host holds."""

    from_s: float
    """When the reply that wrote it began: earlier it cannot be read."""
    until_s: float
    ttl: CacheTtl


class HostCache:
    """The cache of one model at one host.

    Args:
        rule: Of the card.
        lookback: Blocks searched back from each mark.
    """

    def __init__(self, rule: CacheRule, lookback: int = LOOKBACK_BLOCKS) -> None:
        self._rule = rule
        self._lookback = lookback
        self._entries: dict[bytes, Entry] = {}
        self._swept = _SWEEP

    def bill(
        self,
        blocks: Sequence[Block],
        marks: Mapping[int, CacheTtl],
        at_s: float,
        begins_s: float | None = None,
    ) -> Usage:
        """Take one call; returns its input tokens by class.

        Args:
            blocks: Of the request; ``tokens`` as this host counts them.
            marks: Lifetime by the position of the block each stands behind.
            at_s: When the call arrives, in seconds.
            begins_s: When its reply begins; ``at_s`` where that does not matter.

        Raises:
            InvalidRequest: More marks than the rule allows, or lifetimes that rise with depth.
        """
        self._check(marks)
        total = blocks[-1].tokens if blocks else 0
        least = self._rule.min_tokens or 0
        counted = [at for at in sorted(marks) if blocks[at].tokens >= least]
        hit = max((self._found(blocks, at, at_s) for at in counted), default=-1)
        read = blocks[hit].tokens if hit >= 0 else 0
        fresh = [at for at in counted if at > hit]
        last_hour = max((at for at in fresh if marks[at] == "1h"), default=-1)
        written = blocks[fresh[-1]].tokens - read if fresh else 0
        written_1h = blocks[last_hour].tokens - read if last_hour >= 0 else 0
        self._keep(blocks, marks, counted, hit, (at_s, at_s if begins_s is None else begins_s))
        return Usage(
            input_tokens=total,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=written_1h,
        )

    def copy(self) -> "HostCache":
        """Another host that remembers the same."""
        other = HostCache(self._rule, self._lookback)
        other._entries = dict(self._entries)
        return other

    def holds(self, digest: bytes, at_s: float) -> bool:
        """Whether a prefix could be read at this moment."""
        entry = self._entries.get(digest)
        return entry is not None and entry.from_s <= at_s <= entry.until_s

    def _check(self, marks: Mapping[int, CacheTtl]) -> None:
        if len(marks) > self._rule.max_breakpoints:
            raise InvalidRequest(
                f"{len(marks)} cache marks, {self._rule.max_breakpoints} are allowed", status=400
            )
        ordered = [marks[at] for at in sorted(marks)]
        if any(a == "5m" and b == "1h" for a, b in pairwise(ordered)):
            raise InvalidRequest("a cache mark of 1h stands behind one of 5m", status=400)

    def _found(self, blocks: Sequence[Block], mark: int, at_s: float) -> int:
        for at in range(mark, max(-1, mark - self._lookback), -1):
            if self.holds(blocks[at].digest, at_s):
                return at
        return -1

    def _keep(
        self,
        blocks: Sequence[Block],
        marks: Mapping[int, CacheTtl],
        counted: list[int],
        hit: int,
        times: tuple[float, float],
    ) -> None:
        at_s, begins_s = times
        for at in [*(at for at in counted if at <= hit), *([hit] if hit >= 0 else [])]:
            entry = self._entries.get(blocks[at].digest)
            if entry is not None and entry.from_s <= at_s <= entry.until_s:
                until_s = max(entry.until_s, at_s + TTL_S[entry.ttl])
                self._entries[blocks[at].digest] = Entry(entry.from_s, until_s, entry.ttl)
        for at in counted:
            digest = blocks[at].digest
            if at > hit:
                before = self._entries.get(digest)
                # Another call may be writing the same; whoever begins first makes it readable.
                still = before is not None and before.until_s >= at_s
                from_s = min(before.from_s, begins_s) if before and still else begins_s
                self._entries[digest] = Entry(from_s, at_s + TTL_S[marks[at]], marks[at])
        if len(self._entries) > self._swept:
            self._entries = {d: e for d, e in self._entries.items() if e.until_s >= at_s}
            self._swept = len(self._entries) + _SWEEP
