"""The ledger as the pipeline sees it: ``settle`` in microseconds, the database when it can.

``settle`` appends to the spool and returns; a background task moves the spool to the store, a batch
at a time. A store that is away makes the spool grow and is tried again, ever more slowly. When the
spool reaches its bound the policy decides: ``refuse`` lets no new call begin (``admit`` raises), so
nothing is ever spent that cannot be kept; ``go_on`` lets calls through and gives up the figures
that no longer fit, counted and said.

Calls on their way when the bound is met are still kept under either policy: only ``admit`` refuses.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from kimiya.core.clock import Clock, SystemClock
from kimiya.errors import LedgerError
from kimiya.ledger.framing import encode_frame
from kimiya.ledger.record import LedgerRecord, encode_record
from kimiya.ledger.spool import Spool
from kimiya.ledger.store import LedgerStore, StoreAway

_log = logging.getLogger("kimiya.ledger")


class LedgerPolicy(Struct, frozen=True, kw_only=True):
    """How the ledger behaves when it is pressed."""

    when_full: Literal["refuse", "go_on"] = "refuse"
    max_spool_bytes: int = 256 * 1024 * 1024
    """Unwritten records, about a quarter of a million calls, before ``when_full`` applies."""
    max_waiting_records: int = 10_000
    """Records only memory holds because the disk takes none, before ``when_full`` applies."""
    batch_records: int = 256
    batch_delay_s: float = 0.05
    """How long a batch gathers."""
    retry_s: float = 0.2
    """First wait after the store failed; doubles up to ``max_retry_s``."""
    max_retry_s: float = 5.0


class LedgerHealth(Struct, frozen=True):
    """How the ledger is doing, for metrics and ``kimiya doctor``."""

    pending_bytes: int
    """Settled, not yet in the store."""
    written: int
    """Records that reached the store since the start."""
    lost: int
    """Records given up under ``go_on``. Anything but zero is bad news."""
    rejected: int
    """Records no database can hold; their bytes lie in ``rejected.frames`` beside the spool."""
    damaged_bytes: int
    """Bytes in adopted spools that were no records."""
    store_error: str | None
    """Why the store is away, while it is."""
    spool_error: str | None
    """Why the spool's disk refuses, while it does."""


class Ledger:
    """Settles calls. Make it with ``Ledger.open`` within a running event loop."""

    def __init__(
        self,
        store: LedgerStore,
        spool: Spool,
        *,
        rejected: Path,
        policy: LedgerPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self._spool = spool
        self._rejected_path = rejected
        self._policy = policy or LedgerPolicy()
        self._clock = clock or SystemClock()
        self._has_work = asyncio.Event()
        self._draining = asyncio.Lock()
        self._written = self._lost = self._rejected = 0
        self._store_error: str | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        store: LedgerStore,
        spool_directory: Path,
        *,
        policy: LedgerPolicy | None = None,
        clock: Clock | None = None,
    ) -> "Ledger":
        """Open store and spool, adopt what dead processes left, and start draining.

        A store that is away is not an error: under either policy calls go on until the spool is
        full.

        Raises:
            LedgerError: The spool cannot be made, or the store belongs to a newer version.
        """
        rejected = spool_directory / "rejected.frames"
        ledger = cls(store, Spool(spool_directory), rejected=rejected, policy=policy, clock=clock)
        try:
            await store.open()
        except StoreAway as error:
            ledger._say_away(error)
        ledger._has_work.set()
        ledger._task = asyncio.create_task(ledger._drain_for_ever(), name="kimiya-ledger")
        return ledger

    @property
    def health(self) -> LedgerHealth:
        """How it is doing."""
        refusal = self._spool.last_refusal
        return LedgerHealth(
            pending_bytes=self._spool.pending_bytes,
            written=self._written,
            lost=self._lost,
            rejected=self._rejected,
            damaged_bytes=self._spool.damaged_bytes,
            store_error=self._store_error,
            spool_error=str(refusal) if refusal else None,
        )

    def admit(self) -> None:
        """Ask before a call begins.

        Raises:
            LedgerError: What it costs could not be kept, and the policy is to refuse.
        """
        if self._policy.when_full == "refuse" and self._is_full():
            why = self._store_error or str(self._spool.last_refusal)
            raise LedgerError(
                f"no call is let through because the ledger can keep no more: {why}. It goes on by"
                " itself when that is mended; ledger.when_full = 'go_on' would let calls pass"
            )

    def settle(self, record: LedgerRecord) -> None:
        """Keep a finished call. Never raises; returns in microseconds."""
        try:
            payload = encode_record(record)
        except (UnicodeError, OverflowError, TypeError, ValueError) as error:
            self._rejected += 1
            _log.error("call %s cannot be kept: %s", record.call_id, error)
            return
        if self._policy.when_full == "go_on" and self._is_full():
            self._lose(record)
            return
        self._spool.append(payload)
        self._has_work.set()

    async def flush(self) -> None:
        """Return when everything settled so far is in the store.

        Raises:
            StoreAway: The store cannot be used; everything is still in the spool.
        """
        while await self._drain_one():
            pass

    async def aclose(self) -> None:
        """Stop, having written what the store takes; the rest stays spooled for the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(StoreAway):
            await self.flush()
        self._spool.retry()
        if waiting := self._spool.waiting_records:
            self._lost += waiting
            _log.error("%d calls are lost: neither disk nor database takes them", waiting)
        self._spool.close()
        await self.store.aclose()

    def _is_full(self) -> bool:
        policy, spool = self._policy, self._spool
        return (
            spool.waiting_records >= policy.max_waiting_records
            or spool.pending_bytes >= policy.max_spool_bytes
        )

    def _lose(self, record: LedgerRecord) -> None:
        self._lost += 1
        if self._lost & (self._lost - 1) == 0:  # 1, 2, 4, 8 ...: said, but not once a call
            _log.error("%d calls are lost to the ledger, the last is %s", self._lost, record)

    async def _drain_for_ever(self) -> None:
        wait_s = self._policy.retry_s
        while True:
            await self._has_work.wait()
            await self._clock.sleep(self._policy.batch_delay_s)
            self._has_work.clear()
            try:
                await self.flush()
                wait_s = self._policy.retry_s
            except StoreAway:
                self._has_work.set()
                await self._clock.sleep(wait_s)
                wait_s = min(wait_s * 2, self._policy.max_retry_s)

    async def _drain_one(self) -> bool:
        """Move one batch; whether there was one."""
        async with self._draining:
            batch = self._spool.read(self._policy.batch_records)
            if not batch.payloads:
                return False
            await self._write(batch.payloads)
            self._spool.drop(batch)
            return True

    async def _write(self, payloads: Sequence[bytes]) -> None:
        try:
            self._written += await self.store.write(payloads)
        except StoreAway as error:
            self._say_away(error)
            raise
        except LedgerError as error:
            # One of them cannot be kept, now or ever: the others must not wait behind it.
            if len(payloads) > 1:
                middle = len(payloads) // 2
                await self._write(payloads[:middle])
                await self._write(payloads[middle:])
            else:
                self._reject(payloads[0], error)
            return
        if self._store_error is not None:
            _log.warning("the ledger's store is back")
            self._store_error = None

    def _say_away(self, error: StoreAway) -> None:
        if self._store_error is None:
            _log.error("%s", error.message)
        self._store_error = error.message

    def _reject(self, payload: bytes, error: LedgerError) -> None:
        self._rejected += 1
        _log.error("a record is set aside in %s: %s", self._rejected_path, error.message)
        try:
            with self._rejected_path.open("ab") as file:
                file.write(encode_frame(payload))
        except OSError as refusal:
            _log.error("%s: %s", self._rejected_path, refusal)
