"""Corpus lines through the engine: what each comes to, and whether that is what was expected.

Pure: text in, values out. A line's deltas may be cut anew, at chosen places or at every character,
which must change nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import msgspec
from msgspec import Struct

from kimiya.core.messages import JsonValue
from kimiya.taming.arguments import decoded
from kimiya.taming.judgement import canonical_json
from kimiya.taming.openai import OpenAITamer

_TEXTS = ("reasoning_content", "reasoning", "content")


class Outcome(Struct, frozen=True):
    """One reply, tamed."""

    id: JsonValue
    calls: tuple[dict[str, JsonValue], ...]
    text: str
    reasoning: str
    finish_reason: str | None
    verdict: str
    repairs: tuple[dict[str, str], ...]
    reason: str | None = None

    def line(self) -> dict[str, JsonValue]:
        """The outcome as ``kimiya tame replay`` prints it."""
        shown: dict[str, JsonValue] = {
            "id": self.id,
            "calls": list(self.calls),
            "text": self.text,
            "reasoning": self.reasoning,
            "finish_reason": self.finish_reason,
            "verdict": self.verdict,
            "repairs": list(self.repairs),
        }
        return shown if self.reason is None else {**shown, "reason": self.reason}


class Mark(Struct, frozen=True):
    """How one outcome compares with what was expected."""

    is_right: bool
    wrong_calls: int
    """Calls let through that were not expected, or with other arguments, or twice."""
    why: str = ""


def replay(line: Mapping[str, Any], deltas: Iterable[Mapping[str, Any]] | None = None) -> Outcome:
    """Tame one corpus line; ``deltas`` replaces its own, for other cuts."""
    tamer = OpenAITamer(cast("list[Any]", line.get("tools") or []))
    out: list[dict[str, Any]] = []
    for delta in line["deltas"] if deltas is None else deltas:
        out += tamer.feed(delta)
    said = line.get("finish_reason")
    out += tamer.close(said if isinstance(said, str) else None)
    verdict = tamer.verdict
    calls = [delta["tool_calls"][0]["function"] for delta in out if "tool_calls" in delta]
    return Outcome(
        line.get("id"),
        tuple({"name": c["name"], "arguments": decoded(c["arguments"])} for c in calls),
        "".join(delta.get("content", "") for delta in out),
        "".join(delta.get("reasoning_content", "") for delta in out),
        tamer.finish_reason or _said_finish(said),
        verdict.outcome,
        tuple({"code": r.code, "channel": r.channel, "detail": r.detail} for r in verdict.repairs),
        verdict.reason,
    )


def _said_finish(said: JsonValue) -> str | None:
    return said if isinstance(said, str) else None


def _pieces(text: str, cuts: Iterable[int]) -> Iterator[str]:
    start = 0
    for cut in sorted({c for c in cuts if 0 < c < len(text)}):
        yield text[start:cut]
        start = cut
    yield text[start:]


def _cut(delta: Mapping[str, Any], places: "Places") -> Iterator[dict[str, Any]]:
    """One delta as several: texts and arguments cut, everything else in the first."""
    whole = dict(delta)
    for field in _TEXTS:
        text = whole.get(field)
        if isinstance(text, str) and text:
            first, *rest = _pieces(text, places(len(text)))
            yield {field: first}
            yield from ({field: piece} for piece in rest)
            del whole[field]
    calls: Any = whole.pop("tool_calls", None)
    if isinstance(calls, list):
        for call in cast("list[dict[str, Any]]", calls):
            yield from _cut_call(call, places)
    if whole:
        yield whole


def _cut_call(call: dict[str, Any], places: "Places") -> Iterator[dict[str, Any]]:
    function = cast("dict[str, Any]", call.get("function") or {})
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or not arguments:
        yield {"tool_calls": [call]}
        return
    first, *rest = _pieces(arguments, places(len(arguments)))
    yield {"tool_calls": [{**call, "function": {**function, "arguments": first}}]}
    for piece in rest:
        after = {"function": {"arguments": piece}}
        if call.get("index") is not None:
            after["index"] = call["index"]
        yield {"tool_calls": [after]}


class Chance(Protocol):
    """Where random places are drawn from; a ``random.Random`` is one."""

    def randrange(self, start: int, stop: int, /) -> int:
        """A number from ``start`` up to, not including, ``stop``."""
        ...


class Places:
    """Where texts are cut: at ``count`` places drawn by chance, or between all characters."""

    def __init__(self, count: int = 0, chance: Chance | None = None) -> None:
        self._count = count
        self._chance = chance

    def __call__(self, length: int) -> Iterable[int]:
        if self._chance is None:
            return range(1, length)
        return [self._chance.randrange(1, max(2, length)) for _ in range(self._count)]


def recut(line: Mapping[str, Any], places: Places) -> list[dict[str, Any]]:
    """A line's deltas, cut anew."""
    return [piece for delta in line["deltas"] for piece in _cut(delta, places)]


def _collapsed(text: JsonValue) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""


def mark(outcome: Outcome, expected: Mapping[str, Any]) -> Mark:
    """Compare an outcome with a corpus line's ``expected``."""
    meant = cast("list[dict[str, Any]]", expected.get("calls") or [])
    want = [_spelled(call) for call in meant]
    got = [_spelled(call) for call in outcome.calls]
    left = list(want)
    wrong = 0
    for call in got:
        if call in left:
            left.remove(call)
        else:
            wrong += 1
    if expected.get("retry"):
        is_right = outcome.verdict == "retry" and not got
        return Mark(is_right, wrong, "" if is_right else f"verdict {outcome.verdict}, must retry")
    problems = [] if got == want else [f"calls {got} not {want}"]
    for field in ("text", "reasoning"):
        if field in expected and _collapsed(expected[field]) != _collapsed(getattr(outcome, field)):
            problems.append(f"{field} {getattr(outcome, field)!r} not {expected[field]!r}")
    if "finish_reason" in expected and outcome.finish_reason != expected["finish_reason"]:
        problems.append(f"finish_reason {outcome.finish_reason} not {expected['finish_reason']}")
    if outcome.verdict == "retry":
        problems.append(f"verdict retry: {outcome.reason}")
    return Mark(not problems, wrong, "; ".join(problems))


def _spelled(call: Mapping[str, Any]) -> str:
    return f"{call.get('name')} {canonical_json(call.get('arguments'))}"


def lines_of(text: str) -> Iterator[dict[str, Any]]:
    """The lines of a JSONL text.

    Raises:
        ValueError: A line is no JSON object; the message gives its number.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value: Any = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise ValueError(f"line {number}: {error}") from error
        reply = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if not isinstance(reply.get("deltas"), list):
            raise ValueError(f"line {number}: needs an object with a list of 'deltas'")  # noqa: TRY004
        yield reply
