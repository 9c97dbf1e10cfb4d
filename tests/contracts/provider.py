"""What every provider must do: the laws of ``providers.provider``, as one suite.

``ScriptedContract`` runs them against a host that says what a script says. ``ServedContract`` puts
that host on a port, so a provider is tested over real HTTP::

    class TestHttpProvider(ServedContract):
        dialect = OPENAI_CHAT

        def connect(self, base_url: str, timeouts: Timeouts) -> Provider:
            return HttpProvider(...)

``check_stream`` holds what is true of any stream, for providers whose host cannot be scripted.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar

import pytest
from msgspec import Struct

from kimiya.catalog.card import DialectName, ModelCard
from kimiya.catalog.catalog import unknown_card
from kimiya.core.events import Finish, StreamEvent, StreamStart, TextDelta, UsageReport
from kimiya.core.exchange import Request, Response, ToolSpec, Usage
from kimiya.core.fold import fold
from kimiya.core.messages import Message, Reasoning, Text, ToolCall, ToolResult, user
from kimiya.errors import (
    ContextOverflow,
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RemoteProtocolError,
    Unauthorized,
)
from kimiya.providers.provider import Provider
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.server import running
from kimiya.providers.transport import Timeouts
from kimiya.wire.dialect import Dialect

PATIENT = Timeouts(connect_s=10, head_s=10, idle_s=10)
BRISK = Timeouts(connect_s=10, head_s=0.05, idle_s=0.05)

READ_FILE = ToolSpec(
    "read_file",
    "Read a file.",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)


def asking(text: str = "hello", *more: Message, tools: Sequence[ToolSpec] = ()) -> Request:
    """A request of one user's text and what followed it."""
    return Request("kimi-simulated", (user(text), *more), tools=tuple(tools))


def check_stream(events: Sequence[StreamEvent]) -> Response:
    """The order every stream keeps; the reply it folds to."""
    starts = [event for event in events if isinstance(event, StreamStart)]
    assert len(starts) <= 1
    assert not starts or events[0] is starts[0]
    finishes = [number for number, event in enumerate(events) if isinstance(event, Finish)]
    assert len(finishes) == 1
    assert all(isinstance(event, UsageReport) for event in events[finishes[0] + 1 :])
    return fold(events)


class Subject(Struct):
    """A provider whose host plays a script."""

    provider: Provider
    card: ModelCard
    abandoned: asyncio.Event | None = None
    """Set by the host when its client left early; ``None`` where nothing connects."""

    async def events(self, request: Request) -> list[StreamEvent]:
        """The whole stream."""
        stream = self.provider.stream(request, self.card)
        return [event async for event in stream]

    async def ask(self, request: Request, *, streamed: bool) -> Response:
        """The reply, one way or the other."""
        if not streamed:
            return await self.provider.complete(request, self.card)
        return check_stream(await self.events(request))


both_ways = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])

ERRORS = [
    ("401 invalid_api_key", Unauthorized, 401),
    ("403 permission_denied", Unauthorized, 403),
    ("400 invalid_request_error", InvalidRequest, 400),
    ("404 not_found_error", InvalidRequest, 404),
    ("429 rate_limit_exceeded", RateLimited, 429),
    ("500 api_error", Overloaded, 500),
    ("503 overloaded_error", Overloaded, 503),
    (
        '400 context_length_exceeded "prompt is too long: 300000 tokens > 262144 maximum"',
        ContextOverflow,
        400,
    ),
]


class ScriptedContract:
    """The suite. Subclasses say how a script is played."""

    @contextlib.asynccontextmanager
    async def playing(
        self, script: str, timeouts: Timeouts = PATIENT
    ) -> AsyncGenerator[Subject, None]:
        raise NotImplementedError
        yield

    @both_ways
    async def test_text(self, streamed: bool) -> None:
        script = "pieces: 3\nreply\n  text: You said: {user} — ü€🜁\n  usage: input=12 output=7"
        async with self.playing(script) as subject:
            response = await subject.ask(asking("hi"), streamed=streamed)
        assert response.parts == (Text("You said: hi — ü€🜁"),)
        assert response.finish_reason == "stop"
        assert response.usage == Usage(input_tokens=12, output_tokens=7)
        assert response.response_id

    async def test_a_stream_comes_in_pieces(self) -> None:
        async with self.playing("pieces: 1\nreply\n  text: abcdef") as subject:
            events = await subject.events(asking())
        pieces = [event.text for event in events if isinstance(event, TextDelta) and event.text]
        assert pieces == list("abcdef")

    @both_ways
    async def test_reasoning_and_parallel_calls(self, streamed: bool) -> None:
        script = """
pieces: 5
reply
  reasoning: Two files to read.
  text: Reading both.
  call read_file id=functions.read_file:0: {"path": "a b.txt"}
  call read_file id=functions.read_file:1: {"path": "ü.txt"}
"""
        async with self.playing(script) as subject:
            response = await subject.ask(asking(tools=[READ_FILE]), streamed=streamed)
        assert response.finish_reason == "tool_calls"
        said = Message("assistant", response.parts)
        assert said.reasoning == "Two files to read."
        assert said.text == "Reading both."
        assert [call.call_id for call in said.tool_calls] == [
            "functions.read_file:0",
            "functions.read_file:1",
        ]
        assert [json.loads(call.arguments) for call in said.tool_calls] == [
            {"path": "a b.txt"},
            {"path": "ü.txt"},
        ]

    @both_ways
    async def test_a_tool_loop_of_two_turns(self, streamed: bool) -> None:
        script = """
reply when tool read_file and not tool result
  call read_file id=functions.read_file:0: {"path": "a.txt"}
reply when tool result and turn 2
  text: It says {result}.
"""
        async with self.playing(script) as subject:
            first = await subject.ask(asking(tools=[READ_FILE]), streamed=streamed)
            (call,) = first.message.tool_calls
            result = ToolResult(call.call_id, (Text("forty-two"),), name=call.name)
            loop = asking("hello", first.message, Message("tool", (result,)), tools=[READ_FILE])
            second = await subject.ask(loop, streamed=streamed)
        assert second.message.text == "It says forty-two."
        assert second.finish_reason == "stop"

    async def test_streamed_and_whole_agree(self) -> None:
        script = """
reply
  reasoning: hm
  text: Here.
  call read_file id=functions.read_file:0: {"path": "a", "n": [1, 2.5, null, true]}
  usage: input=30 output=9 cache_read=10 reasoning=2
"""
        async with self.playing(script) as subject:
            streamed = await subject.ask(asking(tools=[READ_FILE]), streamed=True)
            whole = await subject.ask(asking(tools=[READ_FILE]), streamed=False)
        assert [_plain(part) for part in streamed.parts] == [_plain(part) for part in whole.parts]
        assert streamed.finish_reason == whole.finish_reason
        assert streamed.usage == whole.usage
        assert whole.usage is not None
        assert (whole.usage.input_tokens, whole.usage.cache_read_tokens) == (30, 10)

    async def test_a_frame_of_a_megabyte(self) -> None:
        text = "x" * 1_000_000
        async with self.playing(f"pieces: whole\nreply\n  raw: {text}") as subject:
            response = await subject.ask(asking(), streamed=True)
        assert response.message.text == text

    @both_ways
    async def test_nothing_said(self, streamed: bool) -> None:
        async with self.playing("reply\n  finish: stop") as subject:
            response = await subject.ask(asking(), streamed=streamed)
        assert response.message.text == ""
        assert not response.message.tool_calls

    @both_ways
    @pytest.mark.parametrize(("error", "kind", "status"), ERRORS)
    async def test_errors(
        self, error: str, kind: type[ProviderError], status: int, streamed: bool
    ) -> None:
        async with self.playing(f"reply\n  error: {error}") as subject:
            with pytest.raises(ProviderError) as caught:
                await subject.ask(asking(), streamed=streamed)
        assert type(caught.value) is kind
        assert caught.value.status == status
        assert caught.value.provider == subject.provider.name

    @both_ways
    async def test_retry_after_is_read(self, streamed: bool) -> None:
        async with self.playing("reply\n  error: 429 slow_down retry_after=7s") as subject:
            with pytest.raises(RateLimited) as caught:
                await subject.ask(asking(), streamed=streamed)
        assert caught.value.retry_after_s == 7

    async def test_an_error_in_mid_stream(self) -> None:
        script = "pieces: 4\nreply\n  text: some words\n  error: 503 overloaded_error"
        async with self.playing(script) as subject:
            await _fails(subject, asking(), (ProviderError, RemoteProtocolError))

    @both_ways
    async def test_a_cut_answer(self, streamed: bool) -> None:
        async with self.playing("pieces: 4\nreply\n  text: some words\n  cut") as subject:
            with pytest.raises(RemoteProtocolError):
                await subject.ask(asking(), streamed=streamed)

    @both_ways
    async def test_a_cut_before_anything_is_said(self, streamed: bool) -> None:
        async with self.playing("reply\n  cut") as subject:
            with pytest.raises(RemoteProtocolError):
                await subject.ask(asking(), streamed=streamed)

    @both_ways
    async def test_a_host_that_stalls(self, streamed: bool) -> None:
        async with self.playing("reply\n  stall: forever", BRISK) as subject:
            with pytest.raises(ProviderTimeout):
                await subject.ask(asking(), streamed=streamed)

    async def test_a_host_that_stalls_half_way(self) -> None:
        script = "reply\n  text: some words\n  stall: forever"
        timeouts = Timeouts(connect_s=10, head_s=10, idle_s=0.05)
        async with self.playing(script, timeouts) as subject:
            await _fails(subject, asking(), ProviderTimeout)

    @both_ways
    @pytest.mark.parametrize(("status", "kind"), [(502, Overloaded), (200, RemoteProtocolError)])
    async def test_a_web_page(self, status: int, kind: type[Exception], streamed: bool) -> None:
        async with self.playing(f"reply\n  html: {status}") as subject:
            with pytest.raises(kind, match="web page"):
                await subject.ask(asking(), streamed=streamed)

    @pytest.mark.parametrize("how", ["cancel", "close"])
    async def test_who_stops_reading_closes_the_connection(self, how: str) -> None:
        async with self.playing("reply\n  text: begun\n  stall: forever") as subject:
            stream = subject.provider.stream(asking(), subject.card)
            while not isinstance(await anext(stream), TextDelta):
                pass
            if how == "cancel":
                waiting = asyncio.ensure_future(_exhaust(stream))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                await stream.aclose()
            if subject.abandoned is not None:
                async with asyncio.timeout(10):
                    await subject.abandoned.wait()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    async def test_the_provider_works_after_a_failure(self) -> None:
        script = "reply when request 1\n  text: x\n  cut\nreply\n  text: fine"
        async with self.playing(script) as subject:
            with contextlib.suppress(RemoteProtocolError):
                await subject.ask(asking(), streamed=True)
            response = await subject.ask(asking(), streamed=True)
        assert response.message.text == "fine"

    async def test_calls_at_the_same_time_do_not_mix(self) -> None:
        async with self.playing("pieces: 2\nreply\n  text: for {user}") as subject:
            replies = await asyncio.gather(
                *(subject.ask(asking(f"caller {n}"), streamed=n % 2 == 0) for n in range(8))
            )
        assert [reply.message.text for reply in replies] == [f"for caller {n}" for n in range(8)]

    async def test_closing_twice_is_closing_once(self) -> None:
        async with self.playing("reply\n  text: x") as subject:
            await subject.ask(asking(), streamed=False)
            await subject.provider.aclose()
            await subject.provider.aclose()


class ServedContract(ScriptedContract):
    """The suite over a port. Subclasses name the dialect and make the provider."""

    dialect: ClassVar[Dialect]

    def connect(self, base_url: str, timeouts: Timeouts) -> Provider:
        """A provider for the host at this address; the suite closes it."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def playing(
        self, script: str, timeouts: Timeouts = PATIENT
    ) -> AsyncGenerator[Subject, None]:
        dialect: DialectName = self.dialect.name  # type: ignore[assignment]
        card = unknown_card("simulated", "kimi-simulated", dialect)
        async with running(parse_script(script), dialects=[self.dialect]) as host:
            provider = self.connect(host.base_url, timeouts)
            try:
                yield Subject(provider, card, host.abandoned)
            finally:
                await provider.aclose()


def _plain(part: object) -> object:
    """A part without what only one of a host's two answers carries."""
    match part:
        case Reasoning():
            return ("reasoning", part.text)
        case ToolCall():
            return (part.call_id, part.name, json.loads(part.arguments))
        case Text():
            return ("text", part.text)
        case _:
            return part


async def _fails(
    subject: Subject, request: Request, kind: type[Exception] | tuple[type[Exception], ...]
) -> None:
    """The stream says some words, then fails; it never just ends."""
    said: list[StreamEvent] = []

    async def read() -> None:
        async for event in subject.provider.stream(request, subject.card):
            said.append(event)

    with pytest.raises(kind):
        await read()
    assert any(isinstance(event, TextDelta) for event in said)
    assert not any(isinstance(event, Finish) for event in said)


async def _exhaust(stream: AsyncGenerator[StreamEvent, None]) -> None:
    async for _ in stream:
        pass
