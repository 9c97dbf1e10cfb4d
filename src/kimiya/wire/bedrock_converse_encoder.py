"""Streams of Bedrock Converse, encoded for a client.

A block opens when a part begins and closes when another begins or its end is said. ``messageStop``
comes with ``Finish`` and ``metadata`` at the close, as the service orders them. Notes and pings are
events of types the service does not have, which boto3 drops unread.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, assert_never

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
from kimiya.core.exchange import Usage
from kimiya.errors import KimiyaError
from kimiya.wire.aws_eventstream import encode_headers, seal
from kimiya.wire.bedrock_converse_errors import exception_name, write_message
from kimiya.wire.bedrock_converse_replies import (
    additional_fields,
    shown_extras,
    stop_reason,
    write_usage,
)
from kimiya.wire.dialect import EventEncoder
from kimiya.wire.json_fields import JsonObject

_encode = msgspec.json.Encoder().encode


def _headers(event: str) -> bytes:
    return encode_headers(
        {
            ":event-type": event,
            ":content-type": "application/json",
            ":message-type": "event",
        }
    )


_START = _headers("messageStart")
_BLOCK_START = _headers("contentBlockStart")
_DELTA = _headers("contentBlockDelta")
_BLOCK_STOP = _headers("contentBlockStop")
_STOP = _headers("messageStop")
_METADATA = _headers("metadata")
_NOTE = _headers("kimiyaNote")
_PING = seal(_headers("ping"), b"{}")


class ConverseEventEncoder:
    """Turns events into a client's stream. See ``wire.dialect.EventEncoder``."""

    def __init__(self) -> None:
        self._is_started = False
        self._index = -1
        self._part: int | None = None
        self._kind = ""
        self._is_empty = True
        self._redacted = ""
        self._usage: Usage | None = None
        self._finish: Finish | None = None

    def encode(self, event: StreamEvent) -> bytes:
        """The bytes for one event."""
        match event:
            case TextDelta():
                return self._say(event)
            case ReasoningDelta():
                return self._reason(event)
            case ToolCallDelta():
                return self._call(event)
            case PartEnd(part=part):
                return self._leave() if part == self._part else b""
            case StreamStart():
                return self._open_message()
            case UsageReport(usage=usage):
                self._usage = usage
                return b""
            case Finish():
                return self._end(event)
            case _:
                assert_never(event)

    def _open_message(self) -> bytes:
        if self._is_started:
            return b""
        self._is_started = True
        return seal(_START, b'{"role":"assistant"}')

    def _delta(self, delta: JsonObject) -> bytes:
        self._is_empty = False
        return seal(_DELTA, _encode({"contentBlockIndex": self._index, "delta": delta}))

    def _is_open(self, part: int, kind: str) -> bool:
        return part == self._part and kind == self._kind

    def _enter(self, part: int, kind: str) -> bytes:
        """Make ``part`` the open block, in a form of ``kind``."""
        if self._is_open(part, kind):
            return b""
        head = self._open_message() + self._leave()
        self._index += 1
        self._part, self._kind, self._is_empty = part, kind, True
        return head

    def _leave(self) -> bytes:
        """Close the open block, if there is one."""
        if self._part is None:
            return b""
        out = b""
        if self._kind == "redacted":
            # Pieces of base64 do not join on the client's side, so they are joined here.
            out = self._delta({"reasoningContent": {"redactedContent": self._redacted}})
        elif self._kind == "tool_call" and self._is_empty:
            out = self._delta({"toolUse": {"input": "{}"}})
        self._part, self._redacted = None, ""
        return out + seal(_BLOCK_STOP, b'{"contentBlockIndex":%d}' % self._index)

    def _say(self, event: TextDelta) -> bytes:
        # An empty text still opens its block, which has no other sign of life.
        is_silent = not event.text and self._is_open(event.part, "text")
        head = self._enter(event.part, "text")
        return b"" if is_silent else head + self._delta({"text": event.text})

    def _reason(self, event: ReasoningDelta) -> bytes:
        if event.redacted is not None:
            head = self._enter(event.part, "redacted")
            self._redacted += event.redacted
            return head
        is_silent = not event.text and (
            self._is_open(event.part, "reasoning") or event.signature is not None
        )
        out = self._enter(event.part, "reasoning")
        if not is_silent:
            out += self._delta({"reasoningContent": {"text": event.text}})
        if event.signature is not None:
            out += self._delta({"reasoningContent": {"signature": event.signature}})
        return out

    def _call(self, event: ToolCallDelta) -> bytes:
        out = b""
        if not self._is_open(event.part, "tool_call"):
            out = self._enter(event.part, "tool_call")
            call = {"toolUseId": event.call_id, "name": event.name}
            start = {"contentBlockIndex": self._index, "start": {"toolUse": call}}
            out += seal(_BLOCK_START, _encode(start))
        if event.arguments:
            out += self._delta({"toolUse": {"input": event.arguments}})
        return out

    def _end(self, finish: Finish) -> bytes:
        self._finish = finish
        reason = stop_reason(finish.finish_reason, finish.raw_finish_reason)
        stop = {"stopReason": reason, **additional_fields(finish.extras, finish.stop_sequence)}
        return self._open_message() + self._leave() + seal(_STOP, _encode(stop))

    def close(self) -> bytes:
        """Usage; nothing where the model never finished."""
        if self._finish is None:
            return b""
        shown = shown_extras(self._finish.extras)
        metadata = {"usage": write_usage(self._usage), "metrics": {"latencyMs": 0}, **shown}
        return seal(_METADATA, _encode(metadata))

    def error(self, error: KimiyaError) -> bytes:
        """An exception frame; nothing may follow it."""
        headers = {
            ":exception-type": exception_name(error),
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return seal(encode_headers(headers), write_message(error))

    def note(self, fields: Mapping[str, str]) -> bytes:
        """An event of a type of our own."""
        return seal(_NOTE, _encode(fields)) if fields else b""

    def ping(self) -> bytes:
        """An empty event of a type the service does not have."""
        return _PING


if TYPE_CHECKING:
    _conforms: EventEncoder = ConverseEventEncoder()
