"""Frames of the spool: each record between a mark, its length and its checksum.

::

    mark (4 bytes)  length (4, little-endian)  CRC-32 of the payload (4)  payload

A process may die within a write and a disk may rot, so reading never trusts: a frame that does not
check is skipped up to the next mark that does, and every byte passed over is counted. What follows
the last whole frame is the tail: torn if the writer is dead, unfinished if it is alive.
"""

import struct
import zlib

from msgspec import Struct

MARK = b"\xffKL1"
"""Its first byte stands in no UTF-8 text, so no caller's words can look like a frame."""
_HEAD = struct.Struct("<4sII")
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
"""A longer length is damage, not a record."""


class Frames(Struct, frozen=True):
    """What was read from a run of bytes."""

    payloads: tuple[bytes, ...]
    end: int
    """Offset after the last whole frame; reading goes on here."""
    skipped_bytes: int = 0
    """Damage passed over before ``end``."""


def encode_frame(payload: bytes) -> bytes:
    """One record, ready to be appended."""
    return _HEAD.pack(MARK, len(payload), zlib.crc32(payload)) + payload


def decode_frames(data: bytes, *, limit: int | None = None) -> Frames:
    """Every whole frame, at most ``limit``, from the start of ``data``.

    >>> frames = decode_frames(b"rot" + encode_frame(b"one") + encode_frame(b"two")[:-1])
    >>> frames.payloads, frames.end, frames.skipped_bytes
    ((b'one',), 18, 3)
    """
    payloads: list[bytes] = []
    end = skipped = 0
    at = data.find(MARK)
    while at >= 0 and (limit is None or len(payloads) < limit):
        payload = _payload_at(data, at)
        if payload is None:
            at = data.find(MARK, at + 1)
            continue
        skipped += at - end
        end = at + _HEAD.size + len(payload)
        payloads.append(payload)
        at = end if data.startswith(MARK, end) else data.find(MARK, end)
    return Frames(tuple(payloads), end, skipped)


def _payload_at(data: bytes, at: int) -> bytes | None:
    if len(data) - at < _HEAD.size:
        return None
    _, length, checksum = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    if length > MAX_PAYLOAD_BYTES or len(data) - start < length:
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == checksum else None
