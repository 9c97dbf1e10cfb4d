"""Streams of Anthropic Messages, decoded from a host and encoded for a client.

Decoding forgives what hosts are known to do: a missing or second ``message_start``, a second
``content_block_stop``, a delta of another kind than its block, an input given whole at the start.
Each block of a kind that events can carry becomes a part, numbered in the order of opening. Blocks
and deltas that events cannot carry (server tools, citations) are gathered verbatim into the extras
of ``Finish`` under ``unstreamed_blocks``.

Encoding opens a block when a part begins, closes it when another begins, and says usage and stop
reason at the very end, when both are known. ``message_start`` waits for the event after
``StreamStart``, so that it carries the input count where the host gives it that early.
"""

from collections.abc import Mapping
from typing import assert_never

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
from kimiya.core.exchange import Request, Usage
from kimiya.errors import KimiyaError, ProviderError, RemoteProtocolError
from kimiya.wire.anthropic_messages_blocks import RawBlock
from kimiya.wire.anthropic_messages_errors import error_object, read_error
from kimiya.wire.anthropic_messages_replies import (
    finish_reason,
    message_object,
    read_usage,
    reply_extras,
    shown_extras,
    stop_reason,
    write_usage,
)
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    optional,
    optional_object,
    parse_object,
    required,
    required_object,
)
from kimiya.wire.sse import SseDecoder

_encode = msgspec.json.Encoder().encode

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


class AnthropicEventDecoder:
    """Turns a host's stream into events. See ``wire.dialect.EventDecoder``."""

    def __init__(self) -> None:
        self._sse = SseDecoder()
        self._is_started = False
        self._blocks: dict[int, _Block] = {}
        self._next_part = 0
        self._unstreamed: list[JsonObject] = []
        self._usage: JsonObject = {}
        self._finish: Finish | None = None
        self._is_done = False
        self._failure: KimiyaError | None = None

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take bytes in; give the events they complete."""
        if self._failure is not None:
            raise self._failure
        out: list[StreamEvent] = []
        try:
            for frame in self._sse.feed(data):
                self._take(frame.data, out)
        except (ProviderError, RemoteProtocolError) as failure:
            # What came before it still counts, wherever the bytes were cut.
            self._failure = failure
            if not out:
                raise
        return out

    def close(self) -> list[StreamEvent]:
        """The stream ended; give what is left."""
        if self._failure is not None:
            raise self._failure
        out: list[StreamEvent] = []
        for frame in self._sse.close():
            self._take(frame.data, out)
        if not self._is_done:
            if self._finish is None:
                raise RemoteProtocolError("the stream ended before the model said why it stopped")
            self._end(out)
        return out

    def _take(self, data: bytes, out: list[StreamEvent]) -> None:
        if self._is_done or data == b"[DONE]":
            return
        try:
            fields = parse_object(data)
            self._read(fields, data, out)
        except Misfit as misfit:
            raise misfit.as_remote(data) from misfit

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


class AnthropicEventEncoder:
    """Turns events into a client's stream. See ``wire.dialect.EventEncoder``."""

    def __init__(self, request: Request) -> None:
        self._model = request.model
        self._start: StreamStart | None = None
        self._is_started = False
        self._index = -1
        self._part: int | None = None
        self._kind = ""
        self._signature = ""
        self._redacted = ""
        self._usage: Usage | None = None
        self._finish: Finish | None = None

    def encode(self, event: StreamEvent) -> bytes:
        """The bytes for one event."""
        match event:
            case TextDelta(part=part, text=text):
                head = self._enter(part, "text")
                return head + _delta(self._index, b"text_delta", b"text", text) if text else head
            case ReasoningDelta():
                return self._reason(event)
            case ToolCallDelta():
                return self._call(event)
            case PartEnd(part=part):
                return self._leave() if part == self._part else b""
            case StreamStart():
                self._start = event
                return b""
            case UsageReport(usage=usage):
                self._usage = usage
                return self._open_message()
            case Finish():
                self._finish = event
                return self._open_message() + self._leave()
            case _:
                assert_never(event)

    def _open_message(self) -> bytes:
        if self._is_started:
            return b""
        self._is_started = True
        start = self._start or StreamStart()
        message = message_object(start.response_id or "msg_unknown", start.model or self._model)
        if self._usage is not None:
            message["usage"] = write_usage(self._usage)
        message.update(shown_extras(start.extras))
        return _event(b"message_start", {"type": "message_start", "message": message})

    def _enter(self, part: int, kind: str, block: JsonObject | None = None) -> bytes:
        """Make ``part`` the open block, in a form of ``kind``."""
        if part == self._part and kind == self._kind:
            return b""
        head = self._open_message() + self._leave()
        self._index += 1
        self._part, self._kind = part, kind
        return head + self._announce(block or _EMPTY[kind]) if kind != "redacted" else head

    def _announce(self, block: JsonObject) -> bytes:
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return _event(b"content_block_start", start)

    def _leave(self) -> bytes:
        """Close the open block, if there is one."""
        if self._part is None:
            return b""
        out = b""
        if self._kind == "redacted":
            # Its data has no deltas, so the block is said whole, at its end.
            out = self._announce({"type": "redacted_thinking", "data": self._redacted})
        elif self._signature:
            # Clients keep the last signature delta only, so it is said once.
            out = _delta(self._index, b"signature_delta", b"signature", self._signature)
        self._part, self._signature, self._redacted = None, "", ""
        stop = {"type": "content_block_stop", "index": self._index}
        return out + _event(b"content_block_stop", stop)

    def _reason(self, event: ReasoningDelta) -> bytes:
        if event.redacted is not None:
            head = self._enter(event.part, "redacted")
            self._redacted += event.redacted
            return head
        head = self._enter(event.part, "thinking")
        self._signature += event.signature or ""
        if not event.text:
            return head
        return head + _delta(self._index, b"thinking_delta", b"thinking", event.text)

    def _call(self, event: ToolCallDelta) -> bytes:
        head = b""
        if event.part != self._part:
            block: JsonObject = {
                "type": "tool_use",
                "id": event.call_id,
                "name": event.name,
                "input": {},
            }
            head = self._enter(event.part, "tool_use", block)
        if not event.arguments:
            return head
        return head + _delta(self._index, b"input_json_delta", b"partial_json", event.arguments)

    def close(self) -> bytes:
        """Usage, stop reason and the end; nothing where the model never finished."""
        finish = self._finish
        if finish is None:
            return b""
        reason = stop_reason(finish.finish_reason, finish.raw_finish_reason)
        delta = {"stop_reason": reason, "stop_sequence": finish.stop_sequence}
        end = {
            "type": "message_delta",
            "delta": {**delta, **shown_extras(finish.extras)},
            "usage": write_usage(self._usage),
        }
        return _event(b"message_delta", end) + _event(b"message_stop", {"type": "message_stop"})

    def error(self, error: KimiyaError) -> bytes:
        """An error event; nothing may follow it."""
        return _event(b"error", {"type": "error", "error": error_object(error)})

    def note(self, fields: Mapping[str, str]) -> bytes:
        """A comment line."""
        return b": kimiya " + _encode(fields) + b"\n\n"

    def ping(self) -> bytes:
        """The dialect's own keep-alive."""
        return self._open_message() + _PING if self._start is not None else _PING


_EMPTY: dict[str, JsonObject] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


def _event(name: bytes, value: JsonObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, _encode(value))


def _delta(index: int, kind: bytes, field: bytes, text: str) -> bytes:
    return (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
        % (index, kind, field, _encode(text))
    )


_PING = _event(b"ping", {"type": "ping"})
