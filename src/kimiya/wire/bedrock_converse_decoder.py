"""Streams of Bedrock Converse, decoded from a host.

Text and reasoning blocks have no start event; their first delta opens them. Usage comes after
``messageStop``, so ``Finish`` waits for ``metadata`` or the end of the stream. Blocks and deltas
that events cannot carry (images, citations) are gathered verbatim into the extras of ``Finish``
under ``unstreamed_blocks``.
"""

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

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
from kimiya.errors import KimiyaError, RemoteProtocolError
from kimiya.wire.aws_eventstream import Frame, FrameDecoder
from kimiya.wire.bedrock_converse_errors import describe, read_exception
from kimiya.wire.bedrock_converse_replies import (
    ADDITIONAL,
    finish_reason,
    read_extras,
    read_usage,
)
from kimiya.wire.dialect import EventDecoder
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    optional,
    optional_object,
    parse_object,
    required,
    required_object,
)


class _Block(Struct):
    """An open block of the host's stream."""

    kind: str
    part: int
    has_input: bool = False


class ConverseEventDecoder:
    """Turns a host's stream into events. See ``wire.dialect.EventDecoder``."""

    def __init__(self) -> None:
        self._frames = FrameDecoder()
        self._blocks: dict[int, _Block] = {}
        self._next_part = 0
        self._unstreamed: list[JsonObject] = []
        self._stop_fields: JsonObject | None = None
        self._is_done = False
        self._failure: KimiyaError | None = None

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take bytes in; give the events they complete."""
        if self._failure is not None:
            raise self._failure
        out: list[StreamEvent] = []
        try:
            for frame in self._frames.feed(data):
                self._take(frame, out)
        except KimiyaError as failure:
            # What came before it still counts, wherever the bytes were cut.
            self._failure = failure
            if not out:
                raise
        return out

    def close(self) -> list[StreamEvent]:
        """The stream ended; give what is left."""
        if self._failure is not None:
            raise self._failure
        self._frames.close()
        out: list[StreamEvent] = []
        if not self._is_done:
            if self._stop_fields is None:
                raise RemoteProtocolError("the stream ended before the model said why it stopped")
            self._end({}, out)
        return out

    def _take(self, frame: Frame, out: list[StreamEvent]) -> None:
        kind = frame.word(":message-type")
        if kind == "exception":
            raise read_exception(frame.word(":exception-type"), frame.payload)
        if kind == "error":
            raise describe(frame.word(":error-code"), frame.word(":error-message"))
        if self._is_done:
            return
        try:
            self._read(frame.word(":event-type"), frame.payload, out)
        except Misfit as misfit:
            raise misfit.as_remote(frame.payload) from misfit

    def _read(self, kind: str, payload: bytes, out: list[StreamEvent]) -> None:
        match kind:
            case "contentBlockDelta":
                fields = parse_object(payload)
                index = required(fields, "contentBlockIndex", int)
                self._read_delta(index, required_object(fields, "delta"), out)
            case "contentBlockStart":
                fields = parse_object(payload)
                index = required(fields, "contentBlockIndex", int)
                self._open(index, required_object(fields, "start"), out)
            case "contentBlockStop":
                self._stop(required(parse_object(payload), "contentBlockIndex", int), out)
            case "messageStart":
                out.append(StreamStart())
            case "messageStop":
                self._stop_fields = parse_object(payload)
            case "metadata":
                self._end(parse_object(payload), out)
            case _:
                pass  # event types yet to be invented

    def _open(self, index: int, start: JsonObject, out: list[StreamEvent]) -> None:
        self._stop(index, out)
        call = optional_object(start, "toolUse")
        if call is None:
            self._unstreamed.append({"start": start, "contentBlockIndex": index})
            return
        part = self._open_part(index, "tool_call").part
        call_id, name = (optional(call, key, str) or "" for key in ("toolUseId", "name"))
        out.append(ToolCallDelta(part, call_id, name))

    def _open_part(self, index: int, kind: str) -> _Block:
        block = self._blocks[index] = _Block(kind, self._next_part)
        self._next_part += 1
        return block

    def _in(self, index: int, kind: str, out: list[StreamEvent]) -> _Block:
        """The block a delta belongs to, opened if it is the first of its kind there."""
        block = self._blocks.get(index)
        if block is None or block.kind != kind:
            self._stop(index, out)
            block = self._open_part(index, kind)
        return block

    def _read_delta(self, index: int, delta: JsonObject, out: list[StreamEvent]) -> None:
        if "text" in delta:
            text = required(delta, "text", str)
            out.append(TextDelta(self._in(index, "text", out).part, text))
        elif "toolUse" in delta:
            block = self._in(index, "tool_call", out)
            piece = required(required_object(delta, "toolUse"), "input", str)
            if piece:
                block.has_input = True
                out.append(ToolCallDelta(block.part, arguments=piece))
        elif "reasoningContent" in delta:
            self._read_reasoning(index, required_object(delta, "reasoningContent"), out)
        else:
            self._unstreamed.append({"delta": delta, "contentBlockIndex": index})

    def _read_reasoning(self, index: int, delta: JsonObject, out: list[StreamEvent]) -> None:
        redacted = optional(delta, "redactedContent", str)
        kind = "reasoning" if redacted is None else "redacted"
        part = self._in(index, kind, out).part
        signature = optional(delta, "signature", str) or None
        out.append(ReasoningDelta(part, optional(delta, "text", str) or "", signature, redacted))

    def _stop(self, index: int, out: list[StreamEvent]) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.kind == "tool_call" and not block.has_input:
            out.append(ToolCallDelta(block.part, arguments="{}"))
        out.append(PartEnd(block.part))

    def _end(self, metadata: JsonObject, out: list[StreamEvent]) -> None:
        usage = read_usage(optional_object(metadata, "usage") or {})
        stop_fields = self._stop_fields
        if stop_fields is None:
            # Metadata alone does not say that the model finished.
            out += [UsageReport(usage)] if usage is not None else []
            return
        self._is_done = True
        for index in list(self._blocks):
            self._stop(index, out)
        if usage is not None:
            out.append(UsageReport(usage))
        word = optional(stop_fields, "stopReason", str)
        said = {k: v for k, v in metadata.items() if k not in ("usage", "p")}
        extras, stop_sequence = read_extras({**said, ADDITIONAL: stop_fields.get(ADDITIONAL)})
        finish = Finish(finish_reason(word), word, stop_sequence, extras)
        if self._unstreamed:
            finish = replace(finish, extras={**extras, "unstreamed_blocks": self._unstreamed})
        out.append(finish)


if TYPE_CHECKING:
    _conforms: EventDecoder = ConverseEventDecoder()
