"""How a record lies in a database: the columns reports group and sum, beside the whole record.

One list of columns serves both databases, their inserts and their reports. The record itself is
kept beside them as it was spooled, so that a column added later can be filled from it.
"""

from collections.abc import Sequence, Set
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias

from msgspec import Struct

from kimiya.core.exchange import Usage
from kimiya.errors import LedgerError
from kimiya.ledger.record import LedgerAttempt, LedgerRecord, decode_record

Cell: TypeAlias = str | int | float | bytes | Decimal | None
Row: TypeAlias = tuple[Cell, ...]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TOKENS = 2**62

CALL_COLUMNS = (
    "call_id", "at_us", "day", "key_id", "conversation", "user_id", "run", "front", "model",
    "route", "outcome", "repairs", "first_event_s", "duration_s", "record",
)  # fmt: skip
ATTEMPT_COLUMNS = (
    "call_id", "number", "is_last", "provider", "model_id", "profile", "input_tokens",
    "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "reasoning_tokens", "usd", "is_unpriced", "saved_by_caching_usd", "saved_by_routing_usd",
    "predicted_usd", "error", "duration_s",
)  # fmt: skip
TAG_COLUMNS = ("call_id", "name", "value")


class Rows(Struct, frozen=True):
    """A batch, laid out by table."""

    calls: list[Row]
    attempts: list[Row]
    tags: list[Row]

    @property
    def call_ids(self) -> list[str]:
        """Of every call in the batch."""
        return [str(row[0]) for row in self.calls]

    def without(self, known: Set[str]) -> "Rows":
        """Each call once, and none that is already known."""
        if not known and len(set(self.call_ids)) == len(self.calls):
            return self
        calls = {row[0]: row for row in reversed(self.calls) if row[0] not in known}
        attempts = {row[:2]: row for row in reversed(self.attempts) if row[0] in calls}
        tags = {row[:2]: row for row in reversed(self.tags) if row[0] in calls}
        return Rows(*(list(table.values()) for table in (calls, attempts, tags)))


def rows_of(payloads: Sequence[bytes]) -> Rows:
    """Rows for encoded records.

    Raises:
        LedgerError: One of them is no record, or holds what no database can.
    """
    rows = Rows([], [], [])
    for payload in payloads:
        record = decode_record(payload)
        rows.calls.append(_call_row(record, payload))
        rows.tags.extend((record.call_id, _text(k), _text(v)) for k, v in record.tags.items())
        last = len(record.attempts) - 1
        for number, attempt in enumerate(record.attempts):
            rows.attempts.append(_attempt_row(record, attempt, number, is_last=number == last))
    return rows


def _call_row(record: LedgerRecord, payload: bytes) -> Row:
    at = record.at.astimezone(UTC)
    since = at - _EPOCH
    return (
        record.call_id,
        (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,
        f"{at.year:04d}-{at.month:02d}-{at.day:02d}",
        _text(record.key_id),
        _text(record.conversation),
        _text(record.user),
        _text(record.run),
        record.front,
        _text(record.model),
        _text(record.route),
        record.outcome,
        len(record.repairs),
        record.first_event_s,
        record.duration_s,
        payload,
    )


def _attempt_row(
    record: LedgerRecord, attempt: LedgerAttempt, number: int, *, is_last: bool
) -> Row:
    usage = attempt.usage or Usage()
    if not all(0 <= getattr(usage, name) < _MAX_TOKENS for name in Usage.__struct_fields__):
        raise LedgerError(f"call {record.call_id}: token counts out of range: {usage}")
    if attempt.usd is not None and not attempt.usd.is_finite():
        raise LedgerError(f"call {record.call_id}: {attempt.usd} is no amount of dollars")
    return (
        record.call_id,
        number,
        int(is_last),
        _text(attempt.provider),
        _text(attempt.model_id),
        _text(attempt.profile),
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
        attempt.usd,
        int(attempt.usd is None and not attempt.is_free),
        attempt.saved_by_caching_usd,
        record.saved_by_routing_usd if is_last else None,
        record.predicted_usd if is_last else None,
        _text(attempt.error),
        attempt.duration_s,
    )


def _text(text: str | None) -> str | None:
    """Text every database takes: none of them can hold a NUL, and callers send what they like."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}") if text and "\0" in text else text
