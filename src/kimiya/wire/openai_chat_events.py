"""Events written as a stream of Chat Completions chunks for a client.

The first chunk carries the role; a call's first delta its index, id, type and name; the last chunk
the ``finish_reason``; then usage, if the client asked for it, and ``[DONE]``. Chunks are put
together from encoded halves, because everything but the delta is the same in each.
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
from kimiya.core.exchange import Request, Usage
from kimiya.core.messages import Reasoning
from kimiya.errors import KimiyaError
from kimiya.wire.dialect import EventEncoder
from kimiya.wire.json_fields import JsonObject
from kimiya.wire.openai_chat_errors import error_object
from kimiya.wire.openai_chat_reasoning import write_reply_reasoning
from kimiya.wire.openai_chat_reply import call_kinds, finish_word, own_extras, write_usage
from kimiya.wire.sse import PING, encode_frame, encode_note

_encode = msgspec.json.Encoder().encode

_GOES_ON = b',"finish_reason":null}]}\n\n'


class ChatEventEncoder:
    """Writes one stream."""

    def __init__(self, request: Request) -> None:
        self._wants_usage = request.stream_usage
        self._kinds = call_kinds(request)
        self._head = _head(StreamStart())
        self._begun = False
        self._indexes: dict[int, int] = {}
        self._usage: Usage | None = None
        self._kept: JsonObject = {}
        self._start = StreamStart()

    def encode(self, event: StreamEvent) -> bytes:
        """The chunk for one event."""
        match event:
            case TextDelta():
                return self._chunk({"content": event.text}) if event.text else b""
            case ReasoningDelta():
                return self._reasoning(event)
            case ToolCallDelta():
                return self._call(event)
            case StreamStart():
                return self._open(event)
            case UsageReport():
                self._usage = event.usage
                return b""
            case Finish():
                return self._last(event)
            case PartEnd():
                return b""
            case _:
                assert_never(event)

    def close(self) -> bytes:
        """Usage, if the client wants it, and ``[DONE]``."""
        usage = b""
        if self._wants_usage and self._usage is not None:
            counted: JsonObject = {"choices": [], "usage": write_usage(self._usage)}
            usage = encode_frame(_encode({**_fields(self._start), **counted}))
        return usage + b"data: [DONE]\n\n"

    def error(self, error: KimiyaError) -> bytes:
        """The error object as an event."""
        return encode_frame(_encode({"error": error_object(error)}))

    def note(self, fields: Mapping[str, str]) -> bytes:
        """Remarks as comments."""
        return encode_note(fields)

    def ping(self) -> bytes:
        """A comment."""
        return PING

    def _chunk(self, delta: JsonObject) -> bytes:
        if self._begun:
            return self._head + _encode(delta) + _GOES_ON
        return self._open(self._start) + self._head + _encode(delta) + _GOES_ON

    def _open(self, start: StreamStart) -> bytes:
        self._begun, self._start, self._head = True, start, _head(start)
        self._kept = own_extras(start.extras)
        top = {k: v for k, v in self._kept.items() if k not in ("choice", "message")}
        first: JsonObject = {
            **_fields(start),
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "finish_reason": None,
                }
            ],
        }
        return encode_frame(_encode({**top, **first}))

    def _reasoning(self, event: ReasoningDelta) -> bytes:
        delta: JsonObject = {}
        write_reply_reasoning(delta, [Reasoning(event.text, event.signature, event.redacted)])
        return self._chunk(delta) if delta else b""

    def _call(self, event: ToolCallDelta) -> bytes:
        index = self._indexes.get(event.part)
        if index is not None:
            function: JsonObject = {"arguments": event.arguments}
            return self._chunk({"tool_calls": [{"index": index, "function": function}]})
        index = self._indexes[event.part] = len(self._indexes)
        call: JsonObject = {
            "index": index,
            "id": event.call_id,
            "type": self._kinds.get(event.name, "function"),
            "function": {"name": event.name, "arguments": event.arguments},
        }
        return self._chunk({"tool_calls": [call]})

    def _last(self, event: Finish) -> bytes:
        opening = b"" if self._begun else self._open(self._start)
        kept = {**self._kept, **own_extras(event.extras)}
        choice: JsonObject = {
            "index": 0,
            "delta": kept.get("message", {}),
            "finish_reason": finish_word(event.finish_reason, event.raw_finish_reason),
            **kept.get("choice", {}),
        }
        if event.stop_sequence is not None:
            choice["stop_reason"] = event.stop_sequence
        return opening + encode_frame(_encode({**_fields(self._start), "choices": [choice]}))


def _fields(start: StreamStart) -> JsonObject:
    return {
        "id": start.response_id,
        "object": "chat.completion.chunk",
        "created": start.created or 0,
        "model": start.model,
    }


def _head(start: StreamStart) -> bytes:
    fields = _encode(_fields(start))
    return b'data: %b,"choices":[{"index":0,"delta":' % fields[:-1]


if TYPE_CHECKING:

    def conforms(request: Request) -> EventEncoder:
        """Proof for the checker."""
        return ChatEventEncoder(request)
