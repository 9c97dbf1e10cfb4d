"""What in a client's requests keeps its host's cache from working, with what it has cost so far.

::

    PC001  a volatile word stands before a breakpoint, or before most of the prompt
    PC002  the same tools in another order than before
    PC003  the same tool schema with its keys in another order
    PC004  a breakpoint under the host's minimum: it is ignored
    PC005  more breakpoints than the host allows: it refuses the call
    PC006  a breakpoint that is written again and again and never read
    PC007  a lifetime shorter than the gap after which the prefix comes back
    PC008  the history was rewritten: what had been sent before is not what is sent now
    PC009  lifetimes rise from tools to messages: the host refuses the call
    PC010  breakpoints for a host that takes none

``Linter.feed`` takes requests one by one, in order; ``findings`` says what has been found. The same
complaint about the same place is one finding with a count. Dollars are an estimate from the card's
prices and estimated tokens; ``None`` is unpriced, never zero.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from hashlib import sha256

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kimiya.caching.economy import Factors, factors_of
from kimiya.caching.history import TTL_S
from kimiya.caching.prefix import Block, Prefix, canonical, marked, read_prefix
from kimiya.caching.volatile import Volatile, find_volatile
from kimiya.catalog.card import ModelCard
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request
from kimiya.core.messages import Text
from kimiya.errors import RemoteProtocolError

RULES: Mapping[str, str] = {
    "PC001": "Move it behind the last breakpoint, into the last user message; or let the planner"
    " cut the text before it",
    "PC002": "Send tools in one order; `[caching] mends = true` sorts them on the way",
    "PC003": "Write schemas with sorted keys; `[caching] mends = true` sorts them on the way",
    "PC004": "Move the breakpoint further down, or leave it out",
    "PC005": "Leave out the earliest ones in the messages",
    "PC006": "Move the breakpoint before what changes, or leave it out",
    "PC007": 'Write with ttl "1h"',
    "PC008": "Append to the history; change earlier messages only when it is compacted",
    "PC009": "Give tools and system the longest lifetime",
    "PC010": "Leave them out; Kimiya removes them on the way",
}
"""Code to mend."""

_MILLION = Decimal(1_000_000)
_NEVER_HITS = 3
"""Times a breakpoint must have been written at a place, with no read, before it is reported."""


class Finding(Struct, frozen=True):
    """One complaint about one place."""

    code: str
    path: str
    """Where in the request: ``tools[2]``, ``messages[0].parts[0]``."""
    offset: int | None
    """Character in the text there, where one is to blame."""
    detail: str
    """What was seen."""
    mend: str
    """What to do about it."""
    lost_usd: Decimal | None = Decimal(0)
    """Dollars lost to it so far; ``None`` where the model has no price."""
    count: int = 1
    """Calls it was seen in."""


class _Seen(Struct, frozen=True):
    """The latest call of one conversation."""

    at_s: float
    prefix: Prefix
    contents: tuple[bytes, ...]
    """Of each block alone, without those before it."""
    request: Request


class _Place(Struct):
    """What became of the breakpoint at one place."""

    writes: int = 0
    reads: int = 0


class Linter:
    """Lints one stream of requests; bounded, for it may run as long as a gateway.

    Args:
        conversations: How many to remember, each with its latest request; the longest silent are
            forgotten.
        most_findings: How many places to report.
    """

    def __init__(self, conversations: int = 256, most_findings: int = 1_000) -> None:
        self._most_seen = conversations
        self._most_findings = most_findings
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._sent: OrderedDict[bytes, float] = OrderedDict()
        self._places: OrderedDict[tuple[str, str], _Place] = OrderedDict()
        self._findings: dict[tuple[str, str], Finding] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What has been found, the dearest first."""
        return tuple(
            sorted(self._findings.values(), key=lambda f: (-(f.lost_usd or 0), f.code, f.path))
        )

    def feed(
        self, request: Request, card: ModelCard, context: CallContext, now: datetime
    ) -> tuple[Finding, ...]:
        """Look at one request, as the client sent it.

        Returns:
            What is wrong with it, each with the dollars this call lost to it.
        """
        prefix = read_prefix(request, f"{card.host}/{card.model_id}")
        if not prefix.blocks:
            return ()
        call = _Call(request, card, prefix, now)
        thread = _thread(request, context)
        before = self._seen.get(thread)
        found = [*_volatile(call, before), *_marks(call)]
        if before is not None:
            found += _changed(call, before)
        found += self._outcomes(call, thread)
        self._remember(thread, call)
        for finding in found:
            self._count(finding)
        return tuple(found)

    def _outcomes(self, call: "_Call", thread: str) -> Iterator[Finding]:
        """Breakpoints that are never read, or read too late."""
        blocks, now_s = call.prefix.blocks, call.now.timestamp()
        for at in marked(call.prefix):
            block = blocks[at]
            ttl = (block.mark.ttl if block.mark else None) or "5m"
            place = self._places.setdefault((thread, block.path), _Place())
            last_s = self._sent.get(block.digest)
            gap_s = None if last_s is None else now_s - last_s
            covered = any(
                other.digest in self._sent and now_s - self._sent[other.digest] <= TTL_S[ttl]
                for other in blocks[max(0, at - 19) : at + 1]
            )
            if covered:
                place.reads += 1
            else:
                place.writes += 1
            if gap_s is not None and TTL_S["5m"] < gap_s <= TTL_S["1h"] and ttl == "5m":
                yield call.finding(
                    "PC007",
                    block,
                    f"came back after {gap_s / 60:.0f} minutes, written for five",
                    block.tokens * (call.factors.write_5m - call.factors.read),
                )
            if not place.reads and place.writes >= _NEVER_HITS and gap_s is None:
                yield call.finding(
                    "PC006",
                    block,
                    f"written {place.writes} times, never read",
                    block.tokens * (call.factors.write_5m - 1),
                )

    def _remember(self, thread: str, call: "_Call") -> None:
        now_s = call.now.timestamp()
        for at in marked(call.prefix):
            digest = call.prefix.blocks[at].digest
            self._sent[digest] = now_s
            self._sent.move_to_end(digest)
        self._seen[thread] = _Seen(now_s, call.prefix, call.contents, call.request)
        self._seen.move_to_end(thread)
        for kept in (self._seen, self._sent, self._places):
            most = self._most_seen * (1 if kept is self._seen else 8)
            while len(kept) > most:
                kept.popitem(last=False)

    def _count(self, finding: Finding) -> None:
        key = (finding.code, finding.path)
        known = self._findings.get(key)
        if known is not None:
            lost = (known.lost_usd, finding.lost_usd)
            total = None if None in lost else sum((usd for usd in lost if usd), Decimal(0))
            finding = replace(finding, count=known.count + 1, lost_usd=total)
        elif len(self._findings) >= self._most_findings:
            return
        self._findings[key] = finding


class _Call:
    """One request, read."""

    def __init__(self, request: Request, card: ModelCard, prefix: Prefix, now: datetime) -> None:
        self.request = request
        self.card = card
        self.prefix = prefix
        self.now = now
        self.factors: Factors = factors_of(card, now.date(), prefix.tokens)
        self.price = card.price_on(now.date(), prefix.tokens)
        self.contents = tuple(map(self._content, prefix.blocks))

    def _content(self, block: Block) -> bytes:
        if block.part < 0:
            thing = self.request.tools[block.index]
            return sha256(canonical([thing.name, thing.description, thing.parameters])).digest()
        message = self.request.messages[block.index]
        part = message.parts[block.part]
        bare = part if getattr(part, "cache", None) is None else replace(part, cache=None)  # pyright: ignore[reportCallIssue]
        return sha256(canonical([message.role, bare])).digest()

    def text(self, block: Block) -> str | None:
        """Of a block that is text."""
        if block.part < 0:
            return self.request.tools[block.index].description
        part = self.request.messages[block.index].parts[block.part]
        return part.text if isinstance(part, Text) else None

    def finding(
        self, code: str, block: Block, detail: str, tokens: float = 0.0, offset: int | None = None
    ) -> Finding:
        """A finding, with what ``tokens`` (in plain input tokens) come to."""
        lost: Decimal | None = None
        if self.price is not None:
            lost = round(Decimal(tokens) * self.price.input_usd_per_mtok / _MILLION, 9)
        return Finding(code, block.path, offset, detail, RULES[code], lost)


def _thread(request: Request, context: CallContext) -> str:
    """Names a conversation: as the caller does, or by its key and first words."""
    who = context.key_id or ""
    if context.conversation is not None:
        return f"{who}\0{context.conversation}"
    for message in request.messages:
        if message.role not in ("system", "developer"):
            first = canonical(message.parts[:1])
            return f"{who}\0{sha256(first).hexdigest()}"
    return who


def _volatile(call: _Call, before: _Seen | None) -> Iterator[Finding]:
    """PC001. What stands behind the word was in the call before too, and is paid for again."""
    blocks = call.prefix.blocks
    last_mark = max(marked(call.prefix), default=-1)
    by_itself = call.card.cache.kind == "implicit"
    for at, block in enumerate(blocks):
        if block.place == "messages":
            return
        hit: Volatile | None = find_volatile(call.text(block) or "")
        if hit is None or not (at <= last_mark or (by_itself and at < len(blocks) - 1)):
            continue
        lost = 0.0
        if before is not None and before.contents[at : at + 1] != call.contents[at : at + 1]:
            behind = min(before.prefix.tokens, call.prefix.tokens) - _tokens_before(blocks, at)
            lost = max(0, behind) * (1 - call.factors.read)
        text = (call.text(block) or "")[hit.start : hit.end]
        yield call.finding("PC001", block, f"{hit.kind} {text[:60]!r}", lost, hit.start)


def _tokens_before(blocks: tuple[Block, ...], at: int) -> int:
    return blocks[at - 1].tokens if at else 0


def _marks(call: _Call) -> Iterator[Finding]:
    """PC004, PC005, PC009, PC010: what the card alone says of the marks."""
    rule, blocks = call.card.cache, call.prefix.blocks
    places = list(marked(call.prefix))
    if not places:
        return
    if rule.kind != "explicit":
        why = "it caches by itself" if rule.kind == "implicit" else "it has no prompt cache"
        yield call.finding("PC010", blocks[places[0]], f"{len(places)} breakpoint(s), but {why}")
        return
    if len(places) > rule.max_breakpoints:
        detail = f"{len(places)} breakpoints, {rule.max_breakpoints} are allowed"
        yield call.finding("PC005", blocks[places[rule.max_breakpoints]], detail)
    least = rule.min_tokens or 0
    for at in places:
        # The estimate may be a quarter too low; nobody is blamed for that.
        if blocks[at].tokens * 5 < least * 4:
            detail = f"about {blocks[at].tokens} tokens, the minimum is {least}"
            yield call.finding("PC004", blocks[at], detail)
    shorter = False
    for at in places:
        mark = blocks[at].mark
        if shorter and mark is not None and mark.ttl == "1h":
            yield call.finding("PC009", blocks[at], "1h behind 5m")
            return
        shorter |= mark is not None and mark.ttl != "1h"


def _changed(call: _Call, before: _Seen) -> Iterator[Finding]:
    """PC002, PC003, PC008: where this call leaves the way of the one before."""
    blocks = call.prefix.blocks
    shared = 0
    for mine, theirs in zip(call.contents, before.contents, strict=False):
        if mine != theirs:
            break
        shared += 1
    if shared >= min(len(blocks), len(before.contents)):
        return
    block = blocks[shared]
    again = min(before.prefix.tokens, call.prefix.tokens) - _tokens_before(blocks, shared)
    lost = max(0, again) * (1 - call.factors.read)
    if block.place == "tools":
        yield from _changed_tools(call, before, block, lost)
    elif block.place == "system":
        text = call.text(block)
        if text is not None and find_volatile(text) is None and _goes_on(call, before):
            at = _first_difference(call, before, block)
            detail = f"differs from the call before: {text[at or 0 :][:40]!r}"
            yield call.finding("PC001", block, detail, lost, at)
    elif before.prefix.blocks[shared].place == "messages" and len(
        before.contents
    ) - shared > _last_round(before):
        detail = "differs from what the call before had sent there"
        yield call.finding("PC008", block, detail, lost, _first_difference(call, before, block))


def _changed_tools(call: _Call, before: _Seen, block: Block, lost: float) -> Iterator[Finding]:
    mine, theirs = call.request.tools, before.request.tools
    if sorted(tool.name for tool in mine) != sorted(tool.name for tool in theirs):
        return
    if [tool.name for tool in mine] != [tool.name for tool in theirs]:
        yield call.finding("PC002", block, f"{len(mine)} tools, in another order", lost)
        return
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        if one.parameters == other.parameters and canonical(one.parameters) != canonical(
            other.parameters
        ):
            at = next(b for b in call.prefix.blocks if b.part < 0 and b.index == index)
            yield call.finding("PC003", at, f"schema of {one.name[:60]!r}", lost)
            return


def _last_round(before: _Seen) -> int:
    """Blocks of the last message of the call before: asking anew is no rewriting."""
    last = before.prefix.blocks[-1]
    return sum(b.index == last.index and b.place == last.place for b in before.prefix.blocks)


def _goes_on(call: _Call, before: _Seen) -> bool:
    """Whether the messages of the call before stand at the beginning of this one's."""
    mine = _messages(call.prefix, call.contents)
    theirs = _messages(before.prefix, before.contents)
    return len(theirs) < len(mine) and mine[: len(theirs)] == theirs


def _messages(prefix: Prefix, contents: tuple[bytes, ...]) -> list[bytes]:
    return [
        content
        for block, content in zip(prefix.blocks, contents, strict=True)
        if block.place == "messages"
    ]


def _first_difference(call: _Call, before: _Seen, block: Block) -> int | None:
    """Character at which a text leaves what stood there in the call before."""
    mine = call.text(block)
    try:
        other = before.request.messages[block.index].parts[block.part]
    except IndexError:
        return None
    if mine is None or not isinstance(other, Text):
        return None
    low, high = 0, min(len(mine), len(other.text))
    while low < high:
        middle = (low + high + 1) // 2
        if mine[:middle] == other.text[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def findings_json(findings: Iterable[Finding]) -> bytes:
    """Findings as a JSON list; dollars as decimal strings."""
    return msgspec.json.encode(list(findings))


def findings_of(data: bytes) -> tuple[Finding, ...]:
    """Read what ``findings_json`` has written.

    Raises:
        RemoteProtocolError: It is something else.
    """
    try:
        return tuple(msgspec.json.decode(data, type=list[Finding]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"no cache findings: {error}", frame=data) from error
