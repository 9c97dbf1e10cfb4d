"""Where records rest: one protocol for SQLite and PostgreSQL, and what both must do.

``write`` takes encoded records and is all or nothing. A record whose ``call_id`` is already there
is passed over, whole: replaying a spool bills nothing twice.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from kimiya.errors import LedgerError
from kimiya.ledger.query import CostQuery, CostRow
from kimiya.ledger.record import LedgerRecord


class StoreAway(LedgerError):
    """The database cannot be used now: gone, full, locked, or damaged. Nothing was written."""

    retryable: ClassVar[bool] = True


class LedgerStore(Protocol):
    """A database of records.

    ``open`` MUST be safe to call again after ``StoreAway``; every other method opens it by itself
    where it is not open.
    """

    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StoreAway: It cannot be reached or read.
            LedgerError: Its schema is newer than this version of Kimiya.
        """
        ...

    async def write(self, payloads: Sequence[bytes]) -> int:
        """Keep encoded records, in one transaction, durable when this returns.

        Returns:
            How many were new.

        Raises:
            StoreAway: Try again later.
            LedgerError: These records cannot be kept, now or later; others may.
        """
        ...

    async def read(self, call_id: str) -> LedgerRecord | None:
        """One record, as it was settled."""
        ...

    async def costs(self, query: CostQuery) -> tuple[CostRow, ...]:
        """Sums over attempts, grouped and ordered as the query says."""
        ...

    async def aclose(self) -> None:
        """Let go of it."""
        ...
