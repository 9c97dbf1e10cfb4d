"""One reply on its way from script to wire: blanks filled, a fault struck, parts cut up."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

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
from kimiya.core.messages import ToolCall
from kimiya.core.token_estimate import estimate_input_tokens, estimate_text_tokens
from kimiya.providers.simulated.conditions import (
    Choice,
    filled,
    filled_json,
)
from kimiya.providers.simulated.damage import STOP, Clean
from kimiya.providers.simulated.faults import Struck, chance, drawn, strike
from kimiya.providers.simulated.ids import call_ids
from kimiya.providers.simulated.script import (
    Befall,
    CallTool,
    Cut,
    End,
    Fail,
    Page,
    Pause,
    ReportUsage,
    Say,
    Script,
    ScriptedReply,
)

Interruption: TypeAlias = Fail | Page | Pause | Cut
Action: TypeAlias = StreamEvent | Interruption


class Scene(Struct, frozen=True):
    """What a reply is staged with."""

    script: Script
    seed: int
    number: int
    """Of the request, from 1."""
    stamp: int
    """Unix seconds the reply is stamped with."""


class Staging:
    """One reply on its way from the script to actions."""

    def __init__(self, scene: Scene, request: Request, choice: Choice) -> None:
        self._scene = scene
        self._request = request
        self._choice = choice
        self._reply: ScriptedReply = choice.reply
        self._rng = chance(scene.seed, scene.number)
        self._ids = call_ids(
            request, choice.reply.settings.ids, chance(scene.seed, scene.number, "ids")
        )
        self._items = [self._item(step) for step in choice.reply.steps]
        self._struck = self._strike()

    @property
    def fault(self) -> str | None:
        """The fault that struck, such as ``B.spaced`` or ``429``."""
        return self._struck.fault if self._struck is not None else None

    def actions(self) -> Iterator[Action]:
        """Everything sent, pauses between deltas included."""
        outage = self.fault
        if outage == "429":
            wait_s = self._scene.script.retry_after_s
            yield Fail(429, "rate_limit_exceeded", "simulated: too many requests", wait_s)
            return
        if outage == "5xx":
            yield Fail(self._rng.choice((500, 502, 503, 529)), "overloaded", "simulated: down")
            return
        actions = list(self._paced(self._whole()))
        if outage in ("stall", "cut"):
            place = self._rng.randint(0, max(0, len(actions) - 1))
            actions[place:] = [Cut()] if outage == "cut" else [Pause(None), *actions[place:]]
        yield from actions

    def _item(self, step: object) -> object:
        """A step with its blanks filled: words and calls become what will be said."""
        blanks = self._choice.blanks
        match step:
            case Say(is_template=True):
                return replace(step, text=filled(step.text, blanks))
            case CallTool():
                name = filled(step.name, blanks)
                call_id = step.call_id or next(self._ids).format(name=name)
                return ToolCall(call_id, name, filled_json(step.arguments, blanks))
            case _:
                return step

    def _strike(self) -> Struck | None:
        forced = [item.fault for item in self._items if isinstance(item, Befall)]
        fault = forced[0] if forced else drawn(self._scene.script.rates, self._rng)
        return None if fault is None else strike(fault, self._clean(), self._rng)

    def _clean(self) -> Clean:
        says = [item for item in self._items if isinstance(item, Say)]
        return Clean(
            reasoning="".join(say.text for say in says if say.channel == "reasoning"),
            text="".join(say.text for say in says if say.channel == "text"),
            calls=tuple(item for item in self._items if isinstance(item, ToolCall)),
            declared=frozenset(tool.name for tool in self._request.tools),
            finish=self._finish(),
        )

    def _finish(self) -> Finish:
        ends = [item for item in self._items if isinstance(item, End)]
        if ends and ends[-1].finish_reason == "unknown":
            return Finish("unknown", ends[-1].raw)
        if ends:
            return Finish(ends[-1].finish_reason, ends[-1].finish_reason)
        if any(isinstance(item, ToolCall) for item in self._items):
            return Finish("tool_calls", "tool_calls")
        return STOP

    def _whole(self) -> Iterator[Action]:
        """The reply with its start, usage and end, parts in one piece."""
        damaged = self._struck.damaged if self._struck is not None else None
        said: list[StreamEvent] = []
        interruptions = (Fail, Page, Pause, Cut)
        pending = list(damaged.deltas) if damaged is not None else []
        has_begun = False
        for action in self._said_in_order() if damaged is None else self._around(pending):
            if not has_begun and not isinstance(action, interruptions):
                has_begun = True
                yield self._start()
            if isinstance(action, interruptions):
                yield action
                if not isinstance(action, Pause):
                    return
            else:
                said.append(action)
                yield action
        if not has_begun:
            yield self._start()
        usage = self._usage(said)
        if usage is not None:
            yield UsageReport(usage)
        yield damaged.finish if damaged is not None else self._finish()

    def _start(self) -> StreamStart:
        response_id = f"sim-{self._scene.seed}-{self._scene.number}"
        return StreamStart(response_id, self._request.model, self._scene.stamp)

    def _said_in_order(self) -> Iterator[Action]:
        part, channel = -1, ""
        for item in self._items:
            match item:
                case Say():
                    if item.channel != channel:
                        if channel:
                            yield PartEnd(part)
                        part, channel = part + 1, item.channel
                    said = TextDelta if item.channel == "text" else ReasoningDelta
                    yield said(part, item.text)
                case ToolCall():
                    if channel:
                        yield PartEnd(part)
                    part, channel = part + 1, ""
                    yield ToolCallDelta(part, item.call_id, item.name, item.arguments)
                    yield PartEnd(part)
                case Fail() | Page() | Pause() | Cut():
                    yield item
                case _:
                    pass
        if channel:
            yield PartEnd(part)

    def _around(self, deltas: Iterable[StreamEvent]) -> Iterator[Action]:
        """Damaged deltas, between the pauses before them and whatever ends the reply early."""
        endings = (Fail, Page, Cut)
        yield from (item for item in self._items if isinstance(item, Pause))
        yield from deltas
        yield from (item for item in self._items if isinstance(item, endings))

    def _usage(self, said: Iterable[StreamEvent]) -> Usage | None:
        scripted = [item for item in self._items if isinstance(item, ReportUsage)]
        if scripted:
            return scripted[-1].usage
        reasoning = "".join(event.text for event in said if isinstance(event, ReasoningDelta))
        rest = "".join(
            event.text if isinstance(event, TextDelta) else event.name + event.arguments
            for event in said
            if isinstance(event, TextDelta | ToolCallDelta)
        )
        reasoning_tokens = estimate_text_tokens(reasoning)
        return Usage(
            input_tokens=estimate_input_tokens(self._request),
            output_tokens=max(1, reasoning_tokens + estimate_text_tokens(rest)),
            reasoning_tokens=reasoning_tokens,
        )

    def _paced(self, actions: Iterable[Action]) -> Iterator[Action]:
        """Parts cut into deltas, with the script's delay between them."""
        settings = self._reply.settings
        # Where the framing is what is broken, its deltas stay as they are.
        is_framed = (self.fault or "").startswith("H.")
        is_first = True
        for action in actions:
            is_kept = is_framed and isinstance(action, ToolCallDelta)
            for piece in _cut(action, None if is_kept else settings.piece_chars):
                is_delta = isinstance(piece, TextDelta | ReasoningDelta | ToolCallDelta)
                if is_delta and settings.delay_s and not is_first:
                    yield Pause(settings.delay_s)
                is_first = is_first and not is_delta
                yield piece


def _cut(action: Action, chars: int | None) -> Iterator[Action]:
    """An action in pieces of at most ``chars`` characters; what is not words stays whole."""
    if chars is None:
        yield action
        return
    match action:
        case TextDelta() | ReasoningDelta():
            for text in _pieces(action.text, chars):
                yield replace(action, text=text)
        case ToolCallDelta() if len(action.arguments) > chars:
            # As hosts do: the name first, then the arguments bit by bit.
            yield replace(action, arguments="")
            for text in _pieces(action.arguments, chars):
                yield ToolCallDelta(action.part, "", "", text)
        case _:
            yield action


def _pieces(text: str, chars: int) -> Iterator[str]:
    for start in range(0, max(1, len(text)), chars):
        yield text[start : start + chars]
