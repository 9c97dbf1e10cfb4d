"""The engine: raw events of one reply in, tame serial events and a verdict out.

Text and reasoning flow through their scanners as they come. The first call, native or found in a
text, turns the tap: from there everything waits for the end of the turn, because one broken call
spoils the whole turn and a client must never see half of it. At the end every candidate meets the
declared schemas, copies are joined, the policy rules, and either the turn goes out or nothing more
does and the verdict says ``retry``.

Invariants: no control marker leaves here in text or reasoning; no call leaves here that is not one
declared tool with valid arguments; after a verdict of ``retry`` no event follows.
"""

from collections.abc import Mapping
from typing import assert_never

from msgspec import Struct

from kimiya.catalog.card import ModelCard
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
from kimiya.core.exchange import Adjustment, Defect, Repair, Request, Verdict
from kimiya.core.fold import Serialiser, grown
from kimiya.core.messages import JsonValue, Message
from kimiya.taming.calls import Meant, Toolbox
from kimiya.taming.custody import ReasoningStore, Trail
from kimiya.taming.findings import Candidate, Dictated, Finding, Thought, Typed
from kimiya.taming.history import mend
from kimiya.taming.ids import IdPlan
from kimiya.taming.judgement import Judged, Loop, Said, Turn, is_padding, judge
from kimiya.taming.native import candidates_of
from kimiya.taming.prose import rules_of
from kimiya.taming.scanner import Scanner

_MAX_HELD_CHARS = 8 * 1024 * 1024
"""How much of a reply may wait for its end; a longer one is a defect."""
_MAX_HELD = 4096
"""The same in calls and pieces of text."""
_MAX_REPAIRS = 500
"""Repairs recorded for one reply; more of them say nothing new."""
_MAX_REASONING_CHARS = 4 * 1024 * 1024


class Prepared(Struct, frozen=True):
    """A request made ready for one target, what was done to it, and how to undo it."""

    request: Request
    adjustments: tuple[Adjustment, ...] = ()
    toolbox: Toolbox | None = None
    """The declared tools; ``None`` lets the reply through as it is."""
    ids: IdPlan = IdPlan()
    loop: Loop = Loop()
    """The call that ends the history, if it repeats."""
    renamed: Mapping[str, str] = {}
    """Tool names as they were sent, to the client's own."""
    history: tuple[Message, ...] = ()
    """The messages as the client sent them: what its next request will begin with."""


class NativeCall:
    """A call as it comes in the host's own field, over any number of deltas."""

    def __init__(self) -> None:
        self.call_id = ""
        self.names: list[str] = []
        self.pieces: list[str] = []

    def feed(self, event: ToolCallDelta) -> None:
        """Take one delta in."""
        if event.call_id:
            self.call_id = grown(self.call_id, event.call_id)
        if event.name:
            self.names.append(event.name)
        if event.arguments:
            self.pieces.append(event.arguments)


Held = Said | NativeCall | Candidate | Typed | Dictated


class Engine:
    """Tames one reply."""

    def __init__(
        self,
        toolbox: Toolbox,
        ids: IdPlan | None = None,
        loop: Loop | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.toolbox = toolbox
        self._ids = ids or IdPlan()
        self._loop = loop or Loop()
        self._renamed = renamed or {}
        lexicon = toolbox.lexicon
        self._content = Scanner(
            lexicon, "content", properties=toolbox.properties, prose=toolbox.prose
        )
        self._reasoning: Scanner | None = None
        self._held: list[Held] = []
        self._held_chars = 0
        self._native: dict[int, NativeCall] = {}
        self._repairs: list[Repair] = []
        self._defects: list[Defect] = []
        self._parts: dict[tuple[int, bool], int] = {}
        self._next_part = 0
        self._text_part = self._reasoning_part = 0
        self._padding = ""
        self._has_said = False
        self._has_reasoned = False
        self._reasoned: list[str] = []
        self._reasoned_chars = 0
        self._is_done = False
        self.verdict = Verdict()
        """How the turn came out; final after ``close``."""
        self.calls: tuple[Meant, ...] = ()
        """The calls that went out, in order."""
        self.judged: Judged | None = None
        """Every decision taken, for explaining."""

    @property
    def has_spoken(self) -> bool:
        """Whether the client has been given visible text or a call."""
        return self._has_said

    @property
    def is_lost(self) -> bool:
        """Whether the turn must be asked again, whatever still comes."""
        return bool(self._defects)

    @property
    def reasoning(self) -> str:
        """The reply's whole reasoning, for keeping."""
        return "".join(self._reasoned)

    # In -----------------------------------------------------------------------------------------

    def feed(self, event: StreamEvent) -> list[StreamEvent]:
        """One raw event in; the tame events that may go out now."""
        if self._is_done:
            return [event] if isinstance(event, UsageReport) else []
        out: list[StreamEvent] = []
        if self._defects and isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
            return out  # the turn is lost: nothing more of it is read
        match event:
            case TextDelta():
                self._feed_text(event, out)
            case ReasoningDelta():
                self._feed_reasoning(event, out)
            case ToolCallDelta():
                self._feed_call(event)
            case PartEnd():
                pass
            case Finish():
                self._finish(event, out)
            case StreamStart() | UsageReport():
                out.append(event)
            case _:
                assert_never(event)
        return out

    def close(self) -> list[StreamEvent]:
        """The raw stream ended; what is still held back."""
        if self._is_done:
            return []
        out: list[StreamEvent] = []
        self._defects.append(Defect("cut_stream", "no finish came"))
        self._finish(Finish("unknown"), out)
        return out

    def _feed_text(self, event: TextDelta, out: list[StreamEvent]) -> None:
        text = event.text
        if not text:
            return
        self._text_part = event.part
        if self._reasoning is not None and self._reasoning.is_open:
            self._content.adopt(self._reasoning)
        for finding in self._content.feed(text):
            self._take(finding, TextDelta, event.part, out)

    def _feed_reasoning(self, event: ReasoningDelta, out: list[StreamEvent]) -> None:
        self._reasoning_part = event.part
        if event.text:
            if self._reasoning is None:
                self._reasoning = Scanner(self.toolbox.lexicon, "reasoning")
            for finding in self._reasoning.feed(event.text):
                self._take(finding, ReasoningDelta, event.part, out)
        if event.signature is not None or event.redacted is not None:
            part = self._out_part(event.part, ReasoningDelta)
            out.append(ReasoningDelta(part, "", event.signature, event.redacted))

    def _feed_call(self, event: ToolCallDelta) -> None:
        call = self._native.get(event.part)
        if call is None:
            call = self._native[event.part] = NativeCall()
            self._held.append(call)
        call.feed(event)
        self._hold(len(event.arguments) + len(event.name))

    def _hold(self, chars: int) -> None:
        self._held_chars += chars
        if self._held_chars > _MAX_HELD_CHARS or len(self._held) > _MAX_HELD:
            what = f"{self._held_chars} characters in {len(self._held)} parts wait for the end"
            self._defects.append(Defect("reply_too_long", what))
            self._held.clear()
            self._native.clear()

    def _take(
        self,
        finding: Finding,
        kind: type[TextDelta] | type[ReasoningDelta],
        part: int,
        out: list[StreamEvent],
    ) -> None:
        if self._defects:
            return
        if isinstance(finding, str):
            self._speak(finding, kind, part, out)
        elif isinstance(finding, Thought):
            self._speak(finding.text, ReasoningDelta, part, out)
        elif isinstance(finding, Repair):
            if len(self._repairs) < _MAX_REPAIRS:
                self._repairs.append(finding)
        elif isinstance(finding, Defect):
            self._defects.append(finding)
        else:
            self._held.append(finding)
            self._hold(_size(finding))

    def _speak(
        self,
        text: str,
        kind: type[TextDelta] | type[ReasoningDelta],
        part: int,
        out: list[StreamEvent],
    ) -> None:
        """Text of either kind: out with it, unless something before it still waits."""
        if self._held:
            last = self._held[-1]
            if isinstance(last, Said) and last.kind is kind:
                last.pieces.append(text)
            else:
                self._held.append(Said(kind, part, [text]))
            self._hold(len(text))
            return
        if kind is TextDelta and not self._has_said:
            text = self._padding + text
            body = text.strip()
            if not body or (body[0] in "!?." and is_padding(body, fewest=1) and len(text) < 4096):
                self._padding = text
                return
            self._padding = ""
        self._emit(text, kind, part, out)

    def _emit(
        self,
        text: str,
        kind: type[TextDelta] | type[ReasoningDelta],
        part: int,
        out: list[StreamEvent],
    ) -> None:
        number = self._out_part(part, kind)
        if kind is TextDelta:
            if not self._has_said and text.strip():
                self._has_said = True
            out.append(TextDelta(number, text))
            return
        if not self._has_reasoned and text.strip():
            self._has_reasoned = True
        self._reasoned_chars += len(text)
        if self._reasoned_chars <= _MAX_REASONING_CHARS:
            self._reasoned.append(text)
        out.append(ReasoningDelta(number, text))

    def _out_part(self, part: int, kind: type[TextDelta] | type[ReasoningDelta]) -> int:
        key = (part, kind is TextDelta)
        number = self._parts.get(key)
        if number is None:
            number = self._parts[key] = self._next_part
            self._next_part += 1
        return number

    # The end ------------------------------------------------------------------------------------

    def _finish(self, event: Finish, out: list[StreamEvent]) -> None:
        for scanner, kind, part in (
            (self._reasoning, ReasoningDelta, self._reasoning_part),
            (self._content, TextDelta, self._text_part),
        ):
            for finding in scanner.close() if scanner is not None else ():
                self._take(finding, kind, part, out)
        self._is_done = True
        items = self._expanded()
        judged = judge(
            self.toolbox,
            items,
            (self._defects, self._repairs),
            Turn(self._has_said, self._padding, self.reasoning, event, self._text_part),
            self._loop,
        )
        self.judged = judged
        self.verdict = judged.verdict
        if judged.verdict.outcome in ("retry", "failed"):
            return
        self._release(judged, event, out)

    def _expanded(self) -> list[Said | Candidate | Typed | Dictated]:
        """What is held, native calls read as the candidates they are."""
        items: list[Said | Candidate | Typed | Dictated] = []
        for entry in self._held:
            if isinstance(entry, NativeCall):
                found = candidates_of(
                    entry.names, entry.call_id, "".join(entry.pieces), self.toolbox
                )
                for finding in found:
                    if isinstance(finding, Candidate):
                        items.append(finding)
                    elif isinstance(finding, Defect):
                        self._defects.append(finding)
                    elif isinstance(finding, Repair):
                        self._repairs.append(finding)
            else:
                items.append(entry)
        return items

    def _release(self, judged: "Judged", event: Finish, out: list[StreamEvent]) -> None:
        if self._padding:
            self._emit(self._padding, TextDelta, self._text_part, out)
            self._padding = ""
        used: set[str] = set()
        position = 0
        self._parts.clear()
        for item in judged.items:
            if isinstance(item, Meant):
                call_id = self._ids.given(position, item.call_id, used)
                used.add(call_id)
                part = self._next_part
                self._next_part += 1
                position += 1
                self._parts.clear()
                name = self._renamed.get(item.name, item.name)
                out.append(ToolCallDelta(part, call_id, name, item.arguments))
                out.append(PartEnd(part))
            elif item.text:
                self._emit(item.text, item.kind, item.raw_part, out)
        self.calls = tuple(item for item in judged.items if isinstance(item, Meant))
        out.append(
            Finish(judged.finish_reason, event.raw_finish_reason, event.stop_sequence, event.extras)
        )


def _size(finding: Candidate | Typed | Dictated) -> int:
    if isinstance(finding, Candidate):
        return len(finding.arguments) + len(finding.header)
    return len(finding.raw if isinstance(finding, Typed) else finding.text)


def prepare(
    request: Request,
    card: ModelCard,
    *,
    store: ReasoningStore | None = None,
    prose: Mapping[str, JsonValue] | None = None,
) -> Prepared:
    """Make a request's history safe for this target.

    Args:
        request: As the client sent it.
        card: The target's.
        store: Where reasoning of earlier replies is kept; one tenant's view of it.
        prose: By tool name, how arguments look when they are typed as prose (``taming.prose``),
            for clients that declare nothing themselves.

    Raises:
        ConfigError: A prose declaration cannot be read.
    """
    if card.call_format == "none" and card.canonical_call_ids is None:
        return Prepared(request)
    mended = mend(request, card, store)
    toolbox = None
    if card.call_format != "none":
        tools = mended.request.tools
        toolbox = Toolbox(tools, rules_of(tools, prose))
    return Prepared(
        mended.request,
        mended.adjustments,
        toolbox,
        mended.ids,
        mended.loop,
        mended.renamed,
        request.messages,
    )


class Tamer:
    """Turns the raw events of one reply into tame ones, as its card asks for."""

    def __init__(
        self, prepared: Prepared, card: ModelCard, *, store: ReasoningStore | None = None
    ) -> None:
        toolbox = prepared.toolbox
        if toolbox is None and card.call_format != "none":
            toolbox = Toolbox(prepared.request.tools)
        self._engine = (
            Engine(toolbox, prepared.ids, prepared.loop, prepared.renamed)
            if toolbox is not None
            else None
        )
        self._serial = Serialiser()
        self._store = store
        self._history = prepared.history

    @property
    def has_spoken(self) -> bool:
        """Whether visible text or a call has gone out; always ``True`` where nothing is tamed."""
        return self._engine is None or self._engine.has_spoken

    @property
    def is_lost(self) -> bool:
        """Whether the turn is to be asked again, whatever still comes: one may hang up."""
        return self._engine is not None and self._engine.is_lost

    @property
    def verdict(self) -> Verdict:
        """How the turn came out; final after ``Finish`` or ``close``."""
        return self._engine.verdict if self._engine is not None else Verdict()

    def feed(self, event: StreamEvent) -> list[StreamEvent]:
        """One raw event in; the tame events that may go out now."""
        if self._engine is None:
            return self._serial.feed(event)
        out = self._engine.feed(event)
        if self._store is not None and isinstance(event, Finish):
            self._keep(out, self._store)
        return out

    def _keep(self, out: list[StreamEvent], store: ReasoningStore) -> None:
        """Keep the reply's reasoning under each of its calls."""
        assert self._engine is not None
        reasoning = self._engine.reasoning
        calls = [event for event in out if isinstance(event, ToolCallDelta)]
        if not reasoning or not calls:
            return
        trail = Trail()
        for message in self._history:
            trail.take(message)
        # Where the history ends with words of the assistant, the reply goes on with that turn.
        first = trail.take(Message("assistant", ()))
        for position, call in enumerate(calls, first):
            store.put(trail.key(position, call.name, call.arguments), reasoning)

    def close(self) -> list[StreamEvent]:
        """The raw stream ended; what is still held back."""
        return [] if self._engine is None else self._engine.close()
