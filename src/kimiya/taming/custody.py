"""Reasoning kept for clients that drop it, by call id, in a bounded store handed in from outside.

Kimi must see its own reasoning again within a tool loop; many clients throw it away. The reply's
reasoning is put under each of its call ids, and taken out when the client sends the call back bare.
A gateway of several tenants hands in a view of the store that holds one tenant's entries only: ids
alone are no secret.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol


class ReasoningStore(Protocol):
    """Where reasoning waits for its turn. It may forget at any time."""

    def get(self, call_id: str) -> str | None:
        """The reasoning that led to a call, by the id the client was given."""
        ...

    def put(self, call_id: str, reasoning: str) -> None:
        """Keep it for a while."""
        ...


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

    def get(self, call_id: str) -> str | None:
        """The reasoning under ``call_id``, which then counts as used."""
        found = self._entries.get(call_id)
        if found is not None:
            self._entries.move_to_end(call_id)
        return found

    def put(self, call_id: str, reasoning: str) -> None:
        """Keep ``reasoning``; more than the whole shelf holds is not kept."""
        if len(reasoning) > self._max_chars:
            return
        self._chars += len(reasoning) - len(self._entries.pop(call_id, ""))
        self._entries[call_id] = reasoning
        while len(self._entries) > self._max_entries or self._chars > self._max_chars:
            _, dropped = self._entries.popitem(last=False)
            self._chars -= len(dropped)


if TYPE_CHECKING:
    _shelf: ReasoningStore = ReasoningShelf()
