"""Strands agents over the pipeline itself: reasoning kept, calls tamed, errors in its words."""

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.types.exceptions import (
    ContextWindowOverflowException,
    EventLoopException,
    ModelThrottledException,
)

from kimiya.config.settings import Config, ProviderConfig, RouteConfig
from kimiya.core.messages import Image, Text
from kimiya.errors import ConfigError, TamingExhausted, UnknownModel
from kimiya.integrations.strands import KimiyaModel
from tests.e2e.hosts import Served, served

LOOP = """
reply when user contains "write" and turn 1
  reasoning: First I write.
  text: Writing.
  fault: E.glued
  call write_note: {"text": "a note"}
  usage: input=30 output=10 cache_read=20

reply when user contains "write" and turn 2
  reasoning: Then I look.
  fault: A.plain
  call read_note: {}

reply when user contains "write" and turn 3
  reasoning: Done, then.
  text: It holds: {result}
  usage: input=60 output=5

reply
  text: {user}
"""


@contextmanager
def model_at(script: str, **settings: Any) -> Iterator[tuple[KimiyaModel, Served]]:
    """A model before a self-hosted Kimi that says what the script tells it to."""
    with served(script) as host:
        model = KimiyaModel.at(host.base_url, "kimi-k2.5", **settings)
        try:
            yield model, host
        finally:
            model.close()


class Notes:
    """Two tools that really write and read."""

    def __init__(self, folder: Path) -> None:
        path = folder / "note.txt"

        @tool
        def write_note(text: str) -> str:
            """Write the note.

            Args:
                text: What.
            """
            path.write_text(text)
            return "done"

        @tool
        def read_note() -> str:
            """Read the note."""
            return path.read_text()

        self.tools: list[Any] = [write_note, read_note]


def reasoning_of(message: Any) -> str:
    return "".join(
        block["reasoningContent"]["reasoningText"]["text"]
        for block in message["content"]
        if "reasoningContent" in block
    )


def test_an_agent_works_on_broken_replies_and_keeps_its_reasoning(tmp_path: Path) -> None:
    with model_at(LOOP) as (model, host):
        agent = Agent(model=model, tools=Notes(tmp_path).tools, callback_handler=None)
        result = agent("write a note")
        assert str(result).strip() == "It holds: a note"
        assert (tmp_path / "note.txt").read_text() == "a note"
        kept = [reasoning_of(m) for m in agent.messages if m["role"] == "assistant"]
        assert kept == ["First I write.", "Then I look.", "Done, then."]
        assert "<|" not in str(agent.messages)
        seen = host.host.last_request
        assert seen is not None
        told = [m.reasoning for m in seen.messages if m.role == "assistant"]
        assert told == ["First I write.", "Then I look."]
        assert [c.call_id for m in seen.messages for c in m.tool_calls] == [
            "functions.write_note:0",
            "functions.read_note:1",
        ]
        assert model.last_report is not None
        assert model.last_report.verdict.outcome == "ok"
        assert result.metrics.accumulated_usage["inputTokens"] > 0


def test_several_invocations_share_one_model(tmp_path: Path) -> None:
    """Each runs on a loop of Strands' own making."""
    with model_at("reply\n  text: You said {user}.\n") as (model, _):
        agent = Agent(model=model, callback_handler=None)
        for word in ("one", "two"):
            assert str(agent(word)).strip() == f"You said {word}."
        model.close()
        assert str(agent("three")).strip() == "You said three."


async def test_async_agents_run_side_by_side() -> None:
    with model_at("reply\n  text: You said {user}.\n") as (model, _):
        agents = [Agent(model=model, callback_handler=None) for _ in range(5)]
        results = await asyncio.gather(*(a.invoke_async(str(n)) for n, a in enumerate(agents)))
    assert [str(r).strip() for r in results] == [f"You said {n}." for n in range(5)]


def test_what_strands_says_reaches_the_host() -> None:
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
        "Jggg=="
    )
    system: Any = [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}]
    content: Any = [
        {"text": "What is this?"},
        {"image": {"format": "png", "source": {"bytes": pixel}}},
    ]
    with model_at("reply\n  text: A pixel.\n", max_tokens=77, temperature=0.5) as (model, host):
        agent = Agent(model=model, system_prompt=system, callback_handler=None)
        assert str(agent(content)).strip() == "A pixel."
        seen = host.host.last_request
        assert seen is not None
        assert model.last_report is not None
        codes = [adjustment.code for adjustment in model.last_report.adjustments]
    assert [m.text for m in seen.messages] == ["Be brief.", "What is this?"]
    (image,) = [part for part in seen.messages[1].parts if isinstance(part, Image)]
    assert base64.b64encode(pixel).decode() == getattr(image.source, "data", None)
    assert seen.sampling.max_output_tokens == 77
    assert seen.sampling.temperature == 0.5
    assert any("cache" in code for code in codes), codes
    assert all(
        part.cache is None for m in seen.messages for part in m.parts if isinstance(part, Text)
    )


class City(BaseModel):
    """A city."""

    name: str
    people: int


@pytest.mark.parametrize("fault", ["", "  fault: B.plain\n", "  fault: F.comma\n"])
def test_structured_output_is_the_call_of_a_tool(fault: str) -> None:
    script = f'reply\n{fault}  call City: {{"people": 700000, "name": "Oslo"}}\n'
    with model_at(script) as (model, _):
        agent = Agent(model=model, callback_handler=None)
        city = agent("Which city?", structured_output_model=City).structured_output
    assert city == City(name="Oslo", people=700000)


async def test_structured_output_asked_of_the_model_itself() -> None:
    prompt: Any = [{"role": "user", "content": [{"text": "Which city?"}]}]
    with model_at('reply\n  call City: {"name": "Oslo", "people": 7}\n') as (model, _):
        events = [event async for event in model.structured_output(City, prompt)]
    assert events[-1]["output"] == City(name="Oslo", people=7)
    with model_at("reply\n  text: No city.\n") as (model, _):
        asked = model.structured_output(City, prompt)
        with pytest.raises(ValueError, match="gave no City"):
            [event async for event in asked]


def test_a_deck_typed_into_the_chat_becomes_the_call_it_was_meant_for() -> None:
    decks: list[str] = []

    @tool
    def make_deck(markdown: str) -> str:
        """Make slides.

        Args:
            markdown: A Marp deck.
        """
        decks.append(markdown)
        return "made"

    script = (
        "reply when turn 1\n  text: ---\n    marp: true\n    ---\n    # Tea\n"
        "reply\n  text: There it is.\n"
    )
    with served(script) as host:
        config = Config(
            providers={"up": ProviderConfig(kind="openai", host="vllm", base_url=host.base_url)},
            routes={"kimi": RouteConfig(targets=("up:kimi-k2.5",))},
        )
        model = KimiyaModel("kimi", config, prose={"make_deck": {"kind": "marp"}})
        shown: list[str] = []
        agent = Agent(
            model=model,
            tools=[make_deck],
            callback_handler=lambda **said: shown.append(said.get("data", "")),
        )
        assert str(agent("Slides about tea")).strip() == "There it is."
        model.close()
    assert decks == ["---\nmarp: true\n---\n# Tea"]
    assert "marp" not in "".join(shown)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (
            'reply\n  error: 400 context_length_exceeded "too long"\n',
            ContextWindowOverflowException,
        ),
        ("reply\n  fault: I.empty\n", TamingExhausted),
    ],
)
async def test_errors_are_strands_own_or_kimiya_s(script: str, error: type[Exception]) -> None:
    prompt: Any = [{"role": "user", "content": [{"text": "Go"}]}]
    with model_at(script) as (model, _):
        with pytest.raises(error):
            [chunk async for chunk in model.stream(prompt)]
        assert model.last_report is not None
        assert model.last_report.attempts[-1].error is not None


async def test_a_throttled_call_is_strands_to_repeat() -> None:
    prompt: Any = [{"role": "user", "content": [{"text": "Go"}]}]
    script = 'reply\n  error: 429 busy retry_after=0s "later"\n'
    with served(script) as host:
        provider = ProviderConfig(kind="openai", host="vllm", base_url=host.base_url)
        route = RouteConfig(targets=("up:kimi-k2.5",), retries=0)
        model = KimiyaModel("kimi", Config(providers={"up": provider}, routes={"kimi": route}))
        with pytest.raises(ModelThrottledException, match="later"):
            [chunk async for chunk in model.stream(prompt)]
        model.close()


def test_an_unknown_model_is_named() -> None:
    with model_at("reply\n  text: x\n") as (model, _):
        model.update_config(model_id="no-such-model")
        with pytest.raises((EventLoopException, UnknownModel), match="no-such-model"):
            Agent(model=model, callback_handler=None)("Go")


def test_an_unknown_setting_is_named() -> None:
    wrong: dict[str, Any] = {"temprature": 1}
    with pytest.raises(ConfigError, match=r"temprature.*temperature"):
        KimiyaModel.at("http://127.0.0.1:1", "kimi-k2.5", **wrong)


async def test_leaving_early_stops_the_call() -> None:
    prompt: Any = [{"role": "user", "content": [{"text": "Go"}]}]
    with model_at("reply\n  text: one moment\n  stall: forever\n") as (model, host):
        chunks = model.stream(prompt)
        async for chunk in chunks:
            if "contentBlockDelta" in chunk:
                break
        await chunks.aclose()
        assert await asyncio.to_thread(host.abandoned.wait, 30)


async def test_a_cancelled_call_ends() -> None:
    prompt: Any = [{"role": "user", "content": [{"text": "Go"}]}]
    cancel = Event()
    cancel.set()
    with model_at("reply\n  text: one\n") as (model, _):
        chunks = [chunk async for chunk in model.stream(prompt, cancel_signal=cancel)]
    assert chunks == []
