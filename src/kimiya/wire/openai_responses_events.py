"""Events written as a stream of the Responses API for a client.

Every item opens (``output_item.added``), grows, and closes with the whole of what it said
(``output_item.done``), and the last event repeats all items: so the text of the reply is gathered
here. The last event also carries usage, which may come after ``Finish``: ``close`` writes it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, assert_never

import msgspec
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
from kimiya.core.exchange import Request, Usage
from kimiya.core.messages import JsonValue, Reasoning, ToolCall
from kimiya.errors import KimiyaError
from kimiya.wire.dialect import EventEncoder
from kimiya.wire.json_fields import JsonObject
from kimiya.wire.openai_chat_errors import error_object
from kimiya.wire.openai_responses_items import custom_input
from kimiya.wire.openai_responses_reply import (
    call_item,
    ending,
    envelope,
    foreign_items,
    message_item,
    reasoning_item,
    text_part,
    write_reply_usage,
)
from kimiya.wire.openai_responses_tools import custom_names
from kimiya.wire.sse import PING, encode_frame, encode_note

_encode = msgspec.json.Encoder().encode


class _Open(Struct):
    """The item being written."""

    kind: type[StreamEvent]
    part: int
    index: int
    item_id: str
    """Without the prefix of its kind."""
    pieces: list[str] = msgspec.field(default_factory=list[str])
    call_id: str = ""
    name: str = ""
    signature: str | None = None
    redacted: str | None = None
    has_content: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ResponsesEventEncoder:
    """Writes one stream."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._custom = custom_names(request)
        self._envelope: JsonObject = {}
        self._sequence = 0
        self._open: _Open | None = None
        self._output: list[JsonValue] = []
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._start = StreamStart()

    def encode(self, event: StreamEvent) -> bytes:
        """Their events for one of ours."""
        match event:
            case TextDelta():
                return self._text(event) if event.text else b""
            case ReasoningDelta():
                return self._reasoning(event)
            case ToolCallDelta():
                return self._call(event)
            case StreamStart():
                self._start = event
                return self._begin()
            case UsageReport():
                self._usage = event.usage
                return b""
            case PartEnd():
                is_open = self._open is not None and self._open.part == event.part
                return self._close_item() if is_open else b""
            case Finish():
                self._finish = event
                return self._begin() + self._close_item()
            case _:
                assert_never(event)

    def close(self) -> bytes:
        """The finished reply; nothing for a stream that did not finish."""
        finish = self._finish
        if finish is None:
            return b""
        foreign = foreign_items({**self._start.extras, **finish.extras})
        out = b"".join(self._foreign(item) for item in foreign)
        end = ending(finish.finish_reason, finish.raw_finish_reason)
        reply = {
            **self._envelope,
            **end,
            "output": self._output,
            "usage": write_reply_usage(self._usage),
        }
        return out + self._event(f"response.{end['status']}", {"response": reply})

    def error(self, error: KimiyaError) -> bytes:
        """``response.failed``."""
        out = self._begin()
        shown = error_object(error)
        code = shown["code"] or shown["type"]
        failed = {
            **self._envelope,
            "status": "failed",
            "output": self._output,
            "error": {"code": code, "message": shown["message"]},
        }
        return out + self._event("response.failed", {"response": failed})

    def note(self, fields: Mapping[str, str]) -> bytes:
        """Remarks as comments."""
        return encode_note(fields)

    def ping(self) -> bytes:
        """A comment."""
        return PING

    def _event(self, kind: str, fields: JsonObject) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return encode_frame(_encode(body), kind)

    def _begin(self) -> bytes:
        if self._envelope:
            return b""
        start = self._start
        self._envelope = envelope(self._request, start.response_id, start.model, start.created)
        reply = {"response": self._envelope}
        return self._event("response.created", reply) + self._event("response.in_progress", reply)

    # --- items ------------------------------------------------------------------------------

    def _place(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> tuple[_Open, bytes]:
        """The item the event belongs to, opened if it is not; bytes of what that took."""
        current = self._open
        if current is not None and current.part == event.part:
            return current, b""
        out = self._begin() + self._close_item()
        index = len(self._output)
        opened = _Open(type(event), event.part, index, f"{self._start.response_id}_{index}")
        self._open = opened
        if isinstance(event, ToolCallDelta):
            opened.call_id, opened.name = event.call_id, event.name
        if isinstance(event, TextDelta):
            item = message_item(opened.item_id, None)
        elif isinstance(event, ReasoningDelta):
            item = reasoning_item(opened.item_id, Reasoning())
        else:
            item = self._call_item(opened, is_open=True)
        fields = {"output_index": index, "item": item}
        return opened, out + self._event("response.output_item.added", fields)

    def _text(self, event: TextDelta) -> bytes:
        item, out = self._place(event)
        place = self._at(item, f"msg_{item.item_id}")
        if not item.has_content:
            item.has_content = True
            part = text_part("")
            out += self._event("response.content_part.added", {**place, "part": part})
        item.pieces.append(event.text)
        return out + self._event(
            "response.output_text.delta", {**place, "delta": event.text, "logprobs": []}
        )

    def _reasoning(self, event: ReasoningDelta) -> bytes:
        item, out = self._place(event)
        if event.signature is not None:
            item.signature = (item.signature or "") + event.signature
        if event.redacted is not None:
            item.redacted = (item.redacted or "") + event.redacted
        if not event.text:
            return out
        item.pieces.append(event.text)
        place = self._at(item, f"rs_{item.item_id}")
        return out + self._event("response.reasoning_text.delta", {**place, "delta": event.text})

    def _call(self, event: ToolCallDelta) -> bytes:
        item, out = self._place(event)
        if not event.arguments:
            return out
        item.pieces.append(event.arguments)
        if item.name in self._custom:
            return out  # free text is inside the arguments, so it waits for their end
        fields: JsonObject = {
            "item_id": f"fc_{item.item_id}",
            "output_index": item.index,
            "delta": event.arguments,
        }
        return out + self._event("response.function_call_arguments.delta", fields)

    def _close_item(self) -> bytes:
        item, self._open = self._open, None
        if item is None:
            return b""
        if item.kind is TextDelta:
            out, done = self._close_text(item)
        elif item.kind is ReasoningDelta:
            out, done = self._close_reasoning(item)
        else:
            out, done = self._close_call(item)
        self._output.append(done)
        fields = {"output_index": item.index, "item": done}
        return out + self._event("response.output_item.done", fields)

    def _close_text(self, item: _Open) -> tuple[bytes, JsonObject]:
        place = self._at(item, f"msg_{item.item_id}")
        text: JsonObject = {**place, "text": item.text, "logprobs": []}
        part: JsonObject = {**place, "part": text_part(item.text)}
        out = self._event("response.output_text.done", text)
        out += self._event("response.content_part.done", part)
        return out, message_item(item.item_id, item.text)

    def _close_reasoning(self, item: _Open) -> tuple[bytes, JsonObject]:
        out = b""
        if item.pieces:
            place = self._at(item, f"rs_{item.item_id}")
            out = self._event("response.reasoning_text.done", {**place, "text": item.text})
        thought = Reasoning(item.text, item.signature, item.redacted)
        return out, reasoning_item(item.item_id, thought)

    def _close_call(self, item: _Open) -> tuple[bytes, JsonObject]:
        done = self._call_item(item, is_open=False)
        place: JsonObject = {"item_id": done["id"], "output_index": item.index}
        if item.name in self._custom:
            text = custom_input(item.text)
            out = self._event("response.custom_tool_call_input.delta", {**place, "delta": text})
            return out + self._event(
                "response.custom_tool_call_input.done", {**place, "input": text}
            ), done
        fields = {**place, "name": item.name, "arguments": item.text}
        return self._event("response.function_call_arguments.done", fields), done

    def _call_item(self, item: _Open, *, is_open: bool) -> JsonObject:
        call = ToolCall(item.call_id, item.name, "" if is_open else item.text)
        is_custom = item.name in self._custom
        return call_item(item.item_id, call, is_custom=is_custom, is_open=is_open)

    def _foreign(self, item: JsonValue) -> bytes:
        """An item of the host's own, passed through whole."""
        fields: JsonObject = {"output_index": len(self._output), "item": item}
        self._output.append(item)
        added = self._event("response.output_item.added", fields)
        return added + self._event("response.output_item.done", fields)

    @staticmethod
    def _at(item: _Open, item_id: str) -> JsonObject:
        return {"item_id": item_id, "output_index": item.index, "content_index": 0}


if TYPE_CHECKING:

    def conforms(request: Request) -> EventEncoder:
        """Proof for the checker."""
        return ResponsesEventEncoder(request)
