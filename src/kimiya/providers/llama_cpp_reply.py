"""Pieces of the embedded model's text, as they come, turned into events.

A reply that begins with the marker is a call, every other one is text; the grammar sees to it that
there is no third case. Invariants: no character is lost but the frame of a call (marker, name,
closing brace), and cutting the pieces anywhere changes nothing but where the deltas end.
"""

import json
from collections.abc import Sequence

from kimiya.core.events import (
    Finish,
    PartEnd,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from kimiya.core.messages import Message
from kimiya.errors import RemoteProtocolError
from kimiya.providers.llama_cpp_prompt import CALL_MARKER, CALL_MIDDLE

_HEAD_START = CALL_MARKER + '{"name": '


class ReplyReader:
    """One reply; feed it every piece, then close it once."""

    def __init__(self, messages: Sequence[Message], may_call: bool, must_call: bool) -> None:
        self._earlier_calls = sum(len(message.tool_calls) for message in messages)
        self._must_call = must_call
        self._held = ""
        """Text that may still turn out to be the frame of a call."""
        self._kind = "unsure" if may_call else "text"
        self._arguments: list[str] = []
        self._has_reasoned = False

    def reason(self, text: str) -> list[StreamEvent]:
        """Take in reasoning, which engines split off before the text."""
        if not text:
            return []
        self._has_reasoned = True
        return [ReasoningDelta(0, text)]

    def feed(self, text: str) -> list[StreamEvent]:
        """Take in the next piece of text; the events that may go out now."""
        if not text:
            return []
        self._held += text
        if self._kind == "unsure":
            self._decide()
        if self._kind == "text":
            return self._release()
        if self._kind == "head":
            return self._open()
        return self._grow() if self._kind == "call" else []

    def close(self, raw_finish: str, stop_sequence: str | None) -> list[StreamEvent]:
        """The engine stopped, and why; what was held back, and the finish.

        Raises:
            RemoteProtocolError: The reply is not the call it had to be.
        """
        if self._kind == "call":
            return self._close_call(raw_finish, stop_sequence)
        if self._must_call and raw_finish != "length" and stop_sequence is None:
            raise RemoteProtocolError(
                "the embedded model did not write the call it was held to", frame=self._frame()
            )
        return [*self._release(), _finish(raw_finish, stop_sequence)]

    @property
    def _part(self) -> int:
        return 1 if self._has_reasoned else 0

    def _frame(self) -> bytes:
        return self._held.encode("utf-8", "replace")

    def _decide(self) -> None:
        if self._held.startswith(CALL_MARKER):
            self._kind = "head"
        elif not CALL_MARKER.startswith(self._held):
            self._kind = "text"

    def _release(self) -> list[StreamEvent]:
        text, self._held = self._held, ""
        return [TextDelta(self._part, text)] if text else []

    def _open(self) -> list[StreamEvent]:
        head, middle, rest = self._held.partition(CALL_MIDDLE)
        if not middle:
            return []
        try:
            name = json.loads(head.removeprefix(_HEAD_START))
        except ValueError as error:
            raise RemoteProtocolError(
                "the embedded model began a call without a name", frame=self._frame()
            ) from error
        self._kind, self._held = "call", rest
        call_id = f"functions.{name}:{self._earlier_calls}"
        return [ToolCallDelta(self._part, call_id, name), *self._grow()]

    def _grow(self) -> list[StreamEvent]:
        """Let arguments out, all but the last character: it may be the brace that ends the call."""
        ready, self._held = self._held[:-1], self._held[-1:]
        self._arguments.append(ready)
        return [ToolCallDelta(self._part, arguments=ready)] if ready else []

    def _close_call(self, raw_finish: str, stop_sequence: str | None) -> list[StreamEvent]:
        if self._held == "}" and _is_json("".join(self._arguments)):
            return [PartEnd(self._part), Finish("tool_calls", raw_finish)]
        finish = _finish(raw_finish, stop_sequence)
        if finish.finish_reason == "stop":
            raise RemoteProtocolError(
                "the embedded model ended in the middle of a call", frame=self._frame()
            )
        rest = [ToolCallDelta(self._part, arguments=self._held)] if self._held else []
        return [*rest, PartEnd(self._part), finish]


def _finish(raw_finish: str, stop_sequence: str | None) -> Finish:
    if stop_sequence is not None:
        return Finish("stop_sequence", raw_finish, stop_sequence)
    return Finish("length" if raw_finish == "length" else "stop", raw_finish)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
