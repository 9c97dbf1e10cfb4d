"""How replies of Kimi break: the families A to K, each in several forms, as one table.

A form takes a clean reply and gives the deltas a broken host would have sent for it. Every form
has been seen in the wild; none is a quotation. K breaks nothing: its text only looks like a call.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from kimiya.core.events import Finish, ReasoningDelta, StreamEvent, TextDelta, ToolCallDelta
from kimiya.core.exchange import FinishReason
from kimiya.core.messages import ToolCall
from kimiya.providers.simulated import markup


class Clean(Struct, frozen=True):
    """A reply as its script means it."""

    reasoning: str
    text: str
    calls: tuple[ToolCall, ...]
    declared: frozenset[str]
    """Names of the tools the request declares."""
    finish: Finish


class Damaged(Struct, frozen=True):
    """What the host sends instead."""

    deltas: tuple[StreamEvent, ...]
    finish: Finish


Need: TypeAlias = Literal["calls", "text", "tools", "nothing"]
"""What a reply must have, or its request must declare, so that a form can befall it."""


class Form(Struct, frozen=True):
    """One way to break."""

    need: Need
    damage: Callable[[Clean, random.Random], Damaged]

    def befalls(self, clean: Clean) -> bool:
        """Whether this reply can break this way."""
        match self.need:
            case "calls":
                return bool(clean.calls)
            case "text":
                return bool(clean.text) and not clean.calls
            case "tools":
                return bool(clean.declared)
            case "nothing":
                return True


STOP = Finish("stop", "stop")


def _reply(
    clean: Clean,
    *,
    reasoning: str | None = None,
    text: str | None = None,
    calls: Sequence[ToolCall] = (),
    finish: Finish = STOP,
) -> Damaged:
    """The clean reply with some of it replaced; without its calls unless they are given."""
    said: list[StreamEvent] = []
    thought = clean.reasoning if reasoning is None else reasoning
    words = clean.text if text is None else text
    if thought:
        said.append(ReasoningDelta(0, thought))
    if words:
        said.append(TextDelta(1, words))
    said += [
        ToolCallDelta(2 + number, call.call_id, call.name, call.arguments)
        for number, call in enumerate(calls)
    ]
    return Damaged(tuple(said), finish)


def _in_reasoning(write: Callable[[Sequence[ToolCall]], str]) -> Form:
    return Form(
        "calls", lambda clean, _: _reply(clean, reasoning=clean.reasoning + write(clean.calls))
    )


def _in_text(write: Callable[[Sequence[ToolCall]], str]) -> Form:
    return Form("calls", lambda clean, _: _reply(clean, text=clean.text + write(clean.calls)))


def _each_in_text(write: Callable[[ToolCall], str]) -> Form:
    return _in_text(lambda calls: "".join(write(call) for call in calls))


def _native(change: Callable[[ToolCall], ToolCall], finish: Finish | None = None) -> Form:
    """Calls stay on the host's own wire, each changed."""
    return Form(
        "calls",
        lambda clean, _: _reply(
            clean, calls=[change(call) for call in clean.calls], finish=finish or clean.finish
        ),
    )


def _arguments(change: Callable[[str], str], finish: Finish | None = None) -> Form:
    return _native(lambda call: replace(call, arguments=change(call.arguments)), finish)


def _finishing(reason: FinishReason, raw: str | None) -> Form:
    """The reply is whole but its reason is a lie."""
    return Form(
        "calls",
        lambda clean, _: _reply(clean, calls=clean.calls, finish=Finish(reason, raw)),
    )


def _opaque(call: ToolCall) -> str:
    # The id carries no name; only the schema of the arguments can tell which tool was meant.
    return f"tooluse_{abs(hash_of(call.call_id)):022d}"[:30]


def hash_of(text: str) -> int:
    """A number that stands for a text, the same in every process."""
    return random.Random(text).getrandbits(62)


def _glued(call: ToolCall) -> ToolCall:
    tail = f"{call.arguments} {markup.CALL_END} {markup.SECTION_END}"
    return replace(call, name=f" functions-{call.name}-2 {tail}", arguments="{}")


def _glued_and_cut(call: ToolCall) -> ToolCall:
    head = call.arguments[: max(1, len(call.arguments) // 2)]
    return replace(call, name=f"functions_{call.name}_1 {markup.ARGUMENTS} {head}", arguments="{}")


def _cut_short(text: str) -> str:
    return text[: max(1, len(text) * 2 // 3)] if len(text) > 2 else "{"


def _with_comma(text: str) -> str:
    return text[:-1] + ",}" if text.endswith("}") and text != "{}" else text + ","


def _with_marker(text: str) -> str:
    middle = max(1, len(text) // 2)
    return text[:middle] + markup.CALL_END + text[middle:]


def _unescaped(text: str) -> str:
    # What Windows paths look like when a model forgets to double its backslashes; where there is
    # no path, a line break that was not escaped.
    windows = text.replace("\\\\", "\\").replace("/", "\\")
    return windows if windows != text else text.replace('": "', '": "\n', 1) + "\n\\"


def _echoed(clean: Clean, _: random.Random) -> Damaged:
    """The call comes, and its arguments once more as text."""
    spoken = "".join(call.arguments for call in clean.calls)
    return _reply(
        clean,
        text=f"{clean.text}{spoken} {markup.SECTION_END}",
        calls=clean.calls,
        finish=clean.finish,
    )


def _stray(clean: Clean, _: random.Random) -> Damaged:
    return _reply(
        clean,
        text=f"{clean.text}{markup.SECTION_END}",
        calls=clean.calls,
        finish=clean.finish,
    )


def _framed(frame: Callable[[int, ToolCall], list[StreamEvent]]) -> Form:
    """Whole calls in strange deltas."""

    def damage(clean: Clean, _: random.Random) -> Damaged:
        plain = _reply(clean)
        calls = [
            event for number, call in enumerate(clean.calls) for event in frame(2 + number, call)
        ]
        return Damaged((*plain.deltas, *calls), clean.finish)

    return Form("calls", damage)


def _fragments(part: int, call: ToolCall) -> list[StreamEvent]:
    middle = max(1, len(call.name) // 2)
    return [
        ToolCallDelta(part, call.call_id, call.name[:middle]),
        ToolCallDelta(part, "", call.name[middle:]),
        ToolCallDelta(part, "", "", call.arguments),
    ]


def _slices(text: str, size: int = 8) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]


def _repeats(part: int, call: ToolCall) -> list[StreamEvent]:
    return [
        ToolCallDelta(part, call.call_id, call.name, piece) for piece in _slices(call.arguments)
    ]


def _empties(part: int, call: ToolCall) -> list[StreamEvent]:
    """Deltas that say nothing before, between and after the ones that do."""
    nothing = ToolCallDelta(part)
    opened: list[StreamEvent] = [ToolCallDelta(part, call.call_id, call.name), nothing]
    for piece in _slices(call.arguments):
        opened += [ToolCallDelta(part, "", "", piece), nothing]
    return opened


def _undeclared(clean: Clean) -> ToolCall:
    name = "open_portal"
    while name in clean.declared:
        name += "_2"
    return ToolCall(f"functions.{name}:0", name, '{"input": "x"}')


def _undeclared_native(clean: Clean, _: random.Random) -> Damaged:
    return _reply(clean, calls=[_undeclared(clean)], finish=Finish("tool_calls", "tool_calls"))


def _undeclared_leaked(clean: Clean, _: random.Random) -> Damaged:
    return _reply(clean, text=clean.text + markup.kimi_section([_undeclared(clean)]))


def _empty(clean: Clean, _: random.Random) -> Damaged:
    return _reply(clean, reasoning="", text="")


def _think_only(clean: Clean, _: random.Random) -> Damaged:
    return _reply(clean, reasoning=clean.reasoning or "Now I will act.", text="")


def _marks(clean: Clean, rng: random.Random) -> Damaged:
    return _reply(clean, reasoning="", text="!" * rng.randint(24, 80))


def _quoting(suffix: str) -> Form:
    return Form(
        "text", lambda clean, _: _reply(clean, text=clean.text + suffix, finish=clean.finish)
    )


def _quoted_json(clean: Clean, _: random.Random) -> Damaged:
    mention = f"{markup.CALL_BEGIN}functions.x:0{markup.ARGUMENTS}{{}}{markup.CALL_END}"
    return _reply(
        clean, text=json.dumps({"answer": f"{clean.text} {mention}"}), finish=clean.finish
    )


def _spaced(calls: Sequence[ToolCall]) -> str:
    return " " + markup.kimi_section(calls, gap=" ")


def _without(marker: str) -> Callable[[Sequence[ToolCall]], str]:
    return lambda calls: markup.kimi_section(calls).replace(marker, "")


def _sectioned(name: Callable[[int, ToolCall], str]) -> Form:
    """Leaked calls whose id is written wrongly."""
    return _in_text(
        lambda calls: "".join(
            (
                markup.SECTION_BEGIN,
                *(markup.kimi_call(call, name=name(n, call)) for n, call in enumerate(calls)),
                markup.SECTION_END,
            )
        )
    )


FORMS: dict[str, Form] = {
    # A: whole calls leak into the reasoning.
    "A.plain": _in_reasoning(markup.kimi_section),
    "A.spaced": _in_reasoning(_spaced),
    "A.think": _in_reasoning(lambda calls: f"{_spaced(calls)}</think>"),
    # B: whole calls leak into the text.
    "B.plain": _in_text(markup.kimi_section),
    "B.spaced": _in_text(_spaced),
    # C: markers are damaged, missing or left over.
    "C.no_section": _each_in_text(lambda call: markup.kimi_call(call, name=markup.kimi_id(call))),
    "C.no_begin": _in_text(_without(markup.CALL_BEGIN)),
    "C.no_argument_mark": _in_text(
        lambda calls: markup.kimi_section(calls).replace(markup.ARGUMENTS, " ")
    ),
    "C.no_end": _in_text(
        lambda calls: _without(markup.CALL_END)(calls).replace(markup.SECTION_END, "")
    ),
    "C.singular": _in_text(
        lambda calls: markup.kimi_section(calls).replace("tool_calls_section", "tool_call_section")
    ),
    "C.stray": Form("calls", _stray),
    # D: names or ids are damaged.
    "D.no_index": _sectioned(lambda _, call: f"functions.{call.name}"),
    "D.no_prefix": _sectioned(lambda number, call: f"{call.name}:{number}"),
    "D.opaque_id": _sectioned(lambda _, call: _opaque(call)),
    "D.dotted": _native(lambda call: replace(call, name=markup.kimi_id(call))),
    "D.underscored": _native(lambda call: replace(call, name=f"functions_{call.name}_2")),
    "D.tailed": _native(
        lambda call: replace(call, name=f"{call.name}<|tooluse_end|><|ASSISTANT|>")
    ),
    "D.case": _native(lambda call: replace(call, name=call.name.swapcase())),
    # E: the whole call is glued into the name.
    "E.glued": _native(_glued),
    "E.cut": _native(_glued_and_cut),
    # F: arguments are damaged or cut.
    "F.double": _arguments(json.dumps),
    "F.no_brace": _arguments(lambda text: text.removesuffix("}")),
    "F.comma": _arguments(_with_comma),
    "F.python": _arguments(markup.python_literal),
    "F.unescaped": _arguments(_unescaped),
    "F.marker": _arguments(_with_marker),
    "F.cut": _arguments(_cut_short, Finish("length", "length")),
    "F.echoed": Form("calls", _echoed),
    # G: calls in somebody else's grammar.
    "G.function": _each_in_text(markup.function_tag),
    "G.invoke": _each_in_text(markup.invoke_tag),
    "G.json": _each_in_text(markup.json_call),
    "G.fenced": _each_in_text(markup.fenced_call),
    "G.k3": _each_in_text(markup.k3_call),
    "G.deepseek": _each_in_text(markup.deepseek_call),
    # H: the framing of the stream is strange.
    "H.fragments": _framed(_fragments),
    "H.repeats": _framed(_repeats),
    "H.empties": _framed(_empties),
    "H.no_finish": _finishing("unknown", None),
    "H.says_stop": _finishing("stop", "stop"),
    "H.says_calls": Form(
        "nothing",
        lambda clean, _: _reply(clean, text="", finish=Finish("tool_calls", "tool_calls")),
    ),
    # I: nothing usable comes.
    "I.empty": Form("nothing", _empty),
    "I.think_only": Form("nothing", _think_only),
    "I.marks": Form("nothing", _marks),
    # J: a tool is called that nobody declared.
    "J.native": Form("tools", _undeclared_native),
    "J.leaked": Form("tools", _undeclared_leaked),
    # K: negative controls.
    "K.quoted": _quoting(f" The mark {markup.CALL_BEGIN} opens a call."),
    "K.angle": _quoting(" and a lone <"),
    "K.json": Form("text", _quoted_json),
}
"""Every form by name; the letter before the dot is its family."""
