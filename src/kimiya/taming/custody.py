"""Reasoning kept for clients that drop it, in a bounded store handed in from outside.

Kimi must see its own reasoning again within a tool loop; many clients throw it away. The reply's
reasoning is put under each of its calls, and taken out when the client sends a call back bare.

The ids of calls are no key: a host's own (``functions.read:0``) are the same in every conversation.
So a call is known by the conversation that led to it (``Trail``), and a gateway of several tenants
hands in a view that holds one tenant's entries only (``ReasoningShelf.of``): two tenants may well
hold the same conversation.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from kimiya.core.messages import (
    Image,
    Inline,
    Message,
    Part,
    Text,
    ToolResult,
    Url,
    Video,
)
from kimiya.taming.judgement import same_arguments

_PICTURE_EDGE_CHARS = 256


class ReasoningStore(Protocol):
    """Where reasoning waits for its turn. It may forget at any time."""

    def get(self, key: str) -> str | None:
        """The reasoning that led to a call, by the key its conversation gives it."""
        ...

    def put(self, key: str, reasoning: str) -> None:
        """Keep it for a while."""
        ...


class Trail:
    """A conversation read message by message, and the key it gives to the calls that come next.

    What a client may leave out or rewrite does not count: system messages, reasoning, ids, how one
    turn is cut into messages, the spelling of JSON, blank text, and the text of the very turn the
    call stands in, which many clients drop beside a call.

    >>> from kimiya.core.messages import user
    >>> trail = Trail()
    >>> _ = trail.take(user("List the files"))
    >>> trail.key(0, "ls", '{"path":"."}') == trail.key(0, "ls", '{ "path": "." }')
    True
    >>> trail.key(0, "ls", "{}") == trail.key(1, "ls", "{}")
    False
    """

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=16)
        self._turn: list[Message] = []
        self._count = 0

    def take(self, message: Message) -> int:
        """Read the next message.

        Returns:
            The position in its turn of the message's first call.
        """
        if message.role == "assistant":
            first = sum(len(earlier.tool_calls) for earlier in self._turn)
            self._turn.append(message)
            return first
        if self._turn:
            self._end_turn()
        if message.role not in ("system", "developer"):
            for part in message.parts:
                self._write(message.role, *_told(part))
        return 0

    def key(self, position: int, name: str, arguments: str) -> str:
        """The key of a call of the turn that is being read, or that comes next.

        Args:
            position: Of the call in its turn, from 0.
            name: The tool's, as the client knows it.
            arguments: JSON text.
        """
        digest = self._digest.copy()
        digest.update(_framed(str(position), name, same_arguments(arguments or "{}")))
        return digest.hexdigest()

    def _end_turn(self) -> None:
        text = "".join(message.text for message in self._turn).strip()
        if text:
            self._write("assistant", "text", text)
        for message in self._turn:
            for call in message.tool_calls:
                arguments = same_arguments(call.arguments or "{}")
                self._write("assistant", "call", call.name, arguments)
        self._turn.clear()

    def _write(self, *fields: str) -> None:
        if len(fields) > 1:
            self._digest.update(_framed(*fields))


def _framed(*fields: str) -> bytes:
    """Fields, each behind its length, so that no two lists of them look alike."""
    pieces = [field.encode("utf-8", "surrogatepass") for field in fields]
    return b"".join([b"%d %b" % (len(piece), piece) for piece in pieces])


def _told(part: Part) -> Sequence[str]:
    """What a part of the client's side says; nothing where it says nothing."""
    match part:
        case Text(text=text):
            return ("text", text) if text.strip() else ()
        case ToolResult(content=content):
            inner = [field for piece in content for field in _told(piece)]
            return ("result", *inner)
        case Image(source=source) | Video(source=source):
            if isinstance(source, Inline):
                data = source.data
                edges = data[:_PICTURE_EDGE_CHARS] + data[-_PICTURE_EDGE_CHARS:]
                return ("media", str(len(data)), edges)
            return ("media", source.url if isinstance(source, Url) else source.file_id)
        case _:
            return (type(part).__name__,)


class ReasoningShelf:
    """A store in memory, bounded in entries and characters; the least recently used goes first.

    >>> shelf = ReasoningShelf(max_entries=2)
    >>> for name in ("a", "b", "c"):
    ...     shelf.put(name, "because")
    >>> shelf.get("a"), shelf.get("c")
    (None, 'because')
    """

    def __init__(self, max_entries: int = 10_000, max_chars: int = 64 * 1024 * 1024) -> None:
        self._entries: OrderedDict[str, str] = OrderedDict()
        self._max_entries = max_entries
        self._max_chars = max_chars
        self._chars = 0

    def get(self, key: str) -> str | None:
        """The reasoning under ``key``, which then counts as used."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: str, reasoning: str) -> None:
        """Keep ``reasoning``; more than the whole shelf holds is not kept."""
        if len(reasoning) > self._max_chars:
            return
        self._chars += len(reasoning) - len(self._entries.pop(key, ""))
        self._entries[key] = reasoning
        while len(self._entries) > self._max_entries or self._chars > self._max_chars:
            _, dropped = self._entries.popitem(last=False)
            self._chars -= len(dropped)

    def of(self, tenant: str | None) -> "ReasoningStore":
        """The part of the shelf that one tenant sees; ``None`` is a tenant too: who has no key.

        >>> shelf = ReasoningShelf()
        >>> shelf.of("ann").put("k", "because")
        >>> shelf.of("ann").get("k"), shelf.of("bob").get("k"), shelf.of(None).get("k")
        ('because', None, None)
        """
        return _TenantShelf(self, "" if tenant is None else f"={tenant}")


class _TenantShelf:
    def __init__(self, shelf: ReasoningShelf, tenant: str) -> None:
        self._shelf = shelf
        self._tenant = tenant

    def get(self, key: str) -> str | None:
        return self._shelf.get(f"{key}{self._tenant}")

    def put(self, key: str, reasoning: str) -> None:
        self._shelf.put(f"{key}{self._tenant}", reasoning)


if TYPE_CHECKING:
    _shelf: ReasoningStore = ReasoningShelf()
