"""The end of a turn: candidates settled, copies joined, inventions tagged, the policy asked."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast

import msgspec
from msgspec import Struct

from kimiya.core.events import Finish, ReasoningDelta, TextDelta
from kimiya.core.exchange import Defect, FinishReason, Repair, Verdict
from kimiya.core.messages import JsonValue
from kimiya.taming.arguments import decoded
from kimiya.taming.calls import Meant, Toolbox
from kimiya.taming.findings import Candidate, Dictated, Typed, excerpt
from kimiya.taming.grammar import CONTROL
from kimiya.taming.mentions import neutral
from kimiya.taming.policy import LOOP_FAIL_AT, LOOP_RETRY_AT, ruling


class Said(Struct):
    """Text that waits for the end of the turn."""

    kind: type[TextDelta] | type[ReasoningDelta]
    raw_part: int
    pieces: list[str]

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(self.pieces)


Item: TypeAlias = Said | Candidate | Typed | Dictated
Shown: TypeAlias = Said | Meant


class Loop(Struct, frozen=True):
    """The call a history ends with again and again, always with the same result."""

    name: str = ""
    arguments: str = ""
    """Canonical JSON."""
    count: int = 0


class Turn(Struct, frozen=True):
    """What the judgement needs to know of the turn beside its held parts."""

    has_said: bool
    padding: str
    reasoning: str
    finish: Finish
    text_part: int = 0


class Decision(Struct, frozen=True):
    """One decision, for people."""

    what: str
    why: str


class Judged(Struct, frozen=True):
    """A turn's outcome."""

    items: tuple[Shown, ...]
    verdict: Verdict
    finish_reason: FinishReason
    decisions: tuple[Decision, ...] = ()


def canonical_json(value: JsonValue) -> str:
    """One spelling of a JSON value: keys sorted, no white space."""
    try:
        return msgspec.json.encode(value, order="sorted").decode()
    except (UnicodeError, RecursionError, OverflowError, TypeError):
        return repr(value)


def same_arguments(text: str) -> str:
    """Arguments in one spelling; text that is no JSON stays as it is."""
    try:
        return canonical_json(decoded(text))
    except ValueError:
        return text


def is_padding(text: str, *, fewest: int = 8) -> bool:
    """Whether a text is one punctuation sign again and again, as broken hosts send.

    >>> is_padding("!!!!!!!!!!"), is_padding("Hello!"), is_padding("---"), is_padding("")
    (True, False, False, False)
    """
    body = "".join(text.split())
    return len(body) >= fewest and body == body[0] * len(body) and not body[0].isalnum()


class _Court:
    """The state of one judgement."""

    def __init__(self, toolbox: Toolbox, turn: Turn) -> None:
        self.toolbox = toolbox
        self.turn = turn
        self.shown: list[Shown] = []
        self.defects: list[Defect] = []
        self.repairs: list[Repair] = []
        self.decisions: list[Decision] = []
        self._last_raw = ""

    def decide(self, what: str, why: str) -> None:
        self.decisions.append(Decision(what, why))

    def say(self, text: str, kind: type[TextDelta] | type[ReasoningDelta] = TextDelta) -> None:
        self.shown.append(Said(kind, self.turn.text_part, [text]))

    def show(self, raw: str) -> None:
        """Say text that was taken for a call; markers stay only inside JSON strings."""
        self.say(neutral(raw) if CONTROL.search(raw) and not _is_json(raw) else raw)

    @property
    def calls(self) -> list[Meant]:
        return [item for item in self.shown if isinstance(item, Meant)]

    def has_text(self) -> bool:
        """Whether the client sees or will see any visible text."""
        return self.turn.has_said or any(
            isinstance(item, Said) and item.kind is TextDelta and item.text.strip()
            for item in self.shown
        )

    # Candidates ---------------------------------------------------------------------------------

    def candidate(self, item: Candidate, *, is_alone: bool) -> None:
        settled = self.toolbox.settle(item)
        if isinstance(settled, Meant):
            self._pass(item, settled)
            return
        said = settled.detail
        if item.is_soft and self._is_text(item, settled, is_alone=is_alone):
            self.decide(f"left as text: {excerpt(item.raw)}", said)
            if item.raw is not self._last_raw:
                self.show(item.raw)
                self._last_raw = item.raw
            return
        self.decide(f"refused: {excerpt(item.raw)}", f"{settled.code}: {said}")
        self.defects.append(settled)

    def _is_text(self, item: Candidate, defect: Defect, *, is_alone: bool) -> bool:
        if item.dialect == "xml":
            return True
        return defect.code == "undeclared_tool" and not is_alone

    def _pass(self, item: Candidate, meant: Meant) -> None:
        self.decide(f"call {meant.name}({excerpt(meant.arguments)})", _passed(item, meant))
        if not item.dialect.startswith("native"):
            where = "reasoning" if item.channel == "reasoning" else "content"
            code = f"call_from_{where}"
            self.repairs.append(Repair(code, f"took the call of {meant.name} from {where}", where))
        elif item.dialect == "native_glued":
            what = f"took the call of {meant.name} from a name or arguments that held it whole"
            self.repairs.append(Repair("call_unglued", what, "name"))
        self.repairs += meant.repairs
        self.shown.append(meant)
        if not meant.rest:
            return
        if item.is_closed or item.dialect.startswith("native"):
            what = f"dropped {excerpt(meant.rest)!r} behind the arguments"
            self.repairs.append(Repair("trailing_text", what, "arguments"))
        else:
            kind = ReasoningDelta if item.channel == "reasoning" else TextDelta
            self.say(_THINK.sub("", CONTROL.sub("", meant.rest)), kind)

    def dictated(self, item: Dictated) -> None:
        if not item.is_complete or self.turn.finish.finish_reason == "length":
            what = "an argument typed as prose breaks off"
            self.defects.append(Defect("cut_prose", what, excerpt(item.text)))
            return
        text = item.text.rstrip() + "\n" if item.text.endswith("\n") else item.text.rstrip()
        value = {item.argument: text}
        if CONTROL.search(text):
            what = "a control marker stands inside an argument"
            self.defects.append(Defect("marker_in_arguments", what, excerpt(text)))
            return
        problem = self.toolbox.schema(item.tool).problem(value)
        if problem is not None:
            what = f"a text typed for {item.tool} does not fit it: {problem}"
            self.defects.append(Defect("invalid_arguments", what[:200], excerpt(item.text)))
            return
        self.decide(f"call {item.tool}", "its argument was typed as prose, as the tool declares")
        what = f"made the call of {item.tool} from text that is its {item.argument!r}"
        self.repairs.append(Repair("call_from_prose", what, "content"))
        self.shown.append(Meant(item.tool, canonical_json(value), channel="content"))

    # Bare JSON ----------------------------------------------------------------------------------

    def typed(self, item: Typed, *, is_alone: bool) -> None:
        """A JSON object that opens the visible text and uses a declared tool's keys."""
        try:
            value = decoded(item.raw)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            self.show(item.raw)
            return
        if any(same_arguments(call.arguments) == canonical_json(value) for call in self.calls):
            self._echo(item.raw)
            return
        fitting = self._meant_by(cast("dict[str, JsonValue]", value), item.raw)
        if len(fitting) == 1 and fitting[0] in self.toolbox.json_tools:
            made = Candidate(fitting[0], item.raw, "content", "json", is_closed=True, raw=item.raw)
            self.candidate(made, is_alone=True)
        elif fitting and is_alone and not self.calls and not self.turn.has_said:
            what = f"a bare JSON object fits {', '.join(fitting)}"
            self.defects.append(Defect("bare_arguments", what[:200], excerpt(item.raw)))
            self.decide(f"refused: {excerpt(item.raw)}", what)
        else:
            self.say(item.raw)

    def _meant_by(self, value: dict[str, JsonValue], raw: str) -> tuple[str, ...]:
        """The tools a bare object may be meant for, if it is valid arguments of one at all."""
        if not value or CONTROL.search(raw):
            return ()
        fitting = self.toolbox.fitting(value)
        schemas = [self.toolbox.schema(name) for name in fitting]
        return fitting if any(s.fits(s.coerced(value)) for s in schemas) else ()

    def _echo(self, text: str) -> None:
        what = f"dropped {excerpt(text)!r}: a call's own arguments, shown as text"
        self.repairs.append(Repair("echo_dropped", what, "content"))

    # Copies and inventions ----------------------------------------------------------------------

    def join_copies(self) -> None:
        """Run a call once, however many copies of it came."""
        native = {_key(call) for call in self.calls if call.is_native}
        seen: list[Meant] = []
        kept: list[Shown] = []
        for item in self.shown:
            if isinstance(item, Meant) and self._is_copy(item, seen, native):
                what = f"{item.name} came twice and runs once"
                self.repairs.append(Repair("duplicate_dropped", what, "framing"))
                self.decide(f"dropped a copy of {item.name}", what)
                continue
            if isinstance(item, Meant):
                seen.append(item)
            kept.append(item)
        self.shown = kept
        if native and any(not c.is_native and c.channel == "reasoning" for c in seen):
            what = "the reasoning holds another call than the reply"
            self.defects.append(Defect("conflicting_calls", what))

    def _is_copy(self, item: Meant, seen: Sequence[Meant], native: set[tuple[str, str]]) -> bool:
        if item.is_native:
            return bool(item.call_id) and any(
                c.call_id == item.call_id and _key(c) == _key(item) for c in seen
            )
        if _key(item) in native:
            return True
        return any(
            _key(c) == _key(item) and (c.channel != item.channel or c.header == item.header)
            for c in seen
        )

    def drop_inventions(self) -> None:
        """Tag what the model says its call gave, before anyone has run it."""
        last = max((n for n, item in enumerate(self.shown) if isinstance(item, Meant)), default=-1)
        if last < 0:
            return
        is_recovered = any(not call.is_native for call in self.calls)
        kept = self.shown[: last + 1]
        for item in self.shown[last + 1 :]:
            assert isinstance(item, Said)
            text = item.text
            if item.kind is ReasoningDelta:
                kept.append(item)
            elif _TEMPLATE_RESULT.search(text) or (is_recovered and claims_result(text)):
                what = f"the model wrote its call's result before it ran: {excerpt(text.strip())!r}"
                self.repairs.append(Repair("invented_result", what, "content"))
                self.defects.append(Defect("invented_result", what[:200], excerpt(text)))
                self.decide("tagged as invented", excerpt(text.strip()))
            elif self._is_echo(text):
                self._echo(text.strip())
            elif text.strip() or not is_recovered:
                kept.append(item)
        self.shown = kept

    def _is_echo(self, text: str) -> bool:
        body = text.strip()
        if not body.startswith("{"):
            return False
        spelled = same_arguments(body)
        return any(same_arguments(call.arguments) == spelled for call in self.calls)

    # The turn as a whole ------------------------------------------------------------------------

    def turn_defects(self, loop: Loop) -> None:
        calls = self.calls
        if calls or (self.defects and ruling(self.defects)[0] in ("retry", "fail")):
            self._loop(calls, loop)
            return
        turn, reason = self.turn, self.turn.finish.finish_reason
        if self.has_text():
            if reason == "tool_calls":
                what = "the host said calls came, and none did"
                self.defects.append(Defect("announced_without_call", what))
            return
        if is_padding(turn.padding) or is_padding(turn.reasoning):
            said = excerpt(turn.padding or turn.reasoning)
            self.defects.append(Defect("padding", "one sign again and again", said))
        elif turn.padding.strip() or reason in ("content_filter", "refusal", "pause"):
            return
        elif not turn.reasoning.strip():
            self.defects.append(Defect("empty_turn", "neither text nor call"))
        elif reason == "tool_calls":
            what = "the host said calls came, and none did"
            self.defects.append(Defect("announced_without_call", what))
        elif reason != "length" and not weighs_call(turn.reasoning, self.toolbox):
            what = "reasoning, then neither text nor call"
            self.defects.append(Defect("think_only", what, excerpt(turn.reasoning[-200:])))

    def _loop(self, calls: list[Meant], loop: Loop) -> None:
        if len(calls) != 1 or not loop.count:
            return
        if calls[0].name != loop.name or same_arguments(calls[0].arguments) != loop.arguments:
            return
        count = loop.count + 1
        what = f"{loop.name} with the same arguments, {count} times with the same result"
        if count >= LOOP_FAIL_AT:
            self.defects.append(Defect("endless_loop", what))
        elif count >= LOOP_RETRY_AT:
            self.defects.append(Defect("call_loop", what))


def judge(
    toolbox: Toolbox,
    items: Sequence[Item],
    found: tuple[Iterable[Defect], Iterable[Repair]],
    turn: Turn,
    loop: Loop,
) -> Judged:
    """Decide a turn: what goes out, why it stopped, and the verdict."""
    court = _Court(toolbox, turn)
    court.defects += found[0]
    court.repairs += found[1]
    # Typed JSON may echo a call that comes after it, so calls are settled first.
    texts = [i for i in items if isinstance(i, Said) and i.kind is TextDelta and i.text.strip()]
    visible = [i for i in items if not (isinstance(i, Said) and i.kind is ReasoningDelta)]
    is_alone = not texts and not turn.has_said
    late: list[tuple[int, Typed]] = []
    for item in items:
        if isinstance(item, Said):
            court.shown.append(item)
        elif isinstance(item, Candidate):
            court.candidate(item, is_alone=is_alone)
        elif isinstance(item, Typed):
            late.append((len(court.shown), item))
        else:
            court.dictated(item)
    for place, item in late:
        rest, court.shown = court.shown[place:], court.shown[:place]
        court.shown += [i for i in rest if isinstance(i, Meant)]
        mark = len(court.shown)
        court.typed(item, is_alone=is_alone and len(visible) == 1)
        added = court.shown[mark:]
        court.shown = court.shown[:place] + added + rest
    court.join_copies()
    court.drop_inventions()
    court.turn_defects(loop)
    return _concluded(court)


def _concluded(court: _Court) -> Judged:
    finish = court.turn.finish
    action, rule, defect = ruling(court.defects)
    reason: FinishReason = finish.finish_reason
    repairs = list(court.repairs)
    if action in ("retry", "fail"):
        assert rule is not None
        assert defect is not None
        outcome = "retry" if action == "retry" else "failed"
        said = f"{defect.code}: {rule.why}"
        court.decide(outcome, said)
        verdict = Verdict(outcome, tuple(repairs), tuple(court.defects), said)
        return Judged((), verdict, reason, tuple(court.decisions))
    if court.calls and reason in ("stop", "unknown", "length", "pause"):
        reason = "tool_calls"
    elif reason == "unknown" and not court.calls:
        reason = "stop"
    if reason != finish.finish_reason:
        said = finish.raw_finish_reason or finish.finish_reason
        repairs.append(
            Repair(
                "finish_reason_mended", f"the host said {said!r}: it is {reason!r}", "finish_reason"
            )
        )
    verdict = Verdict("repaired" if repairs else "ok", tuple(repairs), tuple(court.defects))
    return Judged(tuple(court.shown), verdict, reason, tuple(court.decisions))


def _is_json(text: str) -> bool:
    try:
        decoded(text)
    except ValueError:
        return False
    return True


def _key(call: Meant) -> tuple[str, str]:
    return call.name, same_arguments(call.arguments)


def _passed(item: Candidate, meant: Meant) -> str:
    how = "; ".join(repair.detail for repair in meant.repairs) or "to the letter"
    return f"exactly one declared tool fits ({item.dialect}, {item.channel}): {how}"


_TEMPLATE_RESULT = re.compile(r"## Return of |<tool_response>|<function_results?>|<tool_result>")
_CLAIMS = re.compile(
    r"\b(?:I(?:'ve|’ve| have) (?:just |now |already |successfully )?\w+(?:ed|en|ne|ad|un|ot|nd)\b"
    r"|(?:just|already|successfully) (?:finished|completed|read|ran|loaded|created|updated|wrote|"
    r"written|executed|checked|found|fetched|saved|deleted|synced|done)\b"
    r"|(?:all|task|files?|everything) (?:is |are |has been |have been )?(?:done|complete[d]?|ready|"
    r"created|updated|saved|written|loaded)\b"
    r"|(?:the|this) (?:result|output|file|content|contents|command|search|test|tests|response)s? "
    r"(?:is|are|was|were|shows?|says?|contains?|returned|passed|failed|succeeded|has been)\b"
    r"|here (?:is|are) (?:the|your) (?:result|output|content|file|summary|list)"
    r"|(?:it|they) (?:worked|succeeded|passed|returned)\b|\bas you can see\b"
    r"|done!|success!)"
    r"|刚(?:刚)?[读看完做查搜运执更创写同]|已经?[读看完查搜运执更创写同获成]|[读看查写做运执]完|完成了|成功|结果(?:是|为|显示|如下)"
    r"|(?:ho|abbiamo) (?:appena |già )?\w+(?:ato|uto|ito|tto)\b"
    r"|(?:he|hemos) (?:\w+(?:ado|ido))\b|j'ai (?:\w+é|lu|vu)\b|habe\b.{0,40}\bge\w+(?:t|en)\b"
    r"|(?:sudah|telah|berhasil) \w+|(?:読み|完了し|確認し)(?:まし)?た|했습니다|완료|"
    r"(?:прочитал|выполнил|готово|создал|обновил)",
    re.IGNORECASE,
)
"""Words by which a text claims that the call before it has run: a lexicon, so best effort. What it
misses is shown as the model wrote it; what it catches is kept in the verdict, never lost."""


def claims_result(text: str) -> bool:
    """Whether a text that follows a call speaks as if the call had run.

    >>> claims_result("I've just read both files."), claims_result("Want sound next?")
    (True, False)
    """
    return bool(_CLAIMS.search(text))


_INTENT = re.compile(
    r"\b(?:I'll|I’ll|I will|I am going to|I'm going to|let me|let's|I need to|I should|I must|"
    r"now I|next,? I|time to)\b|让我|我来|我将|接下来",
    re.IGNORECASE,
)
_THINK = re.compile(r"</?think>")
_HEADED = re.compile(r"functions[._:]\S*\s*\Z|:\d+\s*\Z")
_OBJECT = re.compile(r"\{[^{}]{0,2000}\}")


def weighs_call(reasoning: str, toolbox: Toolbox) -> bool:
    """Whether reasoning that ends a turn weighs a call and leaves it, rather than breaks off.

    It names a declared tool with arguments that fit, as a thought, and announces nothing: the model
    decided, so asking again would only press it.
    """
    tail = reasoning[-4000:]
    for found in _OBJECT.finditer(tail):
        start = max(tail.rfind(sign, 0, found.start()) for sign in ".!?\n。") + 1
        sentence = tail[start:]
        if _INTENT.search(sentence):
            continue
        try:
            value = decoded(found.group())
        except ValueError:
            continue
        before = tail[start : found.start()]
        if _HEADED.search(before):
            continue  # a call whose markers are gone, not a thought
        for name in toolbox.names.declared:
            if name in before and toolbox.schema(name).fits(value):
                return True
    return False
