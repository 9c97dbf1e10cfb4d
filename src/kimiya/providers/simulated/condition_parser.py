"""Reads ``when A and B``."""

import re
from collections.abc import Iterator
from typing import cast

from kimiya.providers.simulated.lines import Mistake, number_of
from kimiya.providers.simulated.script import (
    Condition,
    Declares,
    Fact,
    HasResult,
    Matches,
    Nth,
    Streamed,
    Subject,
    Turn,
)


def parse_conditions(words: str) -> tuple[Condition, ...]:
    """What stands behind ``reply``: nothing, or ``when A and B``."""
    if not words:
        return ()
    if not words.startswith("when "):
        raise Mistake(f"{words!r} is no condition", "Write `reply when CONDITION and CONDITION`")
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
        number = int(number_of(match[2], whole=True))
        if number < 1:
            raise Mistake(f"there is no {match[1]} {number}", "Count from 1")
        return Turn(number) if match[1] == "turn" else Nth(number)
    if match := re.fullmatch(r"tool (\S+)", words):
        return Declares(match[1])
    raise Mistake(
        f"{words!r} is no condition",
        "Known: user|system|result|model contains 'TEXT' or matches /PATTERN/, tool result,"
        " tools, tool NAME, turn N, request N, stream; any of them after `not`",
    )


def _pattern(how: str, text: str) -> re.Pattern[str]:
    quoted = re.fullmatch(r"\"([^\"]*)\"|'([^']*)'", text)
    if how == "contains":
        if quoted is None:
            raise Mistake(f"{text} is not quoted", "Write contains 'TEXT'")
        return re.compile(re.escape(quoted[1] if quoted[1] is not None else quoted[2]))
    slashed = re.fullmatch(r"/(.*)/(i?)", text, re.S)
    if slashed is None:
        raise Mistake(f"{text} is no pattern", "Write matches /PATTERN/ or /PATTERN/i")
    try:
        return re.compile(slashed[1].replace("\\/", "/"), re.I if slashed[2] else 0)
    except re.error as error:
        raise Mistake(f"{text} is no pattern: {error}", "Use Python's syntax") from error
