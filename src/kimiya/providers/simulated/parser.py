"""Reads a script from its file. Every mistake is a ``ConfigError`` with file, line and remedy.

A file is settings, then replies. A line at the left edge sets something or opens a reply; indented
lines below it are the reply's steps; lines indented deeper still continue the step above them.
"""

import re
from pathlib import Path

from msgspec.structs import replace

from kimiya.errors import ConfigError
from kimiya.providers.simulated.condition_parser import parse_conditions
from kimiya.providers.simulated.lines import (
    Line,
    Mistake,
    blocks,
    number_of,
    refuse,
    seconds_of,
    split,
)
from kimiya.providers.simulated.script import Script, ScriptedReply, Settings, Step
from kimiya.providers.simulated.step_parser import parse_rates, parse_setting, parse_step

ECHO = """\
reply
  text: {user}
"""
"""What a host says that was given no script."""


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
    for line, steps in blocks(text, name):
        try:
            reading.take(line, steps)
        except Mistake as mistake:
            refuse(name, line.number, mistake)
    return reading.result()


class _Reading:
    """What has been read so far."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._settings = Settings()
        self._script = Script(name, ())
        self._replies: list[ScriptedReply] = []

    def take(self, line: Line, steps: list[Line]) -> None:
        if re.match(r"reply\b", line.text):
            self._open(line, steps)
            return
        if steps:
            raise Mistake(f"{line.text!r} takes no steps", "Only `reply` has lines below it")
        key, value = split(line.text)
        if self._replies:
            raise Mistake(f"{key!r} after a reply", "Settings stand before the first reply")
        self._set(key, value)

    def result(self) -> Script:
        if not self._replies:
            mistake = Mistake("there is no reply", "Write `reply` and below it `  text: hello`")
            refuse(self._name, 1, mistake)
        return replace(self._script, replies=tuple(self._replies))

    def _set(self, key: str, value: str) -> None:
        match key:
            case "models":
                models = tuple(name.strip() for name in value.split(",") if name.strip())
                if not models:
                    raise Mistake("no model is named", "Write `models: kimi-k2.5`")
                self._script = replace(self._script, models=models)
            case "seed":
                self._script = replace(self._script, seed=int(number_of(value, whole=True)))
            case "retry_after":
                self._script = replace(self._script, retry_after_s=seconds_of(value))
            case "faults":
                self._script = replace(self._script, rates=parse_rates(value))
            case _:
                self._settings = parse_setting(self._settings, key, value)

    def _open(self, line: Line, lines: list[Line]) -> None:
        if self._replies and not self._replies[-1].conditions and not self._replies[-1].is_once:
            raise Mistake(
                f"this reply is never reached: the one of line {self._replies[-1].line} fits every"
                " request",
                "Give that one a condition (`reply when turn 1`), or `reply once`",
            )
        words = line.text.removeprefix("reply").strip()
        is_once = re.match(r"once\b", words) is not None
        conditions = parse_conditions(words.removeprefix("once").strip() if is_once else words)
        settings, steps = self._settings, list[Step]()
        for item in lines:
            try:
                settings, step = parse_step(item.text, settings)
            except Mistake as mistake:
                refuse(self._name, item.number, mistake)
            steps += [] if step is None else [step]
        self._replies.append(
            ScriptedReply(line.number, tuple(steps), settings, conditions, is_once)
        )
