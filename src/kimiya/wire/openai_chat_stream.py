"""A host's stream of Chat Completions chunks, read into events.

Parts are numbered by what they are: reasoning 0, text 1, the call of index ``i`` 2 + ``i``. So the
order of parts is the order of a whole message, whatever order they came in. ``Finish`` waits for
the end of the stream, because hosts send content and usage behind ``finish_reason``.

A stream may end with ``[DONE]`` or after a ``finish_reason``; without both it was cut.
"""

from typing import Literal, cast

import msgspec
from msgspec import Struct

from kimiya.core.events import (
    Finish,
    ReasoningDelta,
    StreamEvent,
    StreamStart,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from kimiya.core.exchange import FinishReason
from kimiya.core.messages import NO_EXTRAS, Extras, JsonValue
from kimiya.errors import RemoteProtocolError
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    optional,
    optional_list,
    optional_object,
)
from kimiya.wire.openai_chat_errors import error_in_reply
from kimiya.wire.openai_chat_messages import read_arguments
from kimiya.wire.openai_chat_parts import known_values
from kimiya.wire.openai_chat_reasoning import read_piece
from kimiya.wire.openai_chat_reply import (
    CHOICE,
    MESSAGE,
    REPLY,
    content_text,
    kept_extras,
    read_created,
    read_finish,
    read_usage,
)
from kimiya.wire.sse import SseFrame

_decode = msgspec.json.Decoder().decode

REASONING_PART = 0
TEXT_PART = 1
FIRST_CALL_PART = 2

_MAX_INDEX = 1 << 20
"""An index beyond it is a host's mistake, not a position."""

_PADDING = frozenset({"obfuscation", "object"})
"""Chunk fields that say nothing: OpenAI pads chunks against traffic analysis."""


class _PlainDelta(Struct, forbid_unknown_fields=True):
    content: str
    role: str | None = None


class _PlainChoice(Struct, forbid_unknown_fields=True):
    delta: _PlainDelta
    index: Literal[0] = 0
    finish_reason: None = None


class _PlainChunk(Struct, forbid_unknown_fields=True):
    """A chunk that says a piece of text and nothing else, as most do.

    Read by its type alone, it costs a tenth of the general way; any other field, and so any error,
    usage or call in it, makes it no plain chunk.
    """

    choices: tuple[_PlainChoice]
    object: Literal["chat.completion.chunk"]
    id: str = ""
    model: str = ""
    created: float | None = None
    system_fingerprint: str | None = None
    usage: None = None


_decode_plain = msgspec.json.Decoder(_PlainChunk).decode
_MOST_MISSES = 4
"""After so many chunks in a row that are not plain, the host is taken to write others."""


class CallNumbers:
    """Which part a delta of a call belongs to, also where hosts number calls badly.

    An index decides; but a new id with a new name, after arguments have begun, is a new call,
    because some hosts give every parallel call the index 0. Without an index the id decides, then a
    name opens a call, and anything else goes on with the last.
    """

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        self._by_id: dict[str, int] = {}
        self._part_of_index: dict[int, int] = {}
        self._begun: set[int] = set()
        self._last: int | None = None

    def part_of(self, fields: JsonObject, name: str, call_id: str, arguments: str) -> int:
        """The part of one delta."""
        index = fields.get("index")
        if type(index) is int and 0 <= index < _MAX_INDEX:
            part = self._indexed(index, name, call_id)
        else:
            part = self._unindexed(name, call_id)
        if call_id:
            self._by_id.setdefault(call_id, part)
            self._ids.setdefault(part, call_id)
        self._ids.setdefault(part, "")
        if arguments:
            self._begun.add(part)
        self._last = part
        return part

    def _indexed(self, index: int, name: str, call_id: str) -> int:
        part = self._part_of_index.get(index)
        if part is None:
            part = FIRST_CALL_PART + index
            if part in self._ids:
                part = self._next()
        elif name and call_id and call_id != self._ids[part] and part in self._begun:
            part = self._by_id.get(call_id) or self._next()
        self._part_of_index[index] = part
        return part

    def _unindexed(self, name: str, call_id: str) -> int:
        if call_id and call_id in self._by_id:
            return self._by_id[call_id]
        if self._last is None or call_id or (name and self._last in self._begun):
            return self._next()
        return self._last

    def _next(self) -> int:
        return max(self._ids, default=FIRST_CALL_PART - 1) + 1


class ChatReader:
    """Reads one stream, frame by frame."""

    def __init__(self) -> None:
        self._calls = CallNumbers()
        self._started = False
        self._ended = False
        self._has_content = False
        self._misses = 0
        self._refused = False
        self._finish: tuple[FinishReason, str | None, str | None] | None = None
        self._reply_extras: Extras = {}
        self._choice_extras: JsonObject = {}
        self._message_extras: JsonObject = {}

    def read(self, frame: SseFrame) -> list[StreamEvent]:
        """The events of one chunk.

        Raises:
            RemoteProtocolError: It cannot be read.
            ProviderError: It is an error.
        """
        data = frame.data
        if self._ended or not data:
            return []
        if self._started and self._misses < _MOST_MISSES and not frame.event:
            try:
                text = _decode_plain(data).choices[0].delta.content
            except (ValueError, RecursionError):
                self._misses += 1
            else:
                self._misses = 0
                self._has_content = self._has_content or bool(text)
                return [TextDelta(TEXT_PART, text)] if text else []
        if data.startswith(b"[DONE]"):
            self._finish = self._finish or ("unknown", None, None)
            return self.end()
        try:
            chunk = _decode(data)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError(
                f"an event of the stream is not JSON: {error}", frame=data
            ) from error
        try:
            return self._chunk(as_object(chunk), frame.event)
        except Misfit as misfit:
            raise misfit.as_remote(data) from misfit

    def end(self) -> list[StreamEvent]:
        """The stream ended.

        Raises:
            RemoteProtocolError: It was cut.
        """
        if self._ended:
            return []
        if self._finish is None:
            raise RemoteProtocolError(
                "the stream was cut: it ended without a finish_reason and without [DONE]"
            )
        self._ended = True
        reason, raw, stop = self._finish
        extras: Extras = NO_EXTRAS
        if self._choice_extras or self._message_extras:
            extras = kept_extras(self._reply_extras, self._choice_extras, self._message_extras)
        return [Finish("refusal" if self._refused else reason, raw, stop, extras)]

    def _chunk(self, chunk: JsonObject, event: str) -> list[StreamEvent]:
        if chunk.get("error") or event == "error" or chunk.get("object") == "error":
            raise error_in_reply(chunk)
        events: list[StreamEvent] = []
        choices = optional_list(chunk, "choices")
        if not self._started and (choices or chunk.get("id")):
            events.append(self._start(chunk))
        choice: JsonObject = {}
        if choices:
            choice = as_object(choices[0])
            if len(choices) > 1 or choice.get("index"):
                raise Misfit("holds a second choice where one was asked for", "choices")
            self._choice(choice, events)
        usage = read_usage(chunk.get("usage") or choice.get("usage"))
        if usage is not None:
            events.append(UsageReport(usage))
        return events

    def _start(self, chunk: JsonObject) -> StreamStart:
        self._started = True
        self._reply_extras = known_values(chunk, REPLY | _PADDING)
        return StreamStart(
            optional(chunk, "id", str) or "",
            optional(chunk, "model", str) or "",
            read_created(chunk.get("created")),
            kept_extras(self._reply_extras, {}, {}),
        )

    def _choice(self, choice: JsonObject, events: list[StreamEvent]) -> None:
        delta = optional_object(choice, "delta")
        if delta is None and not self._has_content:
            delta = optional_object(choice, "message")  # a whole reply in one chunk
        if delta:
            before = len(events)
            self._delta(delta, events)
            self._has_content = self._has_content or len(events) > before
        if choice.get("finish_reason"):
            self._finish = read_finish(choice)
        if not choice.keys() <= CHOICE:
            _gather(self._choice_extras, known_values(choice, CHOICE))

    def _delta(self, delta: JsonObject, events: list[StreamEvent]) -> None:
        thought = read_piece(delta)
        if thought is not None:
            events.append(
                ReasoningDelta(REASONING_PART, thought.text, thought.signature, thought.redacted)
            )
        if text := content_text(delta):
            events.append(TextDelta(TEXT_PART, text))
        if refusal := optional(delta, "refusal", str):
            self._refused = True
            events.append(TextDelta(TEXT_PART, refusal))
        for value in optional_list(delta, "tool_calls"):
            events.append(self._call(as_object(value)))
        legacy = optional_object(delta, "function_call")
        if legacy is not None:
            events.append(self._call({"index": 0, "function": legacy}))
        if not delta.keys() <= MESSAGE:
            _gather(self._message_extras, known_values(delta, MESSAGE))

    def _call(self, fields: JsonObject) -> ToolCallDelta:
        function = optional_object(fields, "function") or {}
        call_id = optional(fields, "id", str) or ""
        name = optional(function, "name", str) or ""
        arguments = read_arguments(function)
        part = self._calls.part_of(fields, name, call_id, arguments)
        return ToolCallDelta(part, call_id, name, arguments)


def _gather(seen: JsonObject, new: Extras) -> None:
    """Join what comes in pieces: texts and lists grow, objects deepen, the rest is replaced."""
    for key, value in new.items():
        seen[key] = _joined(seen.get(key), value)


def _joined(seen: JsonValue, new: JsonValue) -> JsonValue:
    kept: JsonValue = seen if new is None else new
    if isinstance(seen, str) and isinstance(new, str):
        return seen + new
    if isinstance(seen, list) and isinstance(new, list):
        return [*cast("list[JsonValue]", seen), *cast("list[JsonValue]", new)]
    if isinstance(seen, dict) and isinstance(new, dict):
        joined = dict(cast("JsonObject", seen))
        _gather(joined, cast("JsonObject", new))
        return joined
    return kept
