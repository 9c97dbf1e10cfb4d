"""What one call cost and what was mended: a value that is written once and never changed.

Invariants:

* Dollars are ``Decimal`` and exact. Unknown is ``None`` ("unpriced"), never zero.
* Every attempt stands for itself: its host, tokens, price row and dollars. The call's figures are
  sums over attempts, so a retry is paid for and shown.
* ``call_id`` names the call for ever: whatever is written twice under one id counts once.
* ``decode_record(encode_record(record)) == record``; fields that an older or newer version does not
  know are passed over, so a spool or a database outlives an upgrade.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias, cast

import msgspec
from msgspec import Struct

from kimiya.catalog.card import Price
from kimiya.core.exchange import Adjustment, Repair, Usage
from kimiya.errors import LedgerError

Tags: TypeAlias = dict[str, str]
Outcome: TypeAlias = Literal["ok", "repaired", "retried", "failed", "retry", "refused", "abandoned"]
"""A verdict's outcome, or ``refused`` (nothing was sent), or ``abandoned`` (the caller left)."""

Counting: TypeAlias = Literal["additive", "subset"]
"""How a host's own figures add up. ``additive``: its input excludes what was read from or written
to the cache. ``subset``: its input includes them."""

_COUNTING: dict[str, Counting] = {
    "anthropic_messages": "additive",
    "bedrock_converse": "additive",
    "openai_chat": "subset",
    "openai_responses": "subset",
}


def counting_of(dialect: str) -> Counting:
    """The billing semantics of a dialect; one we do not know counts as ours does.

    >>> counting_of("bedrock_converse")
    'additive'
    """
    return _COUNTING.get(dialect, "subset")


class LedgerAttempt(Struct, frozen=True, kw_only=True):
    """One try at one host: paid for, whatever became of it."""

    provider: str
    """Name of the provider in the configuration."""
    model_id: str
    """What the host calls the model."""
    profile: str | None = None
    """Inference profile the call went through, as id or ARN."""
    dialect: str = ""
    """The wire it went over."""
    usage: Usage | None = None
    """``None`` where the host reported none."""
    price: Price | None = None
    """The row that priced it: its figures, since when, and its source."""
    usd: Decimal | None = None
    """Dollars to the last digit; ``None`` is unpriced."""
    saved_by_caching_usd: Decimal | None = None
    """Against the same tokens without any cache; negative where writes were never read."""
    first_event_s: float | None = None
    duration_s: float = 0.0
    error: str | None = None
    """Class name of the error that ended it; ``None`` where it gave a reply."""

    @property
    def counting(self) -> Counting:
        """How the host's own figures add up."""
        return counting_of(self.dialect)

    @property
    def raw_input_tokens(self) -> int:
        """Input as the host's own usage field shows it."""
        if self.usage is None:
            return 0
        if self.counting == "additive":
            return self.usage.fresh_input_tokens
        return self.usage.input_tokens

    @property
    def is_free(self) -> bool:
        """Whether it cost nothing for certain: it failed before any token was reported."""
        return self.usage is None and self.error is not None


class LedgerRecord(Struct, frozen=True, kw_only=True):
    """One call, settled."""

    call_id: str
    """Unique and ordered by time (``ledger.call_id``)."""
    at: datetime
    """When the call began, UTC."""
    model: str
    """As the caller wrote it."""
    key_id: str | None = None
    """Public id of the gateway key."""
    tags: Tags = {}
    """Department, project, cost centre: whatever the owner sorts by."""
    conversation: str | None = None
    user: str | None = None
    """The caller's own end-user id."""
    run: str | None = None
    front: str = ""
    """Dialect the caller spoke; ``""`` for a call made in Python."""
    route: str | None = None
    """Name of the route that was taken, where the model is a route."""
    attempts: tuple[LedgerAttempt, ...] = ()
    predicted_usd: Decimal | None = None
    """What was reserved for it before it was sent."""
    saved_by_routing_usd: Decimal | None = None
    """Against the dearest member of the route, for the attempt that answered."""
    first_event_s: float | None = None
    """Seconds from the request to the first content."""
    duration_s: float = 0.0
    outcome: Outcome = "ok"
    repairs: tuple[Repair, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    error: str | None = None
    """Class name of what the caller was told, where the call failed."""

    @property
    def usd(self) -> Decimal | None:
        """All attempts together; ``None`` where any that was paid for has no price."""
        paid = [attempt.usd for attempt in self.attempts if not attempt.is_free]
        return None if None in paid else sum((usd for usd in paid if usd is not None), Decimal(0))

    @property
    def usage(self) -> Usage:
        """Tokens of all attempts together: what is billed, not what the caller saw."""
        return total_usage(a.usage for a in self.attempts if a.usage is not None)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Tokens added up, class by class.

    >>> total_usage([Usage(input_tokens=1), Usage(input_tokens=2, output_tokens=3)]).input_tokens
    3
    """
    total = [0] * len(_CLASSES)
    for usage in usages:
        for position, name in enumerate(_CLASSES):
            total[position] += getattr(usage, name)
    return Usage(*total)


_CLASSES = Usage.__struct_fields__
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LedgerRecord)


def encode_record(record: LedgerRecord) -> bytes:
    """The record as it lies in the spool and in the store.

    Text no encoding knows (half a surrogate pair, from a client) is replaced by question marks: a
    call is billed whatever it was called.
    """
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        plain = _encodable(msgspec.to_builtins(record))
        return _encoder.encode(msgspec.convert(plain, LedgerRecord))


def _encodable(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            items = cast("dict[object, object]", value).items()
            return {_encodable(key): _encodable(item) for key, item in items}
        case list() | tuple():
            return [_encodable(item) for item in cast("list[object]", value)]
        case _:
            return value


def decode_record(payload: bytes) -> LedgerRecord:
    """The way back.

    Raises:
        LedgerError: These bytes are no record.
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LedgerError(f"{len(payload)} bytes are no ledger record: {error}") from error
