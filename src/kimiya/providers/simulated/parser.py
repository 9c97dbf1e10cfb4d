"""Reads a script from its file. Every mistake is a ``ConfigError`` with file, line and remedy.

A file is settings, then replies. A line at the left edge sets something or opens a reply; indented
lines below it are the reply's steps; lines indented deeper still continue the step above them.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, cast, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kimiya.core.exchange import FinishReason, Usage
from kimiya.errors import ConfigError
from kimiya.providers.simulated.conditions import filled
from kimiya.providers.simulated.faults import check_fault
from kimiya.providers.simulated.script import (
    Befall,
    CallTool,
    Condition,
    Cut,
    Declares,
    End,
    Fact,
    Fail,
    HasResult,
    IdStyle,
    Matches,
    Nth,
    Page,
    Pause,
    ReportUsage,
    Say,
    Script,
    ScriptedReply,
    Settings,
    Step,
    Streamed,
    Subject,
    Turn,
)

ECHO = """\
reply
  text: {user}
"""
"""What a host says that was given no script."""


class _Line(Struct, frozen=True):
    number: int
    text: str
    """Without indentation; for a step, with its continuation lines."""


class _Mistake(Exception):
    """Found where the line is not known."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def read_script(path: str | Path) -> Script:
    """Read a script file.

    Raises:
        ConfigError: The file cannot be read, or a line in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the script cannot be read ({error})",
            file=str(path),
            remedy="Give the path of a UTF-8 text file; docs/simulate.md shows one",
        ) from error
    return parse_script(text, str(path))


def parse_script(text: str, name: str = "script") -> Script:
    """Read a script's text.

    >>> parse_script("reply when user contains 'hi'\\n  text: hello").replies[0].steps
    (Say(channel='text', text='hello', is_template=True),)

    Raises:
        ConfigError: With the line.
    """
    reading = _Reading(name)
    for line, steps in _blocks(text, name):
        try:
            reading.take(line, steps)
        except _Mistake as mistake:
            _refuse(name, line.number, mistake)
    return reading.result()


def _refuse(name: str, line: int, mistake: _Mistake) -> NoReturn:
    raise ConfigError(str(mistake), file=name, line=line, remedy=mistake.remedy) from mistake


def _blocks(text: str, name: str) -> Iterator[tuple[_Line, list[_Line]]]:
    """Each line at the left edge, with the steps below it."""
    head: _Line | None = None
    steps: list[_Line] = []
    step_indent = 0
    for number, line in enumerate(text.expandtabs(4).splitlines(), 1):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        is_deeper = bool(steps) and (indent > step_indent or not stripped)
        if is_deeper:
            # A continuation, blank lines and marks of comment included: it is the model's text.
            steps[-1] = replace(steps[-1], text=f"{steps[-1].text}\n{line}")
        elif not stripped or stripped.startswith("#"):
            continue
        elif indent == 0:
            if head is not None:
                yield head, steps
            head, steps = _Line(number, stripped), []
        elif head is None:
            _refuse(name, number, _Mistake("a step without a reply", "Begin with `reply`"))
        else:
            if not steps:
                step_indent = indent
            elif indent != step_indent:
                _refuse(name, number, _Mistake("uneven indentation", "Align the steps of a reply"))
            steps.append(_Line(number, stripped))
    if head is not None:
        yield head, steps


class _Reading:
    """What has been read so far."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._settings = Settings()
        self._script = Script(name, ())
        self._replies: list[ScriptedReply] = []

    def take(self, line: _Line, steps: list[_Line]) -> None:
        if re.match(r"reply\b", line.text):
            self._open(line, steps)
            return
        if steps:
            raise _Mistake(f"{line.text!r} takes no steps", "Only `reply` has lines below it")
        key, value = _split(line.text)
        if self._replies:
            raise _Mistake(f"{key!r} after a reply", "Settings stand before the first reply")
        self._set(key, value)

    def result(self) -> Script:
        if not self._replies:
            mistake = _Mistake("there is no reply", "Write `reply` and below it `  text: hello`")
            _refuse(self._name, 1, mistake)
        return replace(self._script, replies=tuple(self._replies))

    def _set(self, key: str, value: str) -> None:
        match key:
            case "models":
                models = tuple(name.strip() for name in value.split(",") if name.strip())
                if not models:
                    raise _Mistake("no model is named", "Write `models: kimi-k2.5`")
                self._script = replace(self._script, models=models)
            case "seed":
                self._script = replace(self._script, seed=int(_number(value, whole=True)))
            case "retry_after":
                self._script = replace(self._script, retry_after_s=_seconds(value))
            case "faults":
                self._script = replace(self._script, rates=_rates(value))
            case _:
                self._settings = _setting(self._settings, key, value)

    def _open(self, line: _Line, lines: list[_Line]) -> None:
        if self._replies and not self._replies[-1].conditions and not self._replies[-1].is_once:
            raise _Mistake(
                f"this reply is never reached: the one of line {self._replies[-1].line} fits every"
                " request",
                "Give that one a condition (`reply when turn 1`), or `reply once`",
            )
        words = line.text.removeprefix("reply").strip()
        is_once = re.match(r"once\b", words) is not None
        conditions = _conditions(words.removeprefix("once").strip() if is_once else words)
        settings, steps = self._settings, list[Step]()
        for item in lines:
            try:
                settings, step = _step(item.text, settings)
            except _Mistake as mistake:
                _refuse(self._name, item.number, mistake)
            steps += [] if step is None else [step]
        self._replies.append(
            ScriptedReply(line.number, tuple(steps), settings, conditions, is_once)
        )


def _conditions(words: str) -> tuple[Condition, ...]:
    if not words:
        return ()
    if not words.startswith("when "):
        raise _Mistake(f"{words!r} is no condition", "Write `reply when CONDITION and CONDITION`")
    return tuple(_condition(part) for part in _parts(words.removeprefix("when ")))


def _parts(words: str) -> Iterator[str]:
    """Split at ``and``, but not inside quotes or a pattern."""
    piece = r"(?:/(?:\\.|[^/\\])*/i?|\"[^\"]*\"|'[^']*'|[^\s])+"
    current: list[str] = []
    for word in re.findall(piece, words):
        if word == "and":
            yield " ".join(current)
            current = []
        else:
            current.append(word)
    yield " ".join(current)


_SIMPLE_FACTS: dict[str, Fact] = {
    "tool result": HasResult(),
    "tools": Declares(),
    "stream": Streamed(),
}


def _condition(words: str) -> Condition:
    negation = re.match(r"(?:not|no)\s+", words)
    if negation:
        words = words[negation.end() :]
    return Condition(_fact(words), is_negated=negation is not None)


def _fact(words: str) -> Fact:
    if words in _SIMPLE_FACTS:
        return _SIMPLE_FACTS[words]
    if match := re.fullmatch(r"(user|system|result|model) (matches|contains) (.+)", words, re.S):
        return Matches(cast(Subject, match[1]), _pattern(match[2], match[3]))
    if match := re.fullmatch(r"(turn|request) (\S+)", words):
        number = int(_number(match[2], whole=True))
        if number < 1:
            raise _Mistake(f"there is no {match[1]} {number}", "Count from 1")
        return Turn(number) if match[1] == "turn" else Nth(number)
    if match := re.fullmatch(r"tool (\S+)", words):
        return Declares(match[1])
    raise _Mistake(
        f"{words!r} is no condition",
        "Known: user|system|result|model contains 'TEXT' or matches /PATTERN/, tool result,"
        " tools, tool NAME, turn N, request N, stream; any of them after `not`",
    )


def _pattern(how: str, text: str) -> re.Pattern[str]:
    quoted = re.fullmatch(r"\"([^\"]*)\"|'([^']*)'", text)
    if how == "contains":
        if quoted is None:
            raise _Mistake(f"{text} is not quoted", "Write contains 'TEXT'")
        return re.compile(re.escape(quoted[1] if quoted[1] is not None else quoted[2]))
    slashed = re.fullmatch(r"/(.*)/(i?)", text, re.S)
    if slashed is None:
        raise _Mistake(f"{text} is no pattern", "Write matches /PATTERN/ or /PATTERN/i")
    try:
        return re.compile(slashed[1].replace("\\/", "/"), re.I if slashed[2] else 0)
    except re.error as error:
        raise _Mistake(f"{text} is no pattern: {error}", "Use Python's syntax") from error


def _step(text: str, settings: Settings) -> tuple[Settings, Step | None]:
    """One step of a reply; where it sets something, the settings from there on."""
    bare = text.strip()
    if bare == "cut":
        return settings, Cut()
    if bare == "stall":
        return settings, Pause(None)
    if match := re.match(r"call\s+(\S+?)(?:\s+id=(\S+))?\s*:(?=[\s{]|$)", text):
        arguments = _block(text[match.end() :]).strip() or "{}"
        try:
            msgspec.json.decode(filled(arguments, {}, default="0"))
        except msgspec.DecodeError as error:
            raise _Mistake(
                f"the arguments of {match[1]} are not JSON ({error})",
                "Mend them; `fault: F` damages arguments on purpose",
            ) from error
        return settings, CallTool(match[1], arguments, match[2])
    key, value = _split(text)
    if key in _STEPS:
        return settings, _STEPS[key](value)
    return _setting(settings, key, value), None


def _setting(settings: Settings, key: str, value: str) -> Settings:
    match key:
        case "ids":
            if value not in get_args(IdStyle):
                raise _Mistake(f"{value!r} is no style", f"One of {', '.join(get_args(IdStyle))}")
            return replace(settings, ids=cast(IdStyle, value))
        case "pieces":
            chars = None if value == "whole" else int(_number(value, whole=True))
            if chars is not None and chars < 1:
                raise _Mistake("a piece needs a character", "Write `pieces: 8` or `pieces: whole`")
            return replace(settings, piece_chars=chars)
        case "delay":
            return replace(settings, delay_s=_seconds(value))
        case _:
            raise _Mistake(
                f"{key!r} is nothing a script knows",
                "Steps: text, reasoning, raw, raw reasoning, call NAME, usage, finish, error,"
                " html, stall, cut, fault. Settings: models, seed, ids, pieces, delay, faults,"
                " retry_after",
            )


def _usage(value: str) -> ReportUsage:
    if value == "none":
        return ReportUsage(None)
    known = {name.removesuffix("_tokens"): name for name in Usage.__struct_fields__}
    counts: dict[str, int] = {}
    for name, number in _pairs(value):
        if name not in known:
            raise _Mistake(f"{name!r} is no token count", f"Known: {', '.join(known)}")
        counts[known[name]] = int(_number(number, whole=True))
    return ReportUsage(Usage(**counts))


def _finish(value: str) -> End:
    if value in get_args(FinishReason):
        return End(cast(FinishReason, value))
    return End("unknown", value or None)


def _error(value: str) -> Fail:
    match = re.fullmatch(
        r"(\d{3})(?:\s+([A-Za-z_][\w.-]*(?!\S)))?(?:\s+retry_after=(\S+))?(?:\s+\"([^\"]*)\")?",
        value,
    )
    if match is None or not 400 <= int(match[1]) <= 599:
        raise _Mistake(f"{value!r} is no error", 'Write `error: 429 CODE retry_after=2s "message"`')
    wait_s = _seconds(match[3]) if match[3] else None
    return Fail(int(match[1]), match[2], match[4] or "scripted error", wait_s)


def _page(value: str) -> Page:
    status = int(_number(value or "200", whole=True))
    if not 200 <= status <= 599:
        raise _Mistake(f"{status} is no status", "Write `html: 502`")
    return Page(status)


def _stall(value: str) -> Pause:
    return Pause(None if value in ("", "forever") else _seconds(value))


def _fault(value: str) -> Befall:
    return Befall(_checked_fault(value))


_STEPS: dict[str, Callable[[str], Step]] = {
    "text": lambda value: Say("text", value),
    "reasoning": lambda value: Say("reasoning", value),
    "raw": lambda value: Say("text", value, is_template=False),
    "raw reasoning": lambda value: Say("reasoning", value, is_template=False),
    "usage": _usage,
    "finish": _finish,
    "error": _error,
    "html": _page,
    "stall": _stall,
    "fault": _fault,
}


def _rates(value: str) -> dict[str, float]:
    rates = {_checked_fault(name): _number(number) for name, number in _pairs(value)}
    if any(not 0 <= rate <= 1 for rate in rates.values()) or math.fsum(rates.values()) > 1:
        raise _Mistake("the shares are more than all", "Give shares that sum to 1 at most")
    return rates


def _checked_fault(name: str) -> str:
    try:
        return check_fault(name)
    except ValueError as error:
        raise _Mistake(str(error), "docs/simulate.md lists the faults") from error


def _split(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon:
        raise _Mistake(f"{text!r} is not understood", "Write `name: value`")
    return key.strip(), _block(value)


def _block(value: str) -> str:
    """The value of a step: the rest of its line, or the lines below it without their indent."""
    first, _, rest = value.rstrip().partition("\n")
    if not rest:
        return first.strip()
    lines = rest.split("\n")
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    below = "\n".join(line[indent:] for line in lines)
    return f"{first.strip()}\n{below}" if first.strip() else below


def _pairs(value: str) -> Iterator[tuple[str, str]]:
    for pair in value.replace(",", " ").split():
        name, equals, number = pair.partition("=")
        if not equals:
            raise _Mistake(f"{pair!r} has no value", "Write NAME=NUMBER NAME=NUMBER")
        yield name, number


def _number(text: str, *, whole: bool = False) -> float:
    try:
        number = msgspec.json.decode(text, type=int if whole else float)
    except msgspec.MsgspecError as error:
        kind = "a whole number" if whole else "a number"
        raise _Mistake(f"{text!r} is not {kind}", f"Give {kind}") from error
    if number < 0:
        raise _Mistake(f"{text} is less than nothing", "Give zero or more")
    return number


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(ms|s|)", text)
    if match is None:
        raise _Mistake(f"{text!r} is no time", "Write 250ms or 2s")
    return _number(match[1]) / (1000 if match[2] == "ms" else 1)
