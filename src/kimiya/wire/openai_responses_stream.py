"""A host's stream of Responses events, read into ours.

A part's number is its item's index, then its place in the item, so parts come out in the order of
the whole reply. Hosts leave out events (some send only finished items, some only the finished
reply), so whatever an event repeats is taken where it was not seen before.
"""

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
from kimiya.core.messages import JsonValue, Reasoning
from kimiya.errors import RemoteProtocolError
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    optional,
    optional_list,
    required_object,
)
from kimiya.wire.openai_chat_errors import error_in_reply
from kimiya.wire.openai_chat_messages import read_arguments
from kimiya.wire.openai_chat_reply import read_created
from kimiya.wire.openai_responses_items import custom_arguments, read_reasoning
from kimiya.wire.openai_responses_reply import (
    call_name,
    content_texts,
    kept_extras,
    read_reply_usage,
    read_status,
)
from kimiya.wire.sse import SseFrame

_decode = msgspec.json.Decoder().decode

_SPAN = 1 << 16
"""Part numbers an item may use."""
_CONTENT = 1 << 15
"""Where, in a reasoning item, its text begins; its summary stands before."""

_DELTAS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "summary",
    "response.reasoning_text.delta": "content",
    "response.function_call_arguments.delta": "arguments",
}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class _Item(Struct):
    """What has been seen of one output item."""

    seen: set[int] = msgspec.field(default_factory=set[int])
    """Parts that have begun."""
    has_name: bool = False
    has_arguments: bool = False
    summaries: int = 0
    """Highest index of a summary so far."""


class ResponsesReader:
    """Reads one stream, frame by frame."""

    def __init__(self) -> None:
        self._items: dict[int, _Item] = {}
        self._done: set[int] = set()
        self._foreign: list[JsonValue] = []
        self._started = False
        self._ended = False
        self._refused = False
        self._has_calls = False

    def read(self, frame: SseFrame) -> list[StreamEvent]:
        """The events of one of theirs.

        Raises:
            RemoteProtocolError: It cannot be read.
            ProviderError: It is an error.
        """
        data = frame.data
        if self._ended or not data or data.startswith(b"[DONE]"):
            return []
        try:
            fields = as_object(_decode(data))
            return self._event(fields, optional(fields, "type", str) or frame.event)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError(
                f"an event of the stream is not JSON: {error}", frame=data
            ) from error
        except Misfit as misfit:
            raise misfit.as_remote(data) from misfit

    def end(self) -> list[StreamEvent]:
        """The stream ended.

        Raises:
            RemoteProtocolError: It was cut.
        """
        if not self._ended:
            raise RemoteProtocolError("the stream was cut: it ended before response.completed")
        return []

    def _event(self, fields: JsonObject, kind: str) -> list[StreamEvent]:
        if kind in _DELTAS:
            return self._delta(fields, _DELTAS[kind])
        if kind in ("response.created", "response.in_progress"):
            return self._start(required_object(fields, "response"))
        if kind == "response.output_item.added":
            return self._added(self._index(fields), required_object(fields, "item"))
        if kind == "response.output_item.done":
            return self._finished(self._index(fields), required_object(fields, "item"))
        if kind in _ENDS:
            return self._end(required_object(fields, "response"))
        if kind == "error" or fields.get("error"):
            raise error_in_reply(fields)
        return []

    def _start(self, reply: JsonObject) -> list[StreamEvent]:
        if self._started:
            return []
        self._started = True
        return [
            StreamStart(
                optional(reply, "id", str) or "",
                optional(reply, "model", str) or "",
                read_created(reply.get("created_at")),
            )
        ]

    def _index(self, fields: JsonObject) -> int:
        index = optional(fields, "output_index", int)
        if index is None:
            return max(self._items, default=0)
        if index < 0:
            raise Misfit("is negative", "output_index")
        return index

    def _delta(self, fields: JsonObject, channel: str) -> list[StreamEvent]:
        index = self._index(fields)
        item = self._items.setdefault(index, _Item())
        delta = optional(fields, "delta", str)
        if not delta:
            return []
        base = index * _SPAN
        if channel == "arguments":
            item.has_arguments = self._has_calls = True
            item.seen.add(base)
            return [ToolCallDelta(base, arguments=delta)]
        if channel == "summary":
            summary = optional(fields, "summary_index", int) or 0
            if base in item.seen and summary > item.summaries:
                delta = f"\n\n{delta}"
            item.summaries = max(summary, item.summaries)
            item.seen.add(base)
            return [ReasoningDelta(base, delta)]
        if channel == "content":
            item.seen.add(base + _CONTENT)
            return [ReasoningDelta(base + _CONTENT, delta)]
        self._refused = self._refused or channel == "refusal"
        part = base + (optional(fields, "content_index", int) or 0) % _SPAN
        item.seen.add(part)
        return [TextDelta(part, delta)]

    def _added(self, index: int, item: JsonObject) -> list[StreamEvent]:
        state = self._items.setdefault(index, _Item())
        if item.get("type") != "function_call" or state.has_name:
            return []
        state.has_name = self._has_calls = True
        state.seen.add(index * _SPAN)
        call_id, name = call_name(item)
        return [ToolCallDelta(index * _SPAN, call_id, name)]

    def _finished(self, index: int, item: JsonObject) -> list[StreamEvent]:
        """What a finished item holds that was not said before, and the ends of its parts."""
        if index in self._done:
            return []
        self._done.add(index)
        state = self._items.setdefault(index, _Item())
        match item.get("type"):
            case "message":
                events = self._message(index, item, state)
            case "reasoning":
                events = _reasoning(index * _SPAN, item, state)
            case "function_call":
                events = self._added(index, item)
                arguments = read_arguments(item)
                if arguments and not state.has_arguments:
                    events.append(ToolCallDelta(index * _SPAN, arguments=arguments))
            case "custom_tool_call":
                self._has_calls = True
                state.seen.add(index * _SPAN)
                arguments = custom_arguments(optional(item, "input", str) or "")
                events = [ToolCallDelta(index * _SPAN, *call_name(item), arguments)]
            case _:
                self._foreign.append(item)
                events = []
        return [*events, *(PartEnd(part) for part in sorted(state.seen))]

    def _message(self, index: int, item: JsonObject, state: _Item) -> list[StreamEvent]:
        self._refused = self._refused or any(
            as_object(part).get("type") == "refusal" for part in optional_list(item, "content")
        )
        events: list[StreamEvent] = []
        for place, text in content_texts(item).items():
            part = index * _SPAN + place
            if text and part not in state.seen:
                state.seen.add(part)
                events.append(TextDelta(part, text))
        return events

    def _end(self, reply: JsonObject) -> list[StreamEvent]:
        events = self._start(reply)
        if not self._items:
            for index, value in enumerate(optional_list(reply, "output")):
                events += self._finished(index, as_object(value))
        usage = read_reply_usage(reply.get("usage"))
        if usage is not None:
            events.append(UsageReport(usage))
        reason, raw = read_status(reply, has_calls=self._has_calls, refused=self._refused)
        self._ended = True
        return [*events, Finish(reason, raw, extras=kept_extras(self._foreign))]


def _reasoning(base: int, item: JsonObject, state: _Item) -> list[StreamEvent]:
    """The summary, the text, and what signs the last of them."""
    events: list[StreamEvent] = []
    parts = read_reasoning(item)
    has_summary = bool(optional_list(item, "summary"))
    for place, part in enumerate(parts):
        number = base if has_summary and place == 0 else base + _CONTENT
        text = "" if number in state.seen else part.text
        sealed = part.signature is not None or part.redacted is not None
        if text or sealed:
            events.append(_sealed(number, text, part))
            state.seen.add(number)
    return events


def _sealed(number: int, text: str, part: Reasoning) -> ReasoningDelta:
    return ReasoningDelta(number, text, part.signature, part.redacted)
