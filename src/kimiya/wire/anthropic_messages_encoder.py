"""Streams of Anthropic Messages, encoded for a client.

A block opens when a part begins and closes when another begins or its end is said; usage and stop
reason come at the very end, when both are known. ``message_start`` waits for the event after
``StreamStart``, so that it carries the input count where the host gives it that early; elsewhere
zero stands there and the count in ``message_delta``, which clients read over it.
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
from kimiya.errors import KimiyaError
from kimiya.wire.anthropic_messages_errors import error_object
from kimiya.wire.anthropic_messages_replies import (
    message_object,
    shown_extras,
    stop_reason,
    write_usage,
)
from kimiya.wire.json_fields import JsonObject
from kimiya.wire.sse import encode_frame, encode_note

_encode = msgspec.json.Encoder().encode


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
        return _event("message_start", {"type": "message_start", "message": message})

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
        return _event("content_block_start", start)

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
        return out + _event("content_block_stop", stop)

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
        return _event("message_delta", end) + _event("message_stop", {"type": "message_stop"})

    def error(self, error: KimiyaError) -> bytes:
        """An error event; nothing may follow it."""
        return _event("error", {"type": "error", "error": error_object(error)})

    def note(self, fields: Mapping[str, str]) -> bytes:
        """Comment lines."""
        return encode_note(fields)

    def ping(self) -> bytes:
        """The dialect's own keep-alive."""
        return self._open_message() + _PING if self._start is not None else _PING


_EMPTY: dict[str, JsonObject] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


def _event(name: str, value: JsonObject) -> bytes:
    return encode_frame(_encode(value), name)


def _delta(index: int, kind: bytes, field: bytes, text: str) -> bytes:
    return (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
        % (index, kind, field, _encode(text))
    )


_PING = _event("ping", {"type": "ping"})
