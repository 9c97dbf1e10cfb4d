"""The embedded model, with the real engine. Skipped where its file or its package is missing.

Few tokens are asked for: the engine makes about 60 a second on one free core.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio
from msgspec.structs import replace

from kimiya.catalog.catalog import Catalog
from kimiya.core.events import Finish, StreamEvent, StreamStart, TextDelta, ToolCallDelta
from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    ResponseFormat,
    Sampling,
    ToolChoice,
    ToolSpec,
)
from kimiya.core.messages import Image, Inline, Message, Text, ToolCall, ToolResult, system, user
from kimiya.errors import (
    ConfigError,
    ContextOverflow,
    InvalidRequest,
    ProviderUnreachable,
    RemoteProtocolError,
)
from kimiya.providers import local_model
from kimiya.providers.llama_cpp import LlamaCppProvider
from kimiya.providers.llama_cpp_chat import Chunk
from tests.contracts.provider import check_stream

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not local_model.is_installed(), reason="the embedded model is missing: kimiya local install"
    ),
]
CARD = Catalog.load().named("smollm2-135m-instruct")[0]
GREEDY = Sampling(temperature=0, max_output_tokens=24)
LONGER = Sampling(temperature=0, max_output_tokens=60)
FORECAST = ToolSpec(
    "forecast",
    "The weather of the next days",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "unit": {"enum": ["c", "f"]},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
ADD = ToolSpec(
    "add",
    "Add two numbers",
    {
        "type": "object",
        "properties": {n: {"type": "integer"} for n in "ab"},
        "required": ["a", "b"],
    },
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[LlamaCppProvider]:
    provider = LlamaCppProvider("local", None, slots=2, context_tokens=1024, threads=1)
    yield provider
    await provider.aclose()


def asking(
    text: str = "What is the capital of France?",
    *,
    tools: tuple[ToolSpec, ...] = (),
    tool_choice: ToolChoice | None = None,
    sampling: Sampling = GREEDY,
    response_format: ResponseFormat | None = None,
) -> Request:
    return Request(
        CARD.model_id,
        (system("You are a helpful assistant."), user(text)),
        tools=tools,
        tool_choice=tool_choice,
        sampling=sampling,
        response_format=response_format,
    )


async def test_a_streamed_chat_keeps_the_order_and_agrees_with_the_whole_one(
    provider: LlamaCppProvider,
) -> None:
    events = [event async for event in provider.stream(asking(), CARD)]
    streamed = check_stream(events)
    assert isinstance(events[0], StreamStart)
    assert events[0].model == CARD.model_id
    assert sum(isinstance(event, TextDelta) for event in events) > 3
    whole = await provider.complete(asking(), CARD)
    assert streamed.parts == whole.parts == (Text("The capital of France is Paris."),)
    assert streamed.finish_reason == whole.finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 8
    assert whole.usage.input_tokens == await provider.count_tokens(asking(), CARD)


async def test_length_is_told(provider: LlamaCppProvider) -> None:
    reply = await provider.complete(asking(sampling=Sampling(max_output_tokens=3)), CARD)
    assert reply.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.output_tokens == 3


async def test_a_stop_sequence_is_told_and_left_out(provider: LlamaCppProvider) -> None:
    sampling = Sampling(temperature=0, max_output_tokens=24, stop=("nothing", " France"))
    reply = await provider.complete(asking(sampling=sampling), CARD)
    assert (reply.finish_reason, reply.stop_sequence) == ("stop_sequence", " France")
    assert reply.parts == (Text("The capital of"),)


async def test_a_seed_repeats_a_reply_and_another_does_not(provider: LlamaCppProvider) -> None:
    async def said(seed: int) -> str:
        sampling = Sampling(temperature=1.5, max_output_tokens=12, seed=seed)
        reply = await provider.complete(asking("Invent a name.", sampling=sampling), CARD)
        return reply.message.text

    first, again, other = await said(7), await said(7), await said(8)
    assert first == again
    assert first != other


@pytest.mark.parametrize("choice", [NamedChoice("forecast"), RequiredChoice()])
async def test_a_forced_call_is_a_native_call(
    provider: LlamaCppProvider, choice: ToolChoice
) -> None:
    request = asking(
        "Weather in Lisbon for the next 3 days?",
        tools=(FORECAST, ADD),
        tool_choice=choice,
        sampling=LONGER,
    )
    events = [event async for event in provider.stream(request, CARD)]
    reply = check_stream(events)
    (call,) = reply.parts
    assert isinstance(call, ToolCall)
    assert call.call_id == f"functions.{call.name}:0"
    if isinstance(choice, NamedChoice):
        assert call.name == "forecast"
        assert json.loads(call.arguments) == {"city": "Lisbon", "days": 3}
    else:
        (tool,) = [tool for tool in (FORECAST, ADD) if tool.name == call.name]
        jsonschema.validate(json.loads(call.arguments), tool.parameters)
    assert reply.finish_reason == "tool_calls"
    assert sum(isinstance(event, ToolCallDelta) for event in events) > 3


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_however_wild_the_sampling_arguments_fit_the_schema(
    provider: LlamaCppProvider, seed: int
) -> None:
    request = asking(
        "Anything at all!",
        tools=(FORECAST,),
        tool_choice=RequiredChoice(),
        sampling=Sampling(temperature=3.0, top_p=1.0, top_k=0, max_output_tokens=100, seed=seed),
    )
    reply = await provider.complete(request, CARD)
    (call,) = reply.message.tool_calls
    jsonschema.validate(json.loads(call.arguments), FORECAST.parameters)


async def test_a_call_cut_short_is_length_and_keeps_what_came(provider: LlamaCppProvider) -> None:
    request = asking(
        "Weather in Lisbon for the next 3 days?",
        tools=(FORECAST,),
        tool_choice=RequiredChoice(),
        sampling=Sampling(temperature=0, max_output_tokens=24),
    )
    reply = await provider.complete(request, CARD)
    assert reply.finish_reason == "length"
    (call,) = reply.message.tool_calls
    assert '{"city": "Lisbon", "days": 3}'.startswith(call.arguments)
    assert call.arguments


@pytest.mark.parametrize("choice", [AutoChoice(), NoChoice(), None])
async def test_who_need_not_call_may_talk(
    provider: LlamaCppProvider, choice: ToolChoice | None
) -> None:
    reply = await provider.complete(asking(tools=(ADD,), tool_choice=choice), CARD)
    assert reply.message.text
    assert not reply.message.tool_calls


async def test_a_response_format_holds_the_text(provider: LlamaCppProvider) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 2]}},
        "required": ["name", "age"],
    }
    request = asking("A person?", response_format=ResponseFormat("json_schema", schema))
    reply = await provider.complete(request, CARD)
    jsonschema.validate(json.loads(reply.message.text), schema)


async def test_two_slots_answer_at_once_and_do_not_mix(provider: LlamaCppProvider) -> None:
    texts = ["What is the capital of France?", "What is the capital of Italy?"] * 2
    replies = await asyncio.gather(*(provider.complete(asking(text), CARD) for text in texts))
    named = [("France" in r.message.text, "Italy" in r.message.text) for r in replies]
    assert named == [(True, False), (False, True)] * 2


async def test_a_tool_loop_extends_the_prompt(provider: LlamaCppProvider) -> None:
    first = asking("Add 2 and 3", tools=(ADD,), sampling=Sampling(max_output_tokens=2))
    call = ToolCall("functions.add:0", "add", '{"a": 2, "b": 3}')
    result = ToolResult(call.call_id, (Text("5"),))
    history = (*first.messages, Message("assistant", (call,)), Message("tool", (result,)))
    before = await provider.complete(first, CARD)
    after = await provider.complete(replace(first, messages=history), CARD)
    assert before.usage is not None
    assert after.usage is not None
    assert after.usage.cache_read_tokens >= before.usage.input_tokens - 1
    called = replace(first, messages=history, tool_choice=RequiredChoice(), sampling=LONGER)
    again = await provider.complete(called, CARD)
    assert [call.call_id for call in again.message.tool_calls] == ["functions.add:1"]


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_reader_who_leaves_stops_the_engine(
    provider: LlamaCppProvider, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await provider.load()
    engine = provider._engine
    assert engine is not None
    whole, pieces, is_over = engine.answer, [], threading.Event()

    def watched(body: Chunk, on_chunk: Callable[[Chunk], bool]) -> None:
        whole(body, lambda chunk: bool(pieces.append(chunk)) or on_chunk(chunk))
        is_over.set()

    monkeypatch.setattr(engine, "answer", watched)
    request = asking("Count to a thousand.", sampling=Sampling(max_output_tokens=900))
    stream = provider.stream(request, CARD)
    while not isinstance(await anext(stream), TextDelta):
        pass
    if how == "close":
        await stream.aclose()
    else:
        waiting = asyncio.ensure_future(_rest(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.to_thread(is_over.wait)
    assert not any(chunk.get("usage") for chunk in pieces), "the reply went on to its end"


async def test_the_event_loop_is_free_while_the_engine_works(provider: LlamaCppProvider) -> None:
    turns = 0
    reply = asyncio.ensure_future(provider.complete(asking(), CARD))
    while not reply.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 100


HOSTILE = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}


@pytest.mark.parametrize(
    ("request_", "kind", "said"),
    [
        (asking("word " * 3000), ContextOverflow, "context size"),
        (asking(tool_choice=NamedChoice("none")), InvalidRequest, "'none'"),
        (asking(tool_choice=RequiredChoice()), InvalidRequest, "no tool is declared"),
        (asking(tools=(ToolSpec("t", None, HOSTILE),)), InvalidRequest, "tool 't'"),
        (asking(tools=(ToolSpec("t", None, [1]),)), InvalidRequest, "tool 't'"),
        (asking(tools=(ToolSpec("w", kind="web_search"),)), InvalidRequest, "'web_search'"),
        (asking(sampling=Sampling(n=2)), InvalidRequest, "one reply"),
        (Request("m", ()), InvalidRequest, "a message to answer"),
        (
            Request("m", (Message("user", (Image(Inline("image/png", "")),)),)),
            InvalidRequest,
            "text only",
        ),
    ],
)
async def test_what_cannot_be_answered_is_refused_by_name(
    provider: LlamaCppProvider, request_: Request, kind: type[Exception], said: str
) -> None:
    for ask in (provider.complete, provider.count_tokens):
        if ask == provider.count_tokens and kind is ContextOverflow:
            continue  # counting what does not fit is no error
        with pytest.raises(kind, match=said) as caught:
            await ask(request_, CARD)
        assert getattr(caught.value, "provider", "local") in ("local", None)


async def test_a_grammar_the_engine_refuses_is_an_invalid_request(
    provider: LlamaCppProvider,
) -> None:
    circle = {"$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}]}}, "$ref": "#/$defs/x"}
    request = asking(tools=(ToolSpec("t", None, {"properties": {"a": circle}}),))
    with pytest.raises(InvalidRequest):
        await provider.complete(request, CARD)


async def test_closing_ends_replies_that_run_and_replies_that_wait() -> None:
    provider = LlamaCppProvider("one", None, slots=1, context_tokens=512, threads=1)
    story = asking("Tell a long story.", sampling=Sampling(max_output_tokens=400))
    running = provider.stream(story, CARD)
    while not isinstance(await anext(running), TextDelta):
        pass
    waiting = asyncio.ensure_future(provider.complete(story, CARD))
    for _ in range(5):
        await asyncio.sleep(0)
    await provider.aclose()
    await provider.aclose()
    with pytest.raises(RemoteProtocolError):
        await _rest(running)
    with pytest.raises(RemoteProtocolError):
        await waiting
    with pytest.raises(ProviderUnreachable, match="closed"):
        await provider.complete(story, CARD)
    assert not [thread for thread in threading.enumerate() if "llama.cpp-one" in thread.name]


async def _rest(stream: AsyncIterator[StreamEvent]) -> None:
    async for event in stream:
        assert not isinstance(event, Finish)


async def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 20)
    provider = LlamaCppProvider("bad", path)
    with pytest.raises(ProviderUnreachable, match=r"bad\.gguf"):
        await provider.complete(asking(), CARD)
    await provider.aclose()


async def test_a_missing_or_foreign_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kimiya local install"):
        LlamaCppProvider("x", tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        LlamaCppProvider("x", tmp_path / "text.gguf")
    with pytest.raises(ConfigError, match="cannot be read"):
        LlamaCppProvider("x", tmp_path)


async def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'kimiya\[local\]'"):
        LlamaCppProvider("x", None)
