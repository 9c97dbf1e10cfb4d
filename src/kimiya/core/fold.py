"""Between a stream of events and a whole reply, both ways, and interleaved parts made serial.

Law: ``fold(unfold(response)) == response`` for every response whose parts are text, reasoning and
calls. A stream without ``Finish`` does not fold: what was cut is never presented as whole.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec import Struct

from kimiya.core.events import (
    Finish,
    PartEnd,
    ReasoningDelta,
    StreamEvent,
    StreamStart,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from kimiya.core.exchange import Response, Usage
from kimiya.core.messages import Part, Reasoning, Text, ToolCall
from kimiya.errors import LocalProtocolError, RemoteProtocolError


class _OpenText(Struct):
    pieces: list[str]

    def close(self) -> Part:
        return Text("".join(self.pieces))


class _OpenReasoning(Struct):
    pieces: list[str]
    signature: str | None = None
    redacted: str | None = None

    def close(self) -> Part:
        return Reasoning("".join(self.pieces), self.signature, self.redacted)


class _OpenCall(Struct):
    call_id: str
    name: str
    pieces: list[str]

    def close(self) -> Part:
        return ToolCall(self.call_id, self.name, "".join(self.pieces))


_OpenPart = _OpenText | _OpenReasoning | _OpenCall


def grown(seen: str, piece: str) -> str:
    """Add a piece of a name or id to what was seen, as hosts really send them.

    Some hosts send it in fragments, some repeat the whole of it in every delta, some send ``""``.

    >>> grown("", "read"), grown("read", "read"), grown("read", ""), grown("read", "_file")
    ('read', 'read', 'read', 'read_file')
    """
    return seen if not piece or piece == seen else seen + piece


class Fold:
    """Gathers events into a ``Response``; feed every event, then ask for the result once."""

    def __init__(self) -> None:
        self._start = StreamStart()
        self._parts: dict[int, _OpenPart] = {}
        self._usage: Usage | None = None
        self._finish: Finish | None = None

    @property
    def is_finished(self) -> bool:
        """Whether ``Finish`` has come."""
        return self._finish is not None

    @property
    def usage(self) -> Usage | None:
        """The last usage reported so far."""
        return self._usage

    def feed(self, event: StreamEvent) -> None:
        """Take one event in.

        Raises:
            RemoteProtocolError: A delta's kind is not that of the part it names.
        """
        match event:
            case TextDelta():
                self._say(event)
            case ReasoningDelta():
                self._reason(event)
            case ToolCallDelta():
                self._call(event)
            case StreamStart():
                self._start = event
            case UsageReport():
                self._usage = event.usage
            case Finish():
                self._finish = event
            case PartEnd():
                pass
            case _:
                assert_never(event)

    def result(self) -> Response:
        """The whole reply.

        Raises:
            RemoteProtocolError: The stream was cut before ``Finish``.
        """
        finish = self._finish
        if finish is None:
            raise RemoteProtocolError("the stream ended before the model said why it stopped")
        return Response(
            response_id=self._start.response_id,
            model=self._start.model,
            parts=self.parts(),
            finish_reason=finish.finish_reason,
            raw_finish_reason=finish.raw_finish_reason,
            stop_sequence=finish.stop_sequence,
            usage=self._usage,
            created=self._start.created,
            extras={**self._start.extras, **finish.extras},
        )

    def parts(self) -> tuple[Part, ...]:
        """What has come so far, in the order of part numbers; also of a stream that was cut."""
        return tuple(self._parts[number].close() for number in sorted(self._parts))

    def _say(self, event: TextDelta) -> None:
        part = self._parts.setdefault(event.part, _OpenText([]))
        if not isinstance(part, _OpenText):
            raise _mixed(event.part)
        part.pieces.append(event.text)

    def _reason(self, event: ReasoningDelta) -> None:
        part = self._parts.setdefault(event.part, _OpenReasoning([]))
        if not isinstance(part, _OpenReasoning):
            raise _mixed(event.part)
        part.pieces.append(event.text)
        part.signature = _joined(part.signature, event.signature)
        part.redacted = _joined(part.redacted, event.redacted)

    def _call(self, event: ToolCallDelta) -> None:
        part = self._parts.setdefault(event.part, _OpenCall("", "", []))
        if not isinstance(part, _OpenCall):
            raise _mixed(event.part)
        part.call_id = grown(part.call_id, event.call_id)
        part.name = grown(part.name, event.name)
        part.pieces.append(event.arguments)


def _joined(seen: str | None, piece: str | None) -> str | None:
    return seen if piece is None else (seen or "") + piece


def _mixed(part: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"part {part} of the stream changes its kind half-way")


def fold(events: Iterable[StreamEvent]) -> Response:
    """Gather a whole stream.

    >>> fold([TextDelta(0, "a"), TextDelta(0, "b"), Finish("stop")]).parts
    (Text(text='ab', cache=None, extras={}),)
    """
    gathering = Fold()
    for event in events:
        gathering.feed(event)
    return gathering.result()


def unfold(response: Response) -> list[StreamEvent]:
    """Say a whole reply as the stream it could have been, one delta a part.

    Raises:
        LocalProtocolError: A part cannot occur in a reply (an image, a tool result).
    """
    events: list[StreamEvent] = [
        StreamStart(response.response_id, response.model, response.created, response.extras)
    ]
    for number, part in enumerate(response.parts):
        match part:
            case Text():
                events.append(TextDelta(number, part.text))
            case Reasoning():
                events.append(ReasoningDelta(number, part.text, part.signature, part.redacted))
            case ToolCall():
                events.append(ToolCallDelta(number, part.call_id, part.name, part.arguments))
            case _:
                raise LocalProtocolError(
                    f"a reply cannot hold a part of kind {type(part).__name__}"
                )
        events.append(PartEnd(number))
    if response.usage is not None:
        events.append(UsageReport(response.usage))
    events.append(
        Finish(response.finish_reason, response.raw_finish_reason, response.stop_sequence)
    )
    return events


_PART_EVENTS = (TextDelta, ReasoningDelta, ToolCallDelta, PartEnd)


class Serialiser:
    """Makes interleaved parts serial, holding back no more than it must.

    The part that opened first flows through; deltas of others wait until it ends (``PartEnd``, a
    or ``Finish``). Only an open call makes others wait: text and reasoning give way at once.
    """

    def __init__(self) -> None:
        self._current: int | None = None
        self._is_call = False
        self._waiting: dict[int, list[StreamEvent]] = {}

    def feed(self, event: StreamEvent) -> list[StreamEvent]:
        """One event in; the events that may go out now."""
        if not isinstance(event, _PART_EVENTS):
            return [*self._flush(), event] if isinstance(event, Finish) else [event]
        is_call = isinstance(event, ToolCallDelta)
        if isinstance(event, PartEnd):
            return self._end(event)
        if self._current == event.part:
            return [event]
        if self._current is not None and self._is_call:
            # An open call may still grow, so what opens meanwhile waits for its end.
            self._waiting.setdefault(event.part, []).append(event)
            return []
        self._current, self._is_call = event.part, is_call
        return [event]

    def _end(self, event: PartEnd) -> list[StreamEvent]:
        if event.part in self._waiting:
            self._waiting[event.part].append(event)
            return []
        out: list[StreamEvent] = [event]
        if self._current == event.part:
            self._current = None
            out += self._promote()
        return out

    def _promote(self) -> list[StreamEvent]:
        """Let waiting parts through, in order, up to and including the first unfinished one."""
        out: list[StreamEvent] = []
        while self._waiting and self._current is None:
            part = next(iter(self._waiting))
            held = self._waiting.pop(part)
            out += held
            if not isinstance(held[-1], PartEnd):
                self._current, self._is_call = part, isinstance(held[0], ToolCallDelta)
        return out

    def _flush(self) -> list[StreamEvent]:
        out = [event for held in self._waiting.values() for event in held]
        self._waiting.clear()
        self._current = None
        return out
