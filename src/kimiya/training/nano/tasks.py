"""Single-turn tool use, made up from a seed: declared tools, a request, and the one right answer.

Each declaration draws a tool's parameters anew, so that no schema can be learnt by the tool's name.
A request mentions its values in any order, and the answer keeps that order: JSON objects have none,
and a small model that must sort them repeats keys instead. The same seed and settings give the same
tasks in every process and on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kimiya.errors import ConfigError
from kimiya.training.nano.vocabulary import (
    CLOSERS,
    OPENERS,
    PARAMETERS,
    VERBS,
    ParameterKind,
    draw_name,
    draw_number,
    tool_names,
)

__all__ = [
    "NO_CALL_TEXT",
    "Call",
    "Scene",
    "Task",
    "TaskMix",
    "draw_repetitions",
    "draw_scene",
    "draw_scenes",
]

NO_CALL_TEXT = "No tool fits."
"""What the assistant says where no declared tool does what is asked."""


@dataclass(frozen=True)
class Call:
    """One tool call that is expected, or was made."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One request and what answers it: calls, or plain text."""

    request: str
    calls: tuple[Call, ...] = ()
    text: str = NO_CALL_TEXT
    """The answer where nothing is called."""


@dataclass(frozen=True)
class Scene:
    """Declared tools, as a chat request declares them, and independent tasks that share them."""

    tools: tuple[dict[str, Any], ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class TaskMix:
    """What is drawn, and how often."""

    two_calls: float = 0.15
    """Share of requests that ask for two things."""
    no_call: float = 0.2
    """Share of requests that no declared tool can serve."""
    held_out_tools: bool = False
    """Whether the tools asked for are those training never sees."""
    held_out_values: bool = False
    """Whether names and numbers are those training never sees."""
    tools: tuple[int, int] = (1, 4)
    """Fewest and most tools declared."""
    tasks: int = 1
    """Tasks per scene."""

    def __post_init__(self) -> None:
        if min(self.two_calls, self.no_call) < 0 or self.two_calls + self.no_call > 1:
            raise ConfigError(
                f"two_calls {self.two_calls} and no_call {self.no_call} are no shares of one whole",
                key="data",
            )
        if not 1 <= self.tools[0] <= self.tools[1] or self.tasks < 1:
            raise ConfigError(
                f"{self.tools} tools and {self.tasks} tasks cannot be drawn",
                key="data.tools",
                remedy="Give [fewest, most] from 1 up, and at least one task",
            )


@dataclass(frozen=True)
class _Tool:
    name: str
    parameters: tuple[ParameterKind, ...]
    required: int
    """How many of the parameters, from the first, must be given."""

    def declaration(self) -> dict[str, Any]:
        properties = {
            kind.name: {"type": kind.type} | ({"enum": list(kind.choices)} if kind.choices else {})
            for kind in self.parameters
        }
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": f"{self.name.replace('_', ' a ')}",
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": [kind.name for kind in self.parameters[: self.required]],
                },
            },
        }


def draw_scenes(seed: int, mix: TaskMix) -> Iterator[Scene]:
    """Endless scenes; the n-th depends on the seed, the mix and n alone."""
    chance = random.Random(seed)
    while True:
        yield draw_scene(chance, mix)


def draw_scene(chance: random.Random, mix: TaskMix) -> Scene:
    """One scene: its tools, then its tasks."""
    count = chance.randint(*mix.tools)
    pool = tool_names(held_out=mix.held_out_tools)
    names = [chance.choice(pool)]
    while len(names) < count:
        name = _neighbour(chance, names, pool) if chance.random() < 0.4 else chance.choice(pool)
        if name not in names:
            names.append(name)
    chance.shuffle(names)
    tools = [_draw_tool(chance, name) for name in names]
    tasks = tuple(_draw_task(chance, tools, pool, mix) for _ in range(mix.tasks))
    return Scene(tuple(tool.declaration() for tool in tools), tasks)


def draw_repetitions(chance: random.Random, tasks: int) -> Scene:
    """A scene without tools whose requests are lists of names and numbers, to be said again.

    Copying is what tool calls need most and learn last; alone it is learnt in a few hundred steps.
    """
    return Scene((), tuple(_draw_repetition(chance) for _ in range(tasks)))


def _draw_repetition(chance: random.Random) -> Task:
    items = [
        str(draw_number(chance, held_out=False))
        if chance.random() < 0.25
        else draw_name(chance, held_out=False)
        for _ in range(chance.randint(2, 7))
    ]
    text = ", ".join(items)
    return Task(text, text=text)


def _draw_tool(chance: random.Random, name: str) -> _Tool:
    count = chance.choice((1, 2, 2, 3))
    kinds = chance.sample(PARAMETERS, count)
    if sum(kind.phrase.startswith(" for {}") for kind in kinds) > 1:
        return _draw_tool(chance, name)  # "for Bramer for 4 guests" is fine, but says less clearly
    return _Tool(name, tuple(kinds), chance.randint(1, count))


def _draw_task(chance: random.Random, tools: list[_Tool], pool: list[str], mix: TaskMix) -> Task:
    kind = chance.random()
    if kind < mix.no_call:
        declared = [tool.name for tool in tools]
        name = declared[0]
        while name in declared:
            near = chance.random() < 0.5
            name = _neighbour(chance, declared, pool) if near else chance.choice(pool)
        request, _ = _draw_request(chance, _draw_tool(chance, name), mix)
        return Task(_sentence(chance, [request]))
    wanted = [chance.choice(tools)]
    if kind < mix.no_call + mix.two_calls and len(tools) > 1:
        wanted = chance.sample(tools, 2)
    requests, calls = zip(*(_draw_request(chance, tool, mix) for tool in wanted), strict=True)
    return Task(_sentence(chance, list(requests)), tuple(calls))


def _neighbour(chance: random.Random, names: list[str], pool: list[str]) -> str:
    """Another tool that shares its verb or its noun with one of these, where there is one."""
    verb, noun = chance.choice(names).split("_")
    near = [name for name in pool if name not in names and (verb in name or noun in name)]
    return chance.choice(near or pool)


def _draw_request(chance: random.Random, tool: _Tool, mix: TaskMix) -> tuple[str, Call]:
    optional = tool.parameters[tool.required :]
    given = tool.parameters[: tool.required] + tuple(k for k in optional if chance.random() < 0.5)
    said = chance.sample(given, len(given))
    values = {kind.name: _draw_value(chance, kind, held_out=mix.held_out_values) for kind in said}
    phrases = [kind.phrase.format(values[kind.name]) for kind in said]
    verb, noun = tool.name.split("_")
    spoken = chance.choice(VERBS[verb])
    return f"{spoken} a {noun}{''.join(phrases)}", Call(tool.name, values)


def _draw_value(chance: random.Random, kind: ParameterKind, *, held_out: bool) -> str | int:
    if kind.choices:
        return chance.choice(kind.choices)
    if kind.type == "integer":
        return draw_number(chance, held_out=held_out)
    return draw_name(chance, held_out=held_out)


def _sentence(chance: random.Random, requests: list[str]) -> str:
    return chance.choice(OPENERS) + " and then ".join(requests) + chance.choice(CLOSERS)
