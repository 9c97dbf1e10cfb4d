"""Prompt caching as Bedrock bills it: prefixes by digest, minimum sizes, lifetimes, look-back.

A prefix is a chain of blocks (tools, then system, then messages) hashed one onto the next. A point
reads the longest live prefix that ends at one of the last ``LOOK_BACK`` blocks before it, and
writes what stands between that and itself. Reading prolongs what is read, and every point within.
Below the model's minimum a point does nothing, silently. What a call writes can be read once its
reply has begun, so calls made at once all pay for the write.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kimiya.core.token_estimate import MESSAGE_TOKENS, estimate_text_tokens
from kimiya.providers.simulated.bedrock_models import CacheBehaviour

LOOK_BACK = 20
TTL_S = {"5m": 300.0, "30m": 1800.0, "1h": 3600.0}


class Block(Struct, frozen=True):
    """One block of a request, or a point between two."""

    place: str
    """``tools``, ``system`` or ``messages``."""
    tokens: int = 0
    digest: bytes = b""
    """Of the chain up to and including it."""
    ttl: str | None = None
    """Set on a point: its lifetime."""


class Bill(Struct, frozen=True):
    """Input of one call, by class."""

    fresh_tokens: int
    read_tokens: int = 0
    written: tuple[tuple[str, int], ...] = ()
    """Lifetime and tokens of each stretch written."""
    pending: tuple[tuple[bytes, str], ...] = ()
    """Prefixes that live from when the reply begins, with their lifetimes."""

    @property
    def written_tokens(self) -> int:
        """All writes."""
        return sum(tokens for _, tokens in self.written)

    @property
    def input_tokens(self) -> int:
        """Everything read, as ``Usage.input_tokens`` counts."""
        return self.fresh_tokens + self.read_tokens + self.written_tokens


def blocks_of(body: Any, seed: str) -> list[Block]:
    """A Converse body as the chain of its blocks, points among them.

    ``seed`` says whose cache it is: nothing is shared between models, regions or accounts.
    """
    blocks: list[Block] = []
    chain = hashlib.sha256(seed.encode()).digest()
    for place, entry, is_first in _entries(body):
        if _is_point(entry):
            point = entry["cachePoint"]
            blocks.append(Block(place, digest=chain, ttl=point.get("ttl") or "5m"))
            continue
        data = msgspec.json.encode(entry, order="deterministic")
        chain = hashlib.sha256(chain + place.encode() + data).digest()
        blocks.append(
            Block(place, _tokens(entry, data) + (MESSAGE_TOKENS if is_first else 0), chain)
        )
    return blocks


class PromptCache:
    """What is cached now, for one account."""

    def __init__(self) -> None:
        self._live: dict[bytes, tuple[float, float]] = {}
        """Lifetime in seconds and end on the clock, by digest."""

    def bill(self, blocks: Sequence[Block], rule: CacheBehaviour, now_s: float) -> Bill:
        """What a call is billed for its input; reading prolongs what is read."""
        total = sum(block.tokens for block in blocks)
        match rule.kind:
            case "explicit":
                points = [at for at, block in enumerate(blocks) if block.ttl]
                reach = LOOK_BACK - 1
            case "implicit":
                points = [at for at, block in enumerate(blocks) if not block.ttl]
                reach = 0
            case _:
                return Bill(total)
        sizes = _sizes(blocks)
        points = [at for at in points if sizes[at] >= rule.min_tokens]
        hit = self._longest(blocks, points, reach, now_s)
        read = sizes[hit] if hit is not None else 0
        written: list[tuple[str, int]] = []
        pending: list[tuple[bytes, str]] = []
        done = read
        for at in points:
            ttl = blocks[at].ttl or rule.ttls[0]
            if sizes[at] > read:
                pending.append((blocks[at].digest, ttl))
            if sizes[at] > done:
                written.append((ttl, sizes[at] - done))
                done = sizes[at]
        return Bill(total - done, read, _merged(written), tuple(pending))

    def commit(self, bill: Bill, now_s: float) -> None:
        """The reply has begun: what it wrote can be read."""
        for digest, ttl in bill.pending:
            self._live[digest] = (TTL_S[ttl], now_s + TTL_S[ttl])

    def _longest(
        self, blocks: Sequence[Block], points: Sequence[int], reach: int, now_s: float
    ) -> int | None:
        for at in reversed(points):
            for earlier in _back_from(blocks, at, reach):
                if self._prolong(blocks[earlier].digest, now_s):
                    for within in points:
                        if within < earlier:
                            self._prolong(blocks[within].digest, now_s)
                    return earlier
        return None

    def _prolong(self, digest: bytes, now_s: float) -> bool:
        """Let a prefix live on from now; whether it lived."""
        lifetime_s, end_s = self._live.get(digest, (0.0, now_s))
        if end_s > now_s:
            self._live[digest] = (lifetime_s, now_s + lifetime_s)
        return end_s > now_s


def _back_from(blocks: Sequence[Block], at: int, reach: int) -> Iterator[int]:
    """Places from ``at`` back over ``reach`` blocks; points do not count as blocks."""
    passed = 0
    for earlier in range(at, -1, -1):
        if passed > reach:
            return
        yield earlier
        passed += blocks[earlier].ttl is None


def _entries(body: Any) -> Iterator[tuple[str, Any, bool]]:
    """Place, block, and whether it opens a message."""
    config: Any = body.get("toolConfig")
    for tool in config.get("tools") or () if config else ():
        yield "tools", tool, False
    for at, block in enumerate(body.get("system") or ()):
        yield "system", block, at == 0
    for message in body.get("messages") or ():
        opening: Any = {"role": message.get("role")}
        for at, block in enumerate(message.get("content") or ()):
            # The role is part of what is cached, and stands before the first block only.
            is_opening = at == 0 and not _is_point(block)
            yield "messages", opening | block if is_opening else block, at == 0


def _is_point(entry: Any) -> bool:
    # No TypeGuard wanted: what is checked was seen to be an object before.
    return "cachePoint" in entry


def _tokens(entry: Any, data: bytes) -> int:
    text = entry.get("text")
    return estimate_text_tokens(text) if isinstance(text, str) else -(-len(data) // 4)


def _sizes(blocks: Sequence[Block]) -> list[int]:
    total, sizes = 0, list[int]()
    for block in blocks:
        total += block.tokens
        sizes.append(total)
    return sizes


def _merged(written: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    totals: dict[str, int] = {}
    for ttl, tokens in written:
        totals[ttl] = totals.get(ttl, 0) + tokens
    return tuple(totals.items())
