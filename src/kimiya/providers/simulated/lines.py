"""The lines of a script, and the small words in them: pairs, numbers, times, blocks of text."""

import re
from collections.abc import Iterator
from typing import NoReturn

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kimiya.errors import ConfigError


class Line(Struct, frozen=True):
    number: int
    text: str
    """Without indentation; for a step, with its continuation lines."""


class Mistake(Exception):
    """Found where the line is not known."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def refuse(name: str, line: int, mistake: Mistake) -> NoReturn:
    """Raise a mistake as the ``ConfigError`` it is, with its place."""
    raise ConfigError(str(mistake), file=name, line=line, remedy=mistake.remedy) from mistake


def blocks(text: str, name: str) -> Iterator[tuple[Line, list[Line]]]:
    """Each line at the left edge, with the steps below it."""
    head: Line | None = None
    steps: list[Line] = []
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
            head, steps = Line(number, stripped), []
        elif head is None:
            refuse(name, number, Mistake("a step without a reply", "Begin with `reply`"))
        else:
            if not steps:
                step_indent = indent
            elif indent != step_indent:
                refuse(name, number, Mistake("uneven indentation", "Align the steps of a reply"))
            steps.append(Line(number, stripped))
    if head is not None:
        yield head, steps


def split(text: str) -> tuple[str, str]:
    """``name: value``, the value as ``block_of`` gives it."""
    key, colon, value = text.partition(":")
    if not colon:
        raise Mistake(f"{text!r} is not understood", "Write `name: value`")
    return key.strip(), block_of(value)


def block_of(value: str) -> str:
    """The value of a step: the rest of its line, or the lines below it without their indent."""
    first, _, rest = value.rstrip().partition("\n")
    if not rest:
        return first.strip()
    lines = rest.split("\n")
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    below = "\n".join(line[indent:] for line in lines)
    return f"{first.strip()}\n{below}" if first.strip() else below


def pairs(value: str) -> Iterator[tuple[str, str]]:
    """``NAME=VALUE NAME=VALUE``, with spaces or commas between."""
    for pair in value.replace(",", " ").split():
        name, equals, number = pair.partition("=")
        if not equals:
            raise Mistake(f"{pair!r} has no value", "Write NAME=NUMBER NAME=NUMBER")
        yield name, number


def number_of(text: str, *, whole: bool = False) -> float:
    """A number of zero or more."""
    try:
        number = msgspec.json.decode(text, type=int if whole else float)
    except msgspec.MsgspecError as error:
        kind = "a whole number" if whole else "a number"
        raise Mistake(f"{text!r} is not {kind}", f"Give {kind}") from error
    if number < 0:
        raise Mistake(f"{text} is less than nothing", "Give zero or more")
    return number


def seconds_of(text: str) -> float:
    """A time such as ``250ms`` or ``2s``; without a unit, seconds."""
    match = re.fullmatch(r"([\d.]+)(ms|s|)", text)
    if match is None:
        raise Mistake(f"{text!r} is no time", "Write 250ms or 2s")
    return number_of(match[1]) / (1000 if match[2] == "ms" else 1)
