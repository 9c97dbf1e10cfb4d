"""Taming on its own, on OpenAI-shaped deltas: no gateway, no network.

Adapts ``choices[0].delta`` dicts (or whole chunks) to events and back. Framing damage is mended
here as a decoder would: missing indexes, an index that names two calls, objects where text belongs,
usage inside a choice.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec

from kimiya.core.events import (
    Finish,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from kimiya.core.exchange import FinishReason, ToolSpec, Usage, Verdict
from kimiya.core.messages import JsonValue
from kimiya.taming.calls import Toolbox
from kimiya.taming.prose import rules_of
from kimiya.taming.tamer import Engine

_REASONING, _TEXT, _FIRST_CALL = 0, 1, 2
_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def tool_specs(tools: Iterable[Mapping[str, Any]]) -> tuple[ToolSpec, ...]:
    """OpenAI tool definitions as values; those without a function are left out."""
    specs: list[ToolSpec] = []
    for tool in tools:
        function: Any = tool.get("function", tool)
        known = _mapping(function)
        if isinstance(known.get("name"), str):
            extras = {k: v for k, v in {**tool, **known}.items() if k.startswith("x-")}
            specs.append(
                ToolSpec(
                    known["name"], known.get("description"), known.get("parameters"), extras=extras
                )
            )
    return tuple(specs)


def finish_reason(said: JsonValue) -> FinishReason:
    """Our word for the host's; ``unknown`` where it said none or a new one."""
    return _FINISH.get(said, "unknown") if isinstance(said, str) else "unknown"


def _mapping(value: JsonValue) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = cast("list[Any]", value)
        return "".join(_text(_mapping(part).get("text")) for part in parts)
    return ""


class DeltaReader:
    """OpenAI deltas to events; one per reply."""

    def __init__(self) -> None:
        self._parts: dict[Any, int] = {}
        self._ids: dict[int, str] = {}
        self._next = _FIRST_CALL
        self._last: int | None = None

    def read(self, delta: Mapping[str, Any]) -> list[StreamEvent]:
        """The events of one delta; what cannot be understood in it is passed over."""
        out: list[StreamEvent] = []
        for field in ("reasoning_content", "reasoning"):
            if said := _text(delta.get(field)):
                out.append(ReasoningDelta(_REASONING, said))
                break
        if said := _text(delta.get("content")):
            out.append(TextDelta(_TEXT, said))
        calls: Any = delta.get("tool_calls")
        old: Any = delta.get("function_call")
        if isinstance(old, Mapping):
            calls = [{"index": "function_call", "function": old}]
        for call in cast("list[Any]", calls) if isinstance(calls, list) else []:
            if isinstance(call, Mapping):
                out.append(self._call(cast("Mapping[str, Any]", call)))
        return out

    def _call(self, call: Mapping[str, Any]) -> ToolCallDelta:
        function: Any = call.get("function")
        known = _mapping(function)
        name, arguments = known.get("name"), known.get("arguments")
        call_id = call.get("id")
        if isinstance(arguments, dict | list):
            arguments = msgspec.json.encode(arguments).decode()
        part = self._part(call.get("index"), call_id, name)
        if isinstance(call_id, str) and call_id:
            self._ids.setdefault(part, call_id)
        return ToolCallDelta(
            part,
            call_id if isinstance(call_id, str) else "",
            name if isinstance(name, str) else "",
            arguments if isinstance(arguments, str) else "",
        )

    def _part(self, index: JsonValue, call_id: JsonValue, name: JsonValue) -> int:
        """The part an index means; a new id with a name opens a new call whatever the index."""
        known = self._parts.get(index) if index is not None else self._last
        is_new_id = bool(call_id) and isinstance(call_id, str) and bool(name)
        if known is None or (is_new_id and self._ids.get(known, call_id) != call_id):
            known = self._next
            self._next += 1
        if index is not None and isinstance(index, int | str):
            self._parts[index] = known
        self._last = known
        return known


def _usage(chunk: Mapping[str, Any]) -> Usage | None:
    choices: Any = chunk.get("choices") or [{}]
    found = chunk.get("usage") or (choices[0].get("usage") if choices else None)
    if not isinstance(found, Mapping):
        return None
    counts = cast("Mapping[str, Any]", found)
    return Usage(int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))


class OpenAITamer:
    """Tames one reply of OpenAI-shaped deltas.

    >>> tamer = OpenAITamer([{"type": "function", "function": {"name": "ls", "parameters": {
    ...     "type": "object", "properties": {"path": {"type": "string"}}}}}])
    >>> out = tamer.feed({"content": 'Look: <|tool_call_begin|>functions.ls:0'
    ...                              '<|tool_call_argument_begin|>{"path": "."}<|tool_call_end|>'})
    >>> out + tamer.close("stop")  # doctest: +NORMALIZE_WHITESPACE, +ELLIPSIS
    [{'content': 'Look: '},
     {'tool_calls': [{'index': 0, 'id': 'call_...', 'type': 'function',
                      'function': {'name': 'ls', 'arguments': '{"path": "."}'}}]}]
    >>> tamer.finish_reason, tamer.verdict.outcome
    ('tool_calls', 'repaired')
    """

    def __init__(self, tools: Iterable[Mapping[str, Any]]) -> None:
        specs = tool_specs(tools)
        self.engine = Engine(Toolbox(specs, rules_of(specs)))
        self.finish_reason: str | None = None
        """Why the model stopped, made true; ``None`` until ``close``."""
        self.usage: Usage | None = None
        self._reader = DeltaReader()
        self._said: JsonValue = None
        self._calls = 0

    @property
    def verdict(self) -> Verdict:
        """How the turn came out; final after ``close``."""
        return self.engine.verdict

    def feed(self, delta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One delta, or one whole chunk, in; the tame deltas that may be shown now."""
        if isinstance(delta.get("choices"), list):
            chunk, delta = delta, {}
            self.usage = _usage(chunk) or self.usage
            for choice in chunk["choices"][:1]:
                self._said = choice.get("finish_reason") or self._said
                delta = choice.get("delta") or choice.get("message") or {}
        return self._written(e for raw in self._reader.read(delta) for e in self.engine.feed(raw))

    def close(self, finish: str | None = None) -> list[dict[str, Any]]:
        """The reply ended with this ``finish_reason``; the rest of the tame deltas."""
        said = finish if finish is not None else self._said
        raw = said if isinstance(said, str) else None
        return self._written(self.engine.feed(Finish(finish_reason(said), raw)))

    def _written(self, events: Iterable[StreamEvent]) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for event in events:
            if isinstance(event, TextDelta):
                out.append({"content": event.text})
            elif isinstance(event, ReasoningDelta):
                if event.text:
                    out.append({"reasoning_content": event.text})
            elif isinstance(event, ToolCallDelta):
                function = {"name": event.name, "arguments": event.arguments}
                call = {"index": self._calls, "id": event.call_id, "type": "function",
                        "function": function}  # fmt: skip
                out.append({"tool_calls": [call]})
                self._calls += 1
            elif isinstance(event, Finish):
                self.finish_reason = event.finish_reason
            elif isinstance(event, UsageReport):
                self.usage = event.usage
        return out


def tame_openai_stream(
    deltas: Iterable[Mapping[str, Any]],
    tools: Iterable[Mapping[str, Any]],
    finish: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Tame a stream of OpenAI deltas or chunks; the last item is ``{"kimiya": ...}``.

    Yields:
        Deltas to show; at the end one dict with the true ``finish_reason`` and the verdict. Where
        ``verdict`` is ``retry`` no call was given and the turn should be asked again.
    """
    tamer = OpenAITamer(tools)
    for delta in deltas:
        yield from tamer.feed(delta)
    yield from tamer.close(finish)
    verdict = tamer.verdict
    yield {
        "kimiya": {
            "finish_reason": tamer.finish_reason,
            "verdict": verdict.outcome,
            "reason": verdict.reason,
            "repairs": [repair.code for repair in verdict.repairs],
        }
    }
