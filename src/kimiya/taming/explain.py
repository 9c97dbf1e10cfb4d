"""One reply, for people: what came, what was seen in it, why each decision was taken.

Plain lines of text; the terminal may colour them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from kimiya.taming.findings import excerpt
from kimiya.taming.openai import OpenAITamer


def _shown(text: str) -> str:
    return excerpt(text.replace("\n", "⏎"))


def explain(line: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What happened to one reply, as pairs of a label and a text; no label goes on.

    Args:
        line: A corpus line (``../shared/corpus/README.md``): ``tools``, ``deltas``,
            ``finish_reason``.
    """
    tools = cast("list[dict[str, Any]]", line.get("tools") or [])
    deltas = cast("list[dict[str, Any]]", line["deltas"])
    tamer = OpenAITamer(tools)
    yield "reply", f"{line.get('id', 'without id')}, {len(deltas)} deltas"
    names = ", ".join(tamer.engine.toolbox.names.declared_in_order) or "none"
    yield "tools", names
    yield from _raw(deltas, line.get("finish_reason"))
    out = [piece for delta in deltas for piece in tamer.feed(delta)]
    said = line.get("finish_reason")
    out += tamer.close(said if isinstance(said, str) else None)
    yield from _found(tamer)
    yield from _tame(out, tamer)


def _raw(deltas: list[dict[str, Any]], finish: object) -> Iterator[tuple[str, str]]:
    texts = {"reasoning_content": "reasoning", "reasoning": "reasoning", "content": "text"}
    gathered: dict[str, str] = {}
    for delta in deltas:
        for field, label in texts.items():
            if isinstance(delta.get(field), str):
                gathered[label] = gathered.get(label, "") + delta[field]
    for label, text in gathered.items():
        yield f"came as {label}", _shown(text)
    for delta in deltas:
        for call in cast("list[dict[str, Any]]", delta.get("tool_calls") or []):
            function = cast("dict[str, Any]", call.get("function") or {})
            said = f"{function.get('name')!r} {function.get('arguments')!r} id {call.get('id')!r}"
            yield "came as call", _shown(said)
    yield "came as finish", repr(finish)


def _found(tamer: OpenAITamer) -> Iterator[tuple[str, str]]:
    judged = tamer.engine.judged
    for decision in judged.decisions if judged else ():
        yield "decided", decision.what.replace("\n", "⏎")
        yield "", f"because {decision.why}"
    for repair in tamer.verdict.repairs:
        yield "mended", f"{repair.code} ({repair.channel}): {repair.detail}".replace("\n", "⏎")
    for defect in tamer.verdict.defects:
        seen = f" in {_shown(defect.excerpt)!r}" if defect.excerpt else ""
        yield "defect", f"{defect.code}: {defect.detail}{seen}"


def _tame(out: list[dict[str, Any]], tamer: OpenAITamer) -> Iterator[tuple[str, str]]:
    for field, label in (("reasoning_content", "reasoning"), ("content", "text")):
        text = "".join(delta.get(field, "") for delta in out)
        yield f"goes out as {label}", _shown(text) if text else "nothing"
    calls = [delta["tool_calls"][0]["function"] for delta in out if "tool_calls" in delta]
    for call in calls:
        yield "goes out as call", f"{call['name']}({_shown(call['arguments'])})"
    verdict = tamer.verdict
    yield "finish", tamer.finish_reason or "none: the turn is asked again"
    yield "verdict", verdict.outcome + (f", {verdict.reason}" if verdict.reason else "")
