"""Ids of calls, both ways, derived and never remembered.

Kimi copies the ids it sees in its history (``facts``: one wrong id style makes most multi-turn runs
end empty), so a self-hosted upstream is shown ``functions.NAME:IDX`` with an index that counts
through the conversation. A client is shown ids in its own dialect's style. Both follow from the
conversation alone: the canonical id from a call's place in it, the client's from that place and
what came before, so any replica gives the same.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b

from msgspec import Struct

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class IdStyle(Struct, frozen=True):
    """How one kind of client writes ids."""

    prefix: str
    digits: int
    accepts: str
    """Regular expression its clients and services hold ids to."""


STYLES: Mapping[str, IdStyle] = {
    "openai_chat": IdStyle("call_", 24, r"[^\s]{1,64}\Z"),
    "openai_responses": IdStyle("call_", 24, r"[^\s]{1,64}\Z"),
    "anthropic_messages": IdStyle("toolu_01", 22, r"[A-Za-z0-9_-]{1,64}\Z"),
    "bedrock_converse": IdStyle("tooluse_", 22, r"[A-Za-z0-9_-]{1,64}\Z"),
    "": IdStyle("call_", 24, r"[^\s]{1,64}\Z"),
}
"""By dialect of the request; ``""`` is a request built in Python."""


def canonical(name: str, index: int) -> str:
    """The id Kimi was trained on.

    >>> canonical("read_file", 3)
    'functions.read_file:3'
    """
    return f"functions.{name}:{index}"


def minted(style: IdStyle, seed: bytes, index: int) -> str:
    """An id in a client's style for the call at ``index`` of a conversation.

    >>> minted(STYLES["openai_chat"], b"conversation", 0).startswith("call_")
    True
    """
    number = int.from_bytes(blake2b(seed + b"|%d" % index, digest_size=24).digest(), "big")
    digits: list[str] = []
    for _ in range(style.digits):
        number, rest = divmod(number, 62)
        digits.append(_ALPHABET[rest])
    return style.prefix + "".join(digits)


class IdPlan(Struct, frozen=True):
    """How the calls of one reply get their ids."""

    style: IdStyle = STYLES[""]
    seed: bytes = b""
    first_index: int = 0
    """Calls the conversation holds already: the index of the reply's first."""
    mints: bool = False
    """Every id is made here, because the host's are not the client's to see."""
    taken: frozenset[str] = frozenset()
    """Ids of the history, as the client wrote them."""

    def given(self, position: int, native: str, used: set[str]) -> str:
        """The id of the call at ``position`` of the reply; ``used`` holds those already given."""
        good = native and native not in used and native not in self.taken
        if good and not self.mints and re.match(self.style.accepts, native):
            return native
        index = self.first_index + position
        made = minted(self.style, self.seed, index)
        while made in used or made in self.taken:
            index += 1000003
            made = minted(self.style, self.seed, index)
        return made
