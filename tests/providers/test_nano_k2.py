"""A trained model as a provider: raw text out, one reply at a time, stopped when nobody listens."""

import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from kimiya.catalog.catalog import Catalog
from kimiya.core.events import Finish, StreamEvent, TextDelta
from kimiya.core.exchange import Request, Sampling, ToolSpec
from kimiya.core.fold import fold
from kimiya.core.messages import user
from kimiya.errors import ContextOverflow, InvalidRequest, KimiyaError, ProviderError
from kimiya.pipeline.ready import make_ready
from kimiya.providers.nano_k2 import NanoProvider
from kimiya.providers.provider import Target
from kimiya.taming import Tamer

CARD = Catalog.load().named("nano-k2")[0]
RAW = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>"
    '{"x": 1}<|tool_call_end|><|tool_calls_section_end|>'
)
LOOK = ToolSpec("look", "", {"type": "object", "properties": {"x": {"type": "integer"}}})


class Answer:
    """An answer of fixed text, a character at a time."""

    def __init__(self, text: str, is_cancelled: Callable[[], bool]) -> None:
        self.prompt_tokens, self.completion_tokens = 7, 0
        self.finish_reason: str | None = None
        self._text, self._is_cancelled = text, is_cancelled

    def __iter__(self) -> Iterator[str]:
        for character in self._text:
            if self._is_cancelled():
                self.finish_reason = "cancelled"
                return
            self.completion_tokens += 1
            yield character
        self.finish_reason = "stop"


class ScriptedEngine:
    """Says one text, or raises; keeps what it was asked."""

    def __init__(self, said: str | Exception) -> None:
        self.said = said
        self.asked: list[tuple[Any, Any, dict[str, Any]]] = []
        self.answers: list[Answer] = []
        self.threads: set[int] = set()

    def chat(self, messages: Any, tools: Any = (), **settings: Any) -> Answer:
        self.threads.add(threading.get_ident())
        self.asked.append((messages, tools, settings))
        if isinstance(self.said, Exception):
            raise self.said
        self.answers.append(Answer(self.said, settings["is_cancelled"]))
        return self.answers[-1]


def provider_of(said: str | Exception) -> tuple[NanoProvider, ScriptedEngine]:
    engine = ScriptedEngine(said)
    return NanoProvider("nano", Path("nowhere"), engine=engine), engine


def asking(**fields: Any) -> Request:
    return Request("nano-k2", (user("look at it"),), tools=(LOOK,), **fields)


async def events_of(provider: NanoProvider, request: Request) -> list[StreamEvent]:
    async with aclosing(provider.stream(request, CARD)) as events:
        return [event async for event in events]


async def test_it_says_raw_tokens_and_taming_makes_a_call_of_them() -> None:
    provider, engine = provider_of(RAW)
    raw = await events_of(provider, asking(sampling=Sampling(max_output_tokens=99, seed=3)))
    assert fold(raw).message.text == RAW
    ready = make_ready(asking(), Target("nano", CARD), provider)
    tamer = Tamer(ready.prepared, CARD)
    tame = [out for event in raw for out in tamer.feed(event)] + tamer.close()
    call = fold(tame).message.tool_calls[0]
    assert (call.name, call.arguments) == ("look", '{"x": 1}')
    messages, tools, settings = engine.asked[0]
    assert messages == [{"role": "user", "content": "look at it"}]
    assert tools[0]["function"]["name"] == "look"
    assert (settings["max_tokens"], settings["seed"]) == (99, 3)
    await provider.aclose()


async def test_whole_and_streamed_agree_and_count_tokens() -> None:
    provider, _ = provider_of("No tool fits.")
    whole = await provider.complete(asking(), CARD)
    assert whole == fold(await events_of(provider, asking()))
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (7, len("No tool fits."))
    assert whole.finish_reason == "stop"
    await provider.aclose()


async def test_nobody_listening_stops_the_answer() -> None:
    provider, engine = provider_of("x" * 5_000_000)
    async with aclosing(provider.stream(asking(), CARD)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    assert engine.answers[0].finish_reason == "cancelled"
    assert engine.answers[0].completion_tokens < 5_000_000
    await provider.aclose()


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (ContextOverflow("too long"), ContextOverflow),
        (KimiyaError("this chat cannot be rendered"), InvalidRequest),
        (ZeroDivisionError("inside torch"), ProviderError),
        (ModuleNotFoundError("No module named 'torch'"), KimiyaError),
    ],
)
async def test_failures_have_names(raised: Exception, named: type[KimiyaError]) -> None:
    provider, _ = provider_of(raised)
    with pytest.raises(named):
        await events_of(provider, asking())
    await provider.aclose()


async def test_replies_take_turns_on_one_thread() -> None:
    provider, engine = provider_of("ok")
    for _ in range(3):
        assert isinstance((await events_of(provider, asking()))[-1], Finish)
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads
    await provider.aclose()
