"""Server-sent events: the framing of ``text/event-stream``, both ways.

Source: WHATWG HTML, section 9.2, read 2026-11-22. Lines end in LF, CR or CRLF; a byte-order mark
may open the stream; lines that begin with a colon are comments; ``data`` lines of one event are one
value.

Invariant: cutting the bytes anywhere changes nothing, not even which events come before an error.
So an error found behind complete events waits for the next call. Two departures from the standard,
both because hosts need them: what stands after the last blank line is delivered by ``close``, and
``id`` and ``retry`` mean nothing here.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from kimiya.core.events import StreamEvent
from kimiya.errors import KimiyaError, RemoteProtocolError

MEDIA_TYPE = "text/event-stream"

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Default cap on a line and on an event: room for an image in base64, not for a host gone mad."""

_BOM = b"\xef\xbb\xbf"


class SseFrame(Struct, frozen=True):
    """One event as framed: still bytes, so that JSON is decoded once."""

    data: bytes
    event: str = ""
    """Its ``event`` field; ``""`` where it has none."""


class SseDecoder:
    """Bytes in, frames out; keeps the unfinished tail."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_line_bytes
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._after_cr = False
        self._is_first_line = True
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = ""
        self._failure: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> list[SseFrame]:
        """Take bytes in; give the frames they complete.

        Raises:
            RemoteProtocolError: A line or an event is longer than the cap.
        """
        self._raise_failure()
        frames: list[SseFrame] = []
        try:
            self._take(data, frames)
        except RemoteProtocolError as error:
            if not frames:
                raise
            self._failure = error
        return frames

    def close(self) -> list[SseFrame]:
        """The stream ended; give what stands behind the last blank line.

        Raises:
            RemoteProtocolError: An error that was waiting.
        """
        self._raise_failure()
        frames: list[SseFrame] = []
        if self._tail:
            self._line(b"".join(self._tail), frames)
            self._tail.clear()
        self._line(b"", frames)
        return frames

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _take(self, data: bytes, frames: list[SseFrame]) -> None:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._tail:
            # Joined once per line, so that a long line in small pieces costs no more than its size.
            lines[0] = b"".join((*self._tail, lines[0]))
            self._tail.clear()
            self._tail_bytes = 0
        for line in lines:
            self._line(line, frames)
        if last:
            self._tail.append(last)
            self._tail_bytes += len(last)
            self._check(self._tail_bytes, self._tail[0])

    def _line(self, line: bytes, frames: list[SseFrame]) -> None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                frames.append(SseFrame(b"\n".join(self._data), self._event))
                self._data.clear()
                self._data_bytes = 0
            self._event = ""
            return
        self._check(len(line), line)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value)
            self._check(self._data_bytes, self._data[0])
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")

    def _check(self, size: int, begin: bytes) -> None:
        if size > self._max_bytes:
            raise RemoteProtocolError(
                f"an event of the stream is longer than {self._max_bytes} bytes", frame=begin
            )


class FrameReader(Protocol):
    """What a dialect knows of its frames; framing is not its business."""

    def read(self, frame: SseFrame) -> list[StreamEvent]:
        """The events of one frame."""
        ...

    def end(self) -> list[StreamEvent]:
        """The stream ended; raises where it may not end here."""
        ...


class SseEventDecoder:
    """The ``EventDecoder`` of every dialect framed as server-sent events."""

    def __init__(self, reader: FrameReader, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._frames = SseDecoder(max_line_bytes)
        self._reader = reader
        self._failure: KimiyaError | None = None

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take bytes in; give the events they complete."""
        self._raise_failure()
        return self._read(self._frames.feed(data))

    def close(self) -> list[StreamEvent]:
        """The stream ended; give what is left."""
        self._raise_failure()
        events = self._read(self._frames.close())
        self._raise_failure()
        events += self._reader.end()
        return events

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _read(self, frames: list[SseFrame]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for frame in frames:
            try:
                events += self._reader.read(frame)
            except KimiyaError as error:
                if not events:
                    raise
                self._failure = error
                break
        return events


def encode_frame(data: bytes, event: str = "") -> bytes:
    """One event. ``data`` is JSON on one line.

    >>> encode_frame(b"{}", "ping")
    b'event: ping\\ndata: {}\\n\\n'
    """
    if event:
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    return b"data: %b\n\n" % data


def encode_note(fields: Mapping[str, str]) -> bytes:
    """Kimiya's remarks as comments, one line each.

    >>> encode_note({"route": "moonshot"})
    b': kimiya route=moonshot\\n\\n'
    """
    lines = [f": kimiya {key}={' '.join(value.split())}\n" for key, value in fields.items()]
    return "".join([*lines, "\n"]).encode("utf-8", "replace") if lines else b""


PING = b": ping\n\n"
"""A comment: keeps connections open and means nothing."""
