"""Which replica of a host a conversation goes to, so that it finds its prefix there again.

A replica's cache knows only what it has read itself. Calls are spread by rendezvous hashing over
the conversation, or the part of a request all its turns share; every gateway picks alike without
talking to the others, and when replicas come or go only their own conversations move.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from hashlib import sha256

from msgspec.structs import replace

from kimiya.caching.prefix import Prefix, read_prefix
from kimiya.caching.volatile import StableHeads
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request

_MOVING_STATUS = 429
_FIRST_SERVER_ERROR = 500


def affinity_key(request: Request, context: CallContext, heads: StableHeads | None = None) -> str:
    """What stays the same over the turns of a conversation: its name, else its stable beginning.

    The beginning is tools, system up to its first volatile word, and the first part of the first
    other message; a long document with a question behind it goes where the document is known.

    Args:
        request: As it will be sent.
        context: On whose account.
        heads: Remembers where system texts stop being stable; pass one to search each text once.
    """
    if context.conversation is not None:
        return conversation_key(context)
    prefix = read_prefix(_beginning(request), "", heads or StableHeads())
    return beginning_of(prefix)


def conversation_key(context: CallContext) -> str:
    """Of a conversation that has a name. Names belong to the key that uses them."""
    named = f"{context.key_id or ''}\0{context.conversation}"
    return sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def beginning_of(prefix: Prefix) -> str:
    """The digest of a request's stable beginning; ``""`` where nothing of it is stable."""
    stable = b""
    for block in prefix.blocks:
        if block.is_volatile:
            break
        stable = block.digest
        if block.place == "messages":
            break
    return stable.hex()


def _beginning(request: Request) -> Request:
    """No more of the request than the beginning can need."""
    lead = 0
    messages = request.messages
    while lead < len(messages) and messages[lead].role in ("system", "developer"):
        lead += 1
    return replace(request, messages=messages[: lead + 1])


def ranked(key: str, replicas: Collection[str]) -> list[str]:
    """Replicas in the order this key prefers them (highest random weight).

    >>> ranked("a", ["one", "two", "three"]) == ranked("a", ["three", "one", "two"])
    True
    """
    return sorted(replicas, key=lambda name: (_weight(key, name), name), reverse=True)


def _weight(key: str, replica: str) -> bytes:
    return sha256(f"{key}\0{replica}".encode("utf-8", "surrogatepass")).digest()


class Pins:
    """Conversations that had to leave the replica they prefer, and where each went.

    A conversation moves only when its replica refuses (429) or fails (5xx, or no answer at all).
    Then it stays where it went: moving back would pay for a cold prefix once more.

    Args:
        capacity: Most moved conversations remembered; the longest unused go back home.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._moved: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._moved)

    def pick(self, key: str, replicas: Sequence[str]) -> str:
        """The replica for a call.

        Args:
            key: See ``affinity_key``; ``""`` takes the first.
            replicas: Those that exist now; not empty.

        Raises:
            ValueError: There are none.
        """
        if not replicas:
            raise ValueError("no replicas to pick from")
        if not key or len(replicas) == 1:
            return replicas[0]
        moved = self._moved.get(key)
        if moved is not None and moved in replicas:
            self._moved.move_to_end(key)
            return moved
        return max(replicas, key=lambda name: (_weight(key, name), name))

    def failed(
        self, key: str, replica: str, status: int | None, replicas: Sequence[str]
    ) -> str | None:
        """Tell of a failed call.

        Args:
            key: Of the call.
            replica: Where it went.
            status: What the replica answered; ``None`` where it did not answer.
            replicas: Those that exist now.

        Returns:
            The replica the conversation goes to from now on; ``None`` where it stays, because the
            failure is the request's own or there is nowhere else.
        """
        is_theirs = status is None or status == _MOVING_STATUS or status >= _FIRST_SERVER_ERROR
        order = ranked(key, replicas)
        if not is_theirs or replica not in order or len(order) < 2:
            return None
        following = order[(order.index(replica) + 1) % len(order)]
        self._moved[key] = following
        self._moved.move_to_end(key)
        while len(self._moved) > self._capacity:
            self._moved.popitem(last=False)
        return following
