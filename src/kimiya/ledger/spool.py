"""The spool: records on their way to the store, in append-only files.

Each process appends to segments of its own and holds a lock on them, so several share a directory.
A segment is removed once all of it is in the store. Segments of a process that died are adopted by
whoever opens a spool on the directory next: their locks are free.

Invariants:

* ``append`` is one ``write``: when it has returned, ``kill -9`` loses nothing.
* The disk may refuse (full, gone): the record then waits in memory, in order, and goes first when
  the disk takes bytes again. A half-written frame is cut off before anything follows it.
* Files are read back in the order they were written; a record may be read twice after a crash,
  never not at all. The store makes twice into once.
"""

import contextlib
import fcntl
import itertools
import os
import secrets
import time
from collections import deque
from pathlib import Path

from msgspec import Struct

from kimiya.errors import LedgerError
from kimiya.ledger.framing import Frames, decode_frames, encode_frame

SEGMENT_BYTES = 4 * 1024 * 1024
"""A segment longer than this is closed, and removed once it is drained."""
_SUFFIX = ".spool"
_WINDOW_BYTES = 128 * 1024


class Batch(Struct, frozen=True):
    """Records read from the oldest segment, not yet taken off it."""

    payloads: tuple[bytes, ...]
    end: int
    skipped_bytes: int = 0
    is_lent: bool = False
    """Whether they stand in memory because the disk refused them."""


class _Segment:
    """One file: bytes up to ``size`` are whole frames, bytes up to ``drained`` are in the store."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.drained = 0
        self.damaged_bytes = 0

    def remove(self) -> None:
        """Close it; a damaged one is kept under another name, for whoever wants to look."""
        with contextlib.suppress(OSError):
            if self.damaged_bytes:
                self.path.replace(self.path.with_suffix(".damaged"))
            else:
                self.path.unlink()
        os.close(self.fd)


class Spool:
    """An open spool directory.

    Raises:
        LedgerError: The directory cannot be made or written.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._segments: deque[_Segment] = deque()
        self._live: _Segment | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lent = 0  # how many of those a reader holds: they must not move to disk meanwhile
        self.damaged_bytes = 0
        """Bytes of adopted segments that were no records: a torn last frame, or rot."""
        self.last_refusal: OSError | None = None
        """Why the disk refused, while it does."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise LedgerError(
                f"the ledger's spool {directory} cannot be made: {error.strerror}. Point"
                " ledger.directory at one that can be written"
            ) from error
        self._adopt()

    @property
    def pending_bytes(self) -> int:
        """What is not yet in the store, on disk and in memory."""
        on_disk = sum(segment.size - segment.drained for segment in self._segments)
        return on_disk + self._waiting_bytes

    @property
    def waiting_records(self) -> int:
        """Records the disk refused, which only memory holds."""
        return len(self._waiting)

    def append(self, payload: bytes) -> None:
        """Keep a record. Never raises for the disk's sake; see ``last_refusal``."""
        frame = encode_frame(payload)
        if self._waiting:
            self._wait(frame)
            self.retry()
        elif not self._write(frame):
            self._wait(frame)

    def retry(self) -> None:
        """Write what waits in memory, as far as the disk takes it."""
        while not self._lent and self._waiting and self._write(self._waiting[0]):
            self._waiting_bytes -= len(self._waiting.popleft())

    def read(self, limit: int) -> Batch:
        """The next records, oldest first; taken off only by ``drop``."""
        self._lent = 0
        self.retry()
        while self._segments:
            segment = self._segments[0]
            frames = _frames_of(segment, limit)
            if frames.payloads:
                end = segment.drained + frames.end
                return Batch(frames.payloads, end, frames.skipped_bytes)
            if segment is self._live:
                break
            self._retire(segment, segment.size - segment.drained)
        self._lent = min(limit, len(self._waiting))
        lent = itertools.islice(self._waiting, self._lent)
        return Batch(tuple(decode_frames(frame).payloads[0] for frame in lent), 0, is_lent=True)

    def drop(self, batch: Batch) -> None:
        """Take off what the store now has."""
        if batch.is_lent:
            for _ in range(self._lent):
                self._waiting_bytes -= len(self._waiting.popleft())
            self._lent = 0
            return
        segment = self._segments[0]
        segment.drained = batch.end
        segment.damaged_bytes += batch.skipped_bytes
        self.damaged_bytes += batch.skipped_bytes
        if segment is not self._live and segment.drained == segment.size:
            self._retire(segment, 0)
        elif segment.drained == segment.size and segment.size >= self._segment_bytes:
            self._live = None
            self._retire(segment, 0)

    def close(self) -> None:
        """Let go of every file; what is drained is removed, the rest waits for the next start."""
        for segment in self._segments:
            if segment.drained == segment.size and not segment.damaged_bytes:
                segment.remove()
            else:
                os.close(segment.fd)
        self._segments.clear()
        self._live = None

    def _retire(self, segment: _Segment, damaged_bytes: int) -> None:
        segment.damaged_bytes += damaged_bytes
        self.damaged_bytes += damaged_bytes
        self._segments.remove(segment)
        segment.remove()

    def _wait(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)

    def _write(self, frame: bytes) -> bool:
        try:
            segment = self._writable()
            written = os.write(segment.fd, frame)
            if written != len(frame):
                os.ftruncate(segment.fd, segment.size)
                raise OSError(28, "No space left on device")
        except OSError as error:
            self.last_refusal = error
            return False
        segment.size += written
        self.last_refusal = None
        return True

    def _writable(self) -> _Segment:
        live = self._live
        if live is None or live.size >= self._segment_bytes:
            name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(3)}{_SUFFIX}"
            path = self._directory / name
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(path, flags, 0o600)
            # A process that starts this very moment may have taken it for a dead one's: let it go.
            if _is_locked_elsewhere(fd):
                os.close(fd)
                raise BlockingIOError(11, "the new segment was adopted by another process")
            live = self._live = _Segment(path, fd, 0)
            self._segments.append(live)
        return live

    def _adopt(self) -> None:
        """Take over segments whose writer is gone."""
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise LedgerError(
                    f"{path} holds records of calls and cannot be read: {error.strerror}. Give this"
                    " user access to it"
                ) from error
            # Its writer may have removed it between the listing and the lock.
            if _is_locked_elsewhere(fd) or os.fstat(fd).st_nlink == 0:
                os.close(fd)
                continue
            self._segments.append(_Segment(path, fd, os.fstat(fd).st_size))


def _is_locked_elsewhere(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _frames_of(segment: _Segment, limit: int) -> Frames:
    """The next frames of a segment, read in windows so that a batch costs no more than itself."""
    left = segment.size - segment.drained
    window = _WINDOW_BYTES
    while True:
        data = os.pread(segment.fd, min(window, left), segment.drained)
        frames = decode_frames(data, limit=limit)
        if frames.payloads or window >= left:
            return frames
        window *= 4
