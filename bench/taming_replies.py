"""Gold calls, rendered in Kimi's raw form and damaged in each family, with a seed.

Each maker takes tools, gold calls and a random generator, and gives one corpus line whose
``expected`` follows from what was done to it, never from what the engine makes of it.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kimiya.core.schema import compiled
from kimiya.taming.names import plain

Call = tuple[str, dict[str, Any]]
Line = dict[str, Any]
Maker = Callable[[list[dict[str, Any]], Sequence[Call], random.Random], Line | None]

BEFORE = ["", "Let me check that. ", "I'll look it up now:\n", "好的，我来查一下。", "One moment. "]
THOUGHTS = ["The user wants this done. ", "I need the tool for it.\n", "Zuerst prüfe ich das. "]
SPACED, TIGHT = " ", ""


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def raw_call(call: Call, index: int, gap: str = "", *, header: str | None = None,
             body: str | None = None) -> str:  # fmt: skip
    """One call in Kimi's raw form."""
    name = f"functions.{call[0]}:{index}" if header is None else header
    said = dumps(call[1]) if body is None else body
    return gap.join(["<|tool_call_begin|>", name, "<|tool_call_argument_begin|>", said,
                     "<|tool_call_end|>"])  # fmt: skip


def section(parts: Sequence[str], gap: str = "") -> str:
    """A whole section of calls."""
    return gap.join(["<|tool_calls_section_begin|>", *parts, "<|tool_calls_section_end|>"])


def line(family: str, tools: list[dict[str, Any]], deltas: list[dict[str, Any]],
         expected: dict[str, Any], finish: str | None = "stop") -> Line:  # fmt: skip
    return {"family": family, "tools": tools, "deltas": deltas, "expected": expected,
            "finish_reason": finish}  # fmt: skip


def told(calls: Sequence[Call], text: str = "", reasoning: str | None = None) -> dict[str, Any]:
    """What a mended reply must come to."""
    out: dict[str, Any] = {
        "calls": [{"name": name, "arguments": arguments} for name, arguments in calls],
        "text": text,
        "finish_reason": "tool_calls" if calls else "stop",
    }
    return out if reasoning is None else {**out, "reasoning": reasoning}


RETRY: dict[str, Any] = {"retry": True}


def _raw(calls: Sequence[Call], rng: random.Random) -> str:
    gap, first = rng.choice([SPACED, TIGHT]), rng.choice([0, 0, 3, 41])
    return section([raw_call(c, first + n, gap) for n, c in enumerate(calls)], gap)


def leak_reasoning(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line:
    thought = rng.choice(THOUGHTS)
    text = thought + _raw(calls, rng)
    if rng.random() < 0.3:
        text = f"<think>{text}</think>"
    field = rng.choice(["reasoning_content", "reasoning"])
    return line("A", tools, [{field: text}], told(calls, "", thought))


def leak_think_in_content(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line:
    thought = rng.choice(THOUGHTS)
    return line("A", tools, [{"content": f"<think>{thought}{_raw(calls, rng)}"}],
                told(calls, "", thought))  # fmt: skip


def leak_content(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line:
    said = rng.choice(BEFORE)
    return line("B", tools, [{"content": said + _raw(calls, rng)}], told(calls, said))


def damaged_markers(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line:
    said, gap = rng.choice(BEFORE), rng.choice([SPACED, TIGHT])
    parts = [raw_call(c, n, gap) for n, c in enumerate(calls)]
    kind = rng.randrange(8)
    if kind == 0:
        text = gap.join(parts)
    elif kind == 1:
        text = section(parts, gap).removesuffix("<|tool_calls_section_end|>")
    elif kind == 2:
        text = gap.join(p.removesuffix("<|tool_call_end|>") for p in parts)
    elif kind == 3:
        text = section([p.replace("<|tool_call_argument_begin|>", " ") for p in parts], gap)
    elif kind == 4:
        text = section(parts, gap).replace("calls_section", "call_section")
    elif kind == 5:
        text = section([" ok then ", *parts], gap)
    elif kind == 6:
        text = section(parts, gap) + "<|im_end|>"
    else:
        text = " ".join(f"functions.{name}:{n} {dumps(a)}" for n, (name, a) in enumerate(calls))
    return line("C", tools, [{"content": said + text}], told(calls, said))


def _camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def damaged_name(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line | None:
    names = [tool["function"]["name"] for tool in tools]
    if len({plain(name) for name in names}) < len(names):
        return None
    if len({dumps(call) for call in calls}) < len(calls):
        return None  # without indexes, equal calls are copies
    forms: list[Callable[[str, int], str]] = [
        lambda name, n: f"{name}:{n}",
        lambda name, n: f"functions.{name}",
        lambda name, n: name,
        lambda name, n: f"functions_{name}_{n}",
        lambda name, n: f"functions-{name.replace('_', '-')}-{n}-{rng.randrange(16**8):08x}z",
        lambda name, n: f"Functions.{_camel(name)}:{n}",
        lambda name, n: f" functions.{name}:{n}\n",
        lambda name, n: f"tools/{name}",
        lambda name, n: f"functions:{name}",
        lambda name, n: f"functions.{name}:{n}<|tooluse_end|><|ASSISTANT|><|reasoning|>",
    ]
    form = rng.choice(forms)
    headers = [form(name, n) for n, (name, _) in enumerate(calls)]
    if rng.random() < 0.5:
        pairs = enumerate(zip(headers, calls, strict=True))
        deltas = [_native(n, f"c{n}", header, dumps(a)) for n, (header, (_, a)) in pairs]
        return line("D", tools, deltas, told(calls), "tool_calls")
    parts = [raw_call(c, n, header=h) for n, (h, c) in enumerate(zip(headers, calls, strict=True))]
    return line("D", tools, [{"content": section(parts)}], told(calls))


def opaque_id(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line | None:
    if len(calls) != 1 or not calls[0][1]:
        return None
    name, arguments = calls[0]
    fitting = [
        t["function"]["name"] for t in tools
        if set(arguments) <= set(t["function"]["parameters"].get("properties", {}))
    ]  # fmt: skip
    header = rng.choice(["chatcmpl-tool-9c0a11f2", "call_8Fj3kQ0zLm2", "7", "toolu_01ABcd93",
                         "0b3d1c2e-4f5a-6b7c-8d9e-0f1a2b3c4d5e"])  # fmt: skip
    text = section([raw_call(calls[0], 0, header=header)])
    return line("D", tools, [{"content": text}], told(calls) if fitting == [name] else RETRY)


def _native(index: Any, call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": call_id, "type": "function",
                            "function": {"name": name, "arguments": arguments}}]}  # fmt: skip


def glued_name(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line | None:
    call = calls[0]
    header = f" functions.{call[0]}:{rng.randrange(9)} "
    name = header + dumps(call[1]) + " <|tool_call_end|> <|tool_calls_section_end|>"
    if rng.random() < 0.25 and call[1]:
        name = header + "<|tool_call_argument_begin|> " + dumps(call[1])[: rng.randrange(1, 6)]
        return line("E", tools, [_native(0, "x", name, "{}")], RETRY, "tool_calls")
    return line("E", tools, [_native(0, "x", name, "{}")], told([call]), "tool_calls")


def damaged_arguments(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line | None:
    name, arguments = calls[0]
    texts = [key for key, value in arguments.items() if isinstance(value, str)]
    said = dumps(arguments)
    kind = rng.randrange(8)
    if kind in (0, 1) and not texts:
        return None
    if kind == 0:
        key = texts[0]
        schema = next(t for t in tools if t["function"]["name"] == name)["function"]["parameters"]
        arguments = {**arguments, key: arguments[key] + "\nsecond line"}
        if not compiled(schema).fits(arguments):
            return None
        said = dumps(arguments).replace("\\n", "\n")
    elif kind == 1:
        key = texts[-1]
        schema = next(t for t in tools if t["function"]["name"] == name)["function"]["parameters"]
        arguments = {**arguments, key: "C:\\Users\\eva\\projects"}
        if not compiled(schema).fits(arguments):
            return None
        said = dumps({**arguments, key: "@"}).replace('"@"', '"C:\\Users\\eva\\projects"')
    elif kind == 2:
        said = dumps(said)
    elif kind == 3:
        said = said[:-1]
        if said == "{":
            return None
    elif kind == 4:
        said = f"```json\n{said}\n```"
    elif kind == 5:
        said = said[:-1] + ",}" if arguments else said
    elif kind == 6:
        said += "}"
    else:
        said = dumps({key: str(v) if type(v) is int else v for key, v in arguments.items()})
    text = section([raw_call((name, arguments), 0, body=said)])
    return line("F", tools, [{"content": text}], told([(name, arguments)]))


def truncated(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line | None:
    text = _raw(calls[:1], rng)
    start = text.find("<|tool_call_begin|>") + 10
    stop = text.rfind("}")
    if stop <= start:
        return None
    cut = rng.randrange(start, stop)
    field = rng.choice(["content", "reasoning_content"])
    return line("F", tools, [{field: text[:cut]}], RETRY)


def _xml_value(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def foreign(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line | None:
    said = rng.choice(BEFORE)
    kind = rng.randrange(5)
    bad = any(isinstance(v, str) and (set("<&") & set(v) or v != v.strip("\n"))
              for _, a in calls for v in a.values())  # fmt: skip
    if kind == 0:
        text = "".join(f"<function={name}>{dumps(a)}</function>" for name, a in calls)
    elif kind == 1:
        if bad or not all(_is_spellable(tools, call) for call in calls):
            return None
        invokes = "".join(
            f'<invoke name="{name}">'
            + "".join(f'<parameter name="{k}">{_xml_value(v)}</parameter>' for k, v in a.items())
            + "</invoke>\n"
            for name, a in calls
        )
        text = f"<function_calls>\n{invokes}</function_calls>"
    elif kind == 2:
        text = "\n".join(
            "<tool_call>" + dumps({"name": name, "arguments": a}) + "</tool_call>"
            for name, a in calls
        )
    elif kind == 3:
        text = "\n".join(dumps({"name": name, "arguments": a}) for name, a in calls[:1])
        calls = calls[:1]
    else:
        text = dumps({"name": calls[0][0], "arguments": dumps(calls[0][1])})
        calls = calls[:1]
    return line("G", tools, [{"content": said + text}], told(calls, said))


def _is_spellable(tools: Any, call: Call) -> bool:
    """Whether each value is the only one its text can mean under the schema."""
    schema = next(t for t in tools if t["function"]["name"] == call[0])["function"]["parameters"]
    kinds = {k: v.get("type") for k, v in schema.get("properties", {}).items()}
    for key, value in call[1].items():
        kind = kinds.get(key)
        if isinstance(value, str) != (kind == "string"):
            return False
        if kind not in ("string", "integer", "boolean", "array", "object"):
            return False
        if kind in ("array", "object") and compiled(schema["properties"][key]).problem(value):
            return False
    return True


def framed(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line:
    deltas: list[dict[str, Any]] = []
    kind = rng.randrange(4)
    for n, (name, arguments) in enumerate(calls):
        said = dumps(arguments)
        middle = rng.randrange(1, max(2, len(said)))
        index = None if kind == 3 else n
        names = {0: [name[:2], name[2:]], 1: [name, name, name]}.get(kind, [name, ""])
        deltas.append(_native(index, f"c{n}", names[0], ""))
        for piece in names[1:]:
            deltas.append({"tool_calls": [{"index": index, "function": {"name": piece}}]})
        for piece in (said[:middle], said[middle:], ""):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        deltas.append({"tool_calls": []})
    return line("H", tools, deltas, told(calls), rng.choice([None, "stop", "tool_calls"]))


def empty(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line:
    deltas = rng.choice(
        [[{"content": None}], [], [{"content": "!" * rng.randrange(8, 90)}], [{"tool_calls": []}],
         [{"reasoning_content": rng.choice(THOUGHTS)}], [{"reasoning_content": "!" * 20}]]
    )  # fmt: skip
    return line("I", tools, deltas, RETRY, rng.choice(["stop", "tool_calls", None]))


def undeclared(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line | None:
    name, arguments = calls[0]
    others = [t for t in tools if t["function"]["name"] != name]
    known = {plain(t["function"]["name"]) for t in others}
    tails = {plain(name[name.rfind(sign) + 1 :]) for sign in "./:"} | {plain(name)}
    if not others or tails & known or not any(char.isalpha() for char in name):
        return None
    if rng.random() < 0.5:
        deltas = [{"content": _raw([(name, arguments)], rng)}]
    else:
        deltas = [_native(0, "c", name, dumps(arguments))]
    return line("J", others, deltas, RETRY, rng.choice(["stop", "tool_calls"]))


def negative(tools: Any, calls: Sequence[Call], rng: random.Random) -> Line:
    call = _raw(calls, rng)
    kind = rng.randrange(5)
    if kind == 0:
        text = f"It writes this:\n```\n{call}\n```\nand then waits."
    elif kind == 1:
        text = f"The form is `{raw_call((calls[0][0], {}), 0)}`, to the letter."
    elif kind == 2:
        text = dumps({"answer": raw_call((calls[0][0], {}), 0)})
    elif kind == 3:
        text = f"I could use {calls[0][0]} here, if x < 3 and {{y}} holds. <b>No.</b>"
    else:
        deltas = [_native(n, f"c{n}", name, dumps(a)) for n, (name, a) in enumerate(calls)]
        return line("K", tools, deltas, told(calls), "tool_calls")
    return line("K", tools, [{"content": text}], told([], text))


MAKERS: Mapping[str, Sequence[Maker]] = {
    "A": [leak_reasoning, leak_reasoning, leak_think_in_content],
    "B": [leak_content],
    "C": [damaged_markers],
    "D": [damaged_name, damaged_name, opaque_id],
    "E": [glued_name],
    "F": [damaged_arguments, damaged_arguments, truncated],
    "G": [foreign],
    "H": [framed],
    "I": [empty],
    "J": [undeclared],
    "K": [negative],
}
