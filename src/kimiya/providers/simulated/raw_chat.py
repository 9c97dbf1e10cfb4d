"""OpenAI chat chunks as broken hosts send them: names split, repeated or empty.

The dialect's own encoder writes tame streams only, where a call is named once. What it cannot say,
and the wire can, is said here.
"""

import msgspec

from kimiya.core.events import StreamEvent, StreamStart, ToolCallDelta
from kimiya.wire.dialect import EventEncoder


class RawChatEncoder:
    """Wraps the dialect's encoder; every delta of a call keeps its own id and name."""

    def __init__(self, tame: EventEncoder) -> None:
        self._tame = tame
        self._start = StreamStart()
        self._indexes: dict[int, int] = {}

    def encode(self, event: StreamEvent) -> bytes:
        """The bytes for one event."""
        if isinstance(event, StreamStart):
            self._start = event
        if not isinstance(event, ToolCallDelta):
            return self._tame.encode(event)
        if event.part not in self._indexes:
            self._indexes[event.part] = len(self._indexes)
            return self._tame.encode(event)
        return self._again(event)

    def close(self) -> bytes:
        """What ends the stream."""
        return self._tame.close()

    def _again(self, event: ToolCallDelta) -> bytes:
        function = {"name": event.name, "arguments": event.arguments}
        call = {
            "index": self._indexes[event.part],
            "id": event.call_id,
            "type": "function",
            "function": function,
        }
        if not event.name and not event.call_id and event.arguments:
            # The ordinary continuation, which names nothing.
            call = {"index": call["index"], "function": {"arguments": event.arguments}}
        chunk = {
            "id": self._start.response_id,
            "object": "chat.completion.chunk",
            "created": self._start.created or 0,
            "model": self._start.model,
            "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}],
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
