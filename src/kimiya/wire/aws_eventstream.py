"""AWS binary event-stream framing: bytes to frames and back, with both checksums.

A frame is a prelude (total length, header length, CRC of those eight bytes), headers, a payload and
a CRC of all that came before it; integers are big-endian. Invariants: a frame is handed out only
when both checksums fit; a length is believed only after the prelude's checksum; nothing over the
caps is ever gathered. Source: the Smithy specification "Amazon event stream" (2026-11).
"""

import struct
import zlib
from collections.abc import Mapping
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from kimiya.errors import LocalProtocolError, RemoteProtocolError


class Timestamp(Struct, frozen=True):
    """A moment, as a header carries it."""

    milliseconds: int
    """Since the Unix epoch."""


HeaderValue: TypeAlias = bool | int | bytes | str | Timestamp | UUID
"""Integers are read from any width and written in four bytes where they fit, else in eight."""

MAX_HEADERS_BYTES = 128 * 1024
MAX_PAYLOAD_BYTES = 24 * 1024 * 1024

_PRELUDE = struct.Struct(">III")
_OVERHEAD_BYTES = 16
_CACHED_HEADERS = 64
"""Header blocks remembered by a decoder: a stream repeats a handful of them in every frame."""


class Frame(Struct, frozen=True):
    """One message of a stream."""

    headers: Mapping[str, HeaderValue]
    payload: bytes = b""

    def word(self, name: str) -> str:
        """A header that is text; ``""`` where it is missing or of another type."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else ""


# -------------------------------------------------------------------------------------- encoding


def encode_frame(frame: Frame) -> bytes:
    """The bytes of a frame.

    >>> encode_frame(Frame({}, b"")).hex()
    '000000100000000005c248eb7d98c8ff'

    Raises:
        LocalProtocolError: A header cannot be said, or the frame is over the caps.
    """
    return seal(encode_headers(frame.headers), frame.payload)


def seal(headers: bytes, payload: bytes) -> bytes:
    """The bytes of a frame whose headers are encoded already.

    Raises:
        LocalProtocolError: The frame is over the caps.
    """
    if len(headers) > MAX_HEADERS_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise LocalProtocolError(
            f"a frame of {len(headers)} bytes of headers and {len(payload)} of payload is over "
            f"the limits ({MAX_HEADERS_BYTES} and {MAX_PAYLOAD_BYTES})"
        )
    lengths = struct.pack(">II", _OVERHEAD_BYTES + len(headers) + len(payload), len(headers))
    body = b"".join((lengths, struct.pack(">I", zlib.crc32(lengths)), headers, payload))
    return body + struct.pack(">I", zlib.crc32(body))


def encode_headers(headers: Mapping[str, HeaderValue]) -> bytes:
    """Headers, in the order given.

    Raises:
        LocalProtocolError: A name or value cannot be said.
    """
    try:
        return b"".join(_encode_header(name, value) for name, value in headers.items())
    except (struct.error, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"an event-stream header cannot be said: {error}") from error


def _encode_header(name: str, value: HeaderValue) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) < 256:
        raise LocalProtocolError(f"an event-stream header name has 1 to 255 bytes, not {len(raw)}")
    return bytes((len(raw),)) + raw + _encode_value(name, value)


def _encode_value(name: str, value: HeaderValue) -> bytes:
    match value:
        case bool():
            return b"\x00" if value else b"\x01"
        case int():
            fits = -(1 << 31) <= value < 1 << 31
            return struct.pack(">Bi" if fits else ">Bq", 4 if fits else 5, value)
        case bytes() | str():
            raw = value.encode() if isinstance(value, str) else value
            if len(raw) >= 1 << 15:
                raise LocalProtocolError(f"the event-stream header {name} is over 32767 bytes")
            return struct.pack(">BH", 7 if isinstance(value, str) else 6, len(raw)) + raw
        case Timestamp():
            return struct.pack(">Bq", 8, value.milliseconds)
        case UUID():
            return b"\x09" + value.bytes


# -------------------------------------------------------------------------------------- decoding


class FrameDecoder:
    """Gathers bytes into frames; one per stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._checked_length = 0
        """Length of the frame at the buffer's start, once its prelude was checked."""
        self._seen: dict[bytes, Mapping[str, HeaderValue]] = {}
        self._failure: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes in; give the frames they complete.

        A broken frame raises only when the whole ones before it have been given, so where the bytes
        are cut makes no difference.

        Raises:
            RemoteProtocolError: A checksum, a length or a header is wrong. Nothing can follow.
        """
        if self._failure is not None:
            raise self._failure
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = 0
        try:
            while (length := self._length_at(start)) and len(buffer) - start >= length:
                frames.append(self._frame(bytes(buffer[start : start + length])))
                start += length
                self._checked_length = 0
        except RemoteProtocolError as failure:
            self._failure = failure
            if not frames:
                raise
        del buffer[:start]
        return frames

    def close(self) -> None:
        """The stream ended.

        Raises:
            RemoteProtocolError: In the middle of a frame, or a frame was broken.
        """
        if self._failure is not None:
            raise self._failure
        if self._buffer:
            raise RemoteProtocolError(
                "the event stream was cut in the middle of a frame", frame=bytes(self._buffer)
            )

    def _length_at(self, start: int) -> int:
        """Length of the frame that begins at ``start``; 0 while its prelude is incomplete."""
        if self._checked_length or len(self._buffer) - start < _PRELUDE.size:
            return self._checked_length
        prelude = bytes(self._buffer[start : start + _PRELUDE.size])
        total, headers, checksum = _PRELUDE.unpack(prelude)
        if zlib.crc32(prelude[:8]) != checksum:
            raise RemoteProtocolError(
                "an event-stream frame begins with a wrong checksum; the stream was damaged, or it "
                "is not an event stream",
                frame=prelude,
            )
        payload = total - headers - _OVERHEAD_BYTES
        if headers > MAX_HEADERS_BYTES or not 0 <= payload <= MAX_PAYLOAD_BYTES:
            raise RemoteProtocolError(
                f"an event-stream frame of {total} bytes with {headers} bytes of headers is "
                "impossible or over the limits",
                frame=prelude,
            )
        self._checked_length = total
        return total

    def _frame(self, raw: bytes) -> Frame:
        if zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:]):
            raise RemoteProtocolError(
                "an event-stream frame ends with a wrong checksum; the stream was damaged",
                frame=raw,
            )
        end = _PRELUDE.size + int.from_bytes(raw[4:8])
        block = raw[_PRELUDE.size : end]
        headers = self._seen.get(block)
        if headers is None:
            headers = _decode_headers(block)
            if len(self._seen) < _CACHED_HEADERS and len(block) < 512:
                self._seen[block] = headers
        return Frame(headers, raw[end:-4])


def _decode_headers(block: bytes) -> Mapping[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    position = 0
    try:
        while position < len(block):
            size = block[position]
            name = _cut(block, position + 1, size).decode()
            kind = block[position + 1 + size]
            value, position = _decode_value(block, position + 2 + size, kind)
            if not name or name in headers:
                raise RemoteProtocolError(f"event-stream header {name!r} twice", frame=block)
            headers[name] = value
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise RemoteProtocolError(
            f"the headers of an event-stream frame cannot be read: {error}", frame=block
        ) from error
    return headers


_INTEGER_BYTES = {2: 1, 3: 2, 4: 4, 5: 8}


def _decode_value(block: bytes, position: int, kind: int) -> tuple[HeaderValue, int]:
    """A value of wire type ``kind`` and the position after it."""
    if kind <= 1:
        return kind == 0, position
    if kind <= 5:
        width = _INTEGER_BYTES[kind]
        return int.from_bytes(_cut(block, position, width), signed=True), position + width
    if kind <= 7:
        size = int.from_bytes(_cut(block, position, 2))
        raw = _cut(block, position + 2, size)
        return (raw.decode() if kind == 7 else raw), position + 2 + size
    if kind == 8:
        return Timestamp(int.from_bytes(_cut(block, position, 8), signed=True)), position + 8
    if kind == 9:
        return UUID(bytes=_cut(block, position, 16)), position + 16
    raise RemoteProtocolError(f"an event-stream header of unknown type {kind}", frame=block)


def _cut(block: bytes, position: int, size: int) -> bytes:
    piece = block[position : position + size]
    if len(piece) < size:
        raise IndexError("they end too early")
    return piece
