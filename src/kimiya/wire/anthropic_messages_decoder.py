"""Streams of Anthropic Messages, decoded from a host.

Forgives what hosts are known to do: a missing or second ``message_start``, a second
``content_block_stop``, a delta of another kind than its block, an input given whole at the start.
Each block of a kind that events can carry becomes a part, numbered in the order of opening. Blocks
and deltas that events cannot carry (server tools, citations) are gathered verbatim into the extras
of ``Finish`` under ``unstreamed_blocks``.
"""

import msgspec

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
from kimiya.errors import RemoteProtocolError
from kimiya.wire.anthropic_messages_blocks import RawBlock
from kimiya.wire.anthropic_messages_errors import read_error
from kimiya.wire.anthropic_messages_replies import finish_reason, read_usage, reply_extras
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    optional,
    optional_object,
    parse_object,
    required,
    required_object,
)
from kimiya.wire.sse import SseFrame

_DELTA_KINDS = {
    "text_delta": "text",
    "thinking_delta": "reasoning",
    "signature_delta": "reasoning",
    "input_json_delta": "tool_call",
}


class _Block(msgspec.Struct):
    """An open block of the host's stream."""

    kind: str
    part: int
    given_input: str = "{}"
    """Arguments that came with the start; said only if no delta brings any."""
    has_input: bool = False
    record: JsonObject | None = None
    """What events cannot carry of it."""


class _RawStart(msgspec.Struct):
    content_block: RawBlock


_raw_start = msgspec.json.Decoder(_RawStart)


class AnthropicReader:
    """Turns the frames of a host's stream into events. See ``wire.sse.FrameReader``."""

    def __init__(self) -> None:
        self._is_started = False
        self._blocks: dict[int, _Block] = {}
        self._next_part = 0
        self._unstreamed: list[JsonObject] = []
        self._usage: JsonObject = {}
        self._finish: Finish | None = None
        self._is_done = False

    def read(self, frame: SseFrame) -> list[StreamEvent]:
        """The events of one frame.

        Raises:
            RemoteProtocolError: It cannot be read.
            ProviderError: It is an error event.
        """
        out: list[StreamEvent] = []
        if self._is_done or frame.data == b"[DONE]":
            return out
        try:
            self._read(parse_object(frame.data), frame.data, out)
        except Misfit as misfit:
            raise misfit.as_remote(frame.data) from misfit
        return out

    def end(self) -> list[StreamEvent]:
        """The stream ended; give what is left.

        Raises:
            RemoteProtocolError: Before the model said why it stopped.
        """
        out: list[StreamEvent] = []
        if not self._is_done:
            if self._finish is None:
                raise RemoteProtocolError("the stream ended before the model said why it stopped")
            self._end(out)
        return out

    def _read(self, fields: JsonObject, data: bytes, out: list[StreamEvent]) -> None:
        match fields.get("type"):
            case "content_block_delta":
                self._read_delta(required(fields, "index", int), fields, out)
            case "content_block_start":
                self._open(required(fields, "index", int), fields, data, out)
            case "content_block_stop":
                self._stop(required(fields, "index", int), out)
            case "message_start":
                self._start(required_object(fields, "message"), out)
            case "message_delta":
                self._read_end(fields)
            case "message_stop":
                self._end(out)
            case "error":
                raise read_error(200, {}, data)
            case _:
                pass  # pings, and event types yet to be invented

    def _start(self, message: JsonObject, out: list[StreamEvent]) -> None:
        if self._is_started:
            return
        self._is_started = True
        extras = reply_extras(message, {})
        response_id = optional(message, "id", str) or ""
        out.append(StreamStart(response_id, optional(message, "model", str) or "", extras=extras))
        self._usage = optional_object(message, "usage") or {}
        usage, _ = read_usage(self._usage)
        if usage is not None:
            out.append(UsageReport(usage))

    def _open(self, index: int, fields: JsonObject, data: bytes, out: list[StreamEvent]) -> None:
        self._stop(index, out)
        content = required_object(fields, "content_block")
        kind = required(content, "type", str)
        if kind == "text":
            part = self._open_part(index, "text")
            out.append(TextDelta(part, optional(content, "text", str) or ""))
        elif kind == "thinking":
            part = self._open_part(index, "reasoning")
            text, signature = (optional(content, name, str) for name in ("thinking", "signature"))
            out.append(ReasoningDelta(part, text or "", signature or None))
        elif kind == "redacted_thinking":
            part = self._open_part(index, "redacted")
            out.append(ReasoningDelta(part, redacted=required(content, "data", str)))
        elif kind == "tool_use":
            part = self._open_part(index, "tool_call")
            if content.get("input"):
                raw = _raw_start.decode(data).content_block.input
                self._blocks[index].given_input = bytes(raw).decode()
            name = optional(content, "name", str) or ""
            out.append(ToolCallDelta(part, optional(content, "id", str) or "", name))
        else:
            record: JsonObject = {"content_block": content}
            self._unstreamed.append(record)
            self._blocks[index] = _Block("unstreamed", -1, record=record)

    def _open_part(self, index: int, kind: str) -> int:
        part = self._next_part
        self._next_part += 1
        self._blocks[index] = _Block(kind, part)
        return part

    def _read_delta(self, index: int, fields: JsonObject, out: list[StreamEvent]) -> None:
        delta = required_object(fields, "delta")
        kind = _DELTA_KINDS.get(delta.get("type", ""))
        block = self._blocks.get(index)
        if kind is None or (block is not None and block.kind == "unstreamed"):
            self._keep(block, delta)
            return
        if block is None or block.kind != kind:
            self._stop(index, out)
            self._open_part(index, kind)
            block = self._blocks[index]
        if kind == "text":
            out.append(TextDelta(block.part, required(delta, "text", str)))
        elif kind == "tool_call":
            piece = required(delta, "partial_json", str)
            if piece:
                block.has_input = True
                out.append(ToolCallDelta(block.part, arguments=piece))
        elif delta["type"] == "signature_delta":
            signature = required(delta, "signature", str)
            if signature:
                out.append(ReasoningDelta(block.part, signature=signature))
        else:
            out.append(ReasoningDelta(block.part, required(delta, "thinking", str)))

    def _keep(self, block: _Block | None, delta: JsonObject) -> None:
        """Gather what events cannot carry, under the block it belongs to."""
        if block is None or block.record is None:
            record: JsonObject = {"part": block.part if block else None}
            self._unstreamed.append(record)
            if block is not None:
                block.record = record
        else:
            record = block.record
        record.setdefault("deltas", []).append(delta)

    def _stop(self, index: int, out: list[StreamEvent]) -> None:
        block = self._blocks.pop(index, None)
        if block is None or block.kind == "unstreamed":
            return
        if block.kind == "tool_call" and not block.has_input:
            out.append(ToolCallDelta(block.part, arguments=block.given_input))
        out.append(PartEnd(block.part))

    def _read_end(self, fields: JsonObject) -> None:
        news = optional_object(fields, "usage") or {}
        self._usage.update({k: v for k, v in news.items() if v is not None})
        delta = optional_object(fields, "delta") or {}
        word = optional(delta, "stop_reason", str)
        if word is not None:
            stop_sequence = optional(delta, "stop_sequence", str)
            extras = reply_extras(delta, {})
            self._finish = Finish(finish_reason(word), word, stop_sequence, extras)

    def _end(self, out: list[StreamEvent]) -> None:
        self._is_done = True
        for index in list(self._blocks):
            self._stop(index, out)
        usage, usage_extras = read_usage(self._usage)
        if usage is not None:
            out.append(UsageReport(usage))
        finish = self._finish or Finish("unknown")
        extras = dict(finish.extras)
        if usage_extras:
            extras["usage"] = dict(usage_extras)
        if self._unstreamed:
            extras["unstreamed_blocks"] = self._unstreamed
        out.append(msgspec.structs.replace(finish, extras=extras))
