"""How well a model calls tools, on tasks it never saw.

Each task is judged on the model's greedy reply alone: ``format`` (Kimi's grammar holds, and where a
call is due there is one), ``schema`` (also, every called tool is declared and its arguments fit its
schema) and ``exact`` (also, the calls are the expected ones, in order, argument for argument).
Nothing constrains decoding and nothing is mended.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kimiya.training.k2 import K2Model, generate
from kimiya.training.nano.tasks import Call, Scene, TaskMix, draw_scene
from kimiya.training.nano.template import MalformedReply, read_calls, render_prompt
from kimiya.training.nano.tokenizer import Tokenizer

__all__ = ["EVALUATIONS", "Score", "evaluate", "evaluation_scenes", "fits_schema", "judge"]

EVALUATIONS: Mapping[str, TaskMix] = {
    "seen_values": TaskMix(two_calls=0, no_call=0),
    "held_out_values": TaskMix(two_calls=0, no_call=0, held_out_values=True),
    "held_out_tools": TaskMix(two_calls=0, no_call=0, held_out_values=True, held_out_tools=True),
    "two_calls": TaskMix(two_calls=1, no_call=0, held_out_values=True, tools=(2, 4)),
    "no_call": TaskMix(two_calls=0, no_call=1, held_out_values=True),
}
"""The sets a model is measured on; all but the first use values training never sees."""


@dataclass(frozen=True)
class Score:
    """Shares from 0 to 1 over ``count`` tasks."""

    count: int
    format: float
    schema: float
    exact: float


@dataclass(frozen=True)
class Judgement:
    """One reply against its task."""

    format: bool
    schema: bool
    exact: bool


def evaluation_scenes(name: str, count: int, *, seed: int = 2**31) -> list[Scene]:
    """The first ``count`` scenes, of one task each, of one of `EVALUATIONS`."""
    chance = random.Random(f"{seed}/{name}")
    return [draw_scene(chance, EVALUATIONS[name]) for _ in range(count)]


def evaluate(
    model: K2Model, tokenizer: Tokenizer, scenes: Sequence[Scene], *, rows: int = 64
) -> tuple[Score, list[str]]:
    """The model's score on these scenes (their first task), and its replies."""
    replies: list[str] = []
    for start in range(0, len(scenes), rows):
        prompts = [
            tokenizer.encode(
                render_prompt([{"role": "user", "content": scene.tasks[0].request}], scene.tools)
            )
            for scene in scenes[start : start + rows]
        ]
        stop = frozenset({tokenizer.id_of("<|im_end|>")})
        outputs = generate(model, prompts, max_tokens=96, stop=stop)
        replies += [tokenizer.decode(output) for output in outputs]
    return _score([judge(s, r) for s, r in zip(scenes, replies, strict=True)]), replies


def judge(scene: Scene, reply: str) -> Judgement:
    """Whether this reply answers the scene's first task."""
    expected = scene.tasks[0].calls
    try:
        _, calls = read_calls(reply)
    except MalformedReply:
        return Judgement(format=False, schema=False, exact=False)
    if expected and not calls:
        return Judgement(format=False, schema=False, exact=False)
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in scene.tools}
    fits = all(call.name in tools and fits_schema(call, tools[call.name]) for call in calls)
    # A number that came as text, or True for 1, is not the same argument.
    same = [_typed(call) for call in calls] == [_typed(call) for call in expected]
    return Judgement(format=True, schema=fits, exact=fits and same)


def fits_schema(call: Call, parameters: Mapping[str, Any]) -> bool:
    """Whether the arguments fit the part of JSON Schema that the tasks use."""
    properties = parameters["properties"]
    types = {"string": str, "integer": int}
    return set(parameters["required"]) <= set(call.arguments) and all(
        key in properties
        and type(value) is types[properties[key]["type"]]
        and value in properties[key].get("enum", (value,))
        for key, value in call.arguments.items()
    )


def _typed(call: Call) -> tuple[str, list[tuple[str, str, Any]]]:
    return call.name, sorted((k, type(v).__name__, v) for k, v in call.arguments.items())


def _score(judgements: Sequence[Judgement]) -> Score:
    count = len(judgements)

    def share(name: str) -> float:
        return sum(getattr(judgement, name) for judgement in judgements) / max(count, 1)

    return Score(count, share("format"), share("schema"), share("exact"))
