"""Any front to any upstream: four by four, streamed and whole, one table of scenarios.

The upstream is the simulated host on a loopback port, spoken to through the real transport in each
dialect; the client's side is the front's own dialect. What went in and what comes out are compared
as values, so a field lost in either direction shows.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from kimiya.assembly import assemble
from kimiya.config.discovery import effective_config
from kimiya.config.settings import Config, ProviderConfig, RouteConfig
from kimiya.core.exchange import Request, Response, Sampling, ToolSpec, Usage
from kimiya.core.fold import fold
from kimiya.core.messages import (
    Image,
    Inline,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    system,
    user,
)
from kimiya.errors import RateLimited
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.server import Running, running
from kimiya.wire.dialect import WireOptions
from kimiya.wire.dialects import DIALECTS
from tests.gateway.driver import Answer, Client, gateway_over

SCRIPT = """
reply when user contains 'weather'
  reasoning: The user wants two cities.
  text: I look.
  call get_weather: {"city": "Paris"}
  call get_weather: {"city": "Tokyo"}
  usage: input=20 output=9

reply when user contains 'limited'
  error: 429 busy retry_after=7s "come back later"

reply when user contains 'long'
  text: and so on
  finish: length
  usage: input=5 output=3

reply when user contains 'cached'
  text: from the cache
  usage: input=2000 output=3 cache_read=1500

reply
  text: {user}
  usage: input=7 output=2
"""
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER = ToolSpec(
    "get_weather",
    "Weather in a city",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
KINDS = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic_messages": "anthropic",
    "bedrock_converse": "bedrock",
}


@pytest.fixture(autouse=True)
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Bedrock provider signs; the simulated host does not check."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)


def provider_config(upstream: str, host: Running) -> ProviderConfig:
    """How the simulated host is reached in a dialect."""
    kind = KINDS[upstream]
    if kind == "bedrock":
        return ProviderConfig(
            kind="bedrock", host="test", region="us-east-1", endpoint_url=host.base_url
        )
    return ProviderConfig(kind=kind, host="test", base_url=host.base_url, dialect=upstream)


@asynccontextmanager
async def client_of(upstream: str, folder: Path) -> AsyncIterator[tuple[Client, Running]]:
    """A gateway whose only route leads to a simulated host in this dialect."""
    async with running(parse_script(SCRIPT)) as host:
        config = Config(
            providers={"up": provider_config(upstream, host)},
            routes={"model": RouteConfig(targets=("up:some-model",), retries=0)},
            models=(vision_row(upstream),),
        )
        app = assemble(effective_config(config, {}), env={})
        try:
            yield Client(gateway_over(app, folder)), host
        finally:
            await app.aclose()


def vision_row(upstream: str) -> dict[str, object]:
    """A card that allows everything the scenarios use."""
    source = {"url": "measured", "checked": "2026-11-22"}
    return {
        "name": "some-model",
        "host": "test",
        "model_id": "some-model",
        "dialects": [upstream],
        "has_vision": True,
        "thinking": {"form": "none", "modes": ["instant"], "default": "instant"},
        "reasoning_field": "reasoning_content" if upstream == "openai_chat" else None,
        "cache": {"kind": "none", "source": source},
        "source": source,
    }


async def ask(client: Client, front: str, request: Request) -> tuple[Answer, Response | None]:
    """Send a request in a front's dialect; the reply, folded where it was streamed."""
    dialect = DIALECTS[front]
    wire = dialect.encode_request(request, WireOptions())
    path = wire.path if wire.path.startswith(("/model", "/v1")) else f"/v1{wire.path}"
    answer = await client.send(path, wire.body, headers=wire.headers)
    if answer.status != 200:
        return answer, None
    if not request.stream:
        return answer, dialect.decode_response(answer.body)
    decoder = dialect.event_decoder()
    events = [event for piece in answer.pieces for event in decoder.feed(piece)]
    return answer, fold([*events, *decoder.close()])


def asking(text: str, *, stream: bool, **fields: object) -> Request:
    """A request of one user message."""
    request = Request(
        "model",
        (system("Be brief."), user(text)),
        sampling=Sampling(max_output_tokens=64),
        stream=stream,
    )
    return msgspec.structs.replace(request, **fields)


pytestmark = [
    pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"]),
    pytest.mark.parametrize("upstream", sorted(KINDS)),
    pytest.mark.parametrize("front", sorted(KINDS)),
]


async def test_text_usage_and_finish_reason(
    front: str, upstream: str, stream: bool, tmp_path: Path
) -> None:
    async with client_of(upstream, tmp_path) as (client, _):
        answer, reply = await ask(client, front, asking("Hello, wörld ☃", stream=stream))
    assert reply is not None, answer.body
    assert reply.message.text == "Hello, wörld ☃"
    assert reply.finish_reason == "stop"
    assert reply.usage == Usage(7, 2)
    assert answer.headers["x-kimiya-route"] == "up:some-model"


async def test_reasoning_and_parallel_calls(
    front: str, upstream: str, stream: bool, tmp_path: Path
) -> None:
    request = asking("the weather in two cities", stream=stream, tools=(WEATHER,))
    async with client_of(upstream, tmp_path) as (client, _):
        answer, reply = await ask(client, front, request)
    assert reply is not None, answer.body
    assert reply.message.reasoning == "The user wants two cities."
    assert reply.message.text == "I look."
    calls = [(call.name, msgspec.json.decode(call.arguments)) for call in reply.message.tool_calls]
    assert calls == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Tokyo"})]
    assert len({call.call_id for call in reply.message.tool_calls}) == 2
    assert reply.finish_reason == "tool_calls"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (20, 9)


async def test_history_with_calls_results_and_an_image_arrives_whole(
    front: str, upstream: str, stream: bool, tmp_path: Path
) -> None:
    image = Image(Inline("image/png", PIXEL))
    history = (
        user("Look at this"),
        Message(
            "assistant",
            (Text("Two calls."), *(ToolCall(f"functions.f:{n}", "f", '{"n":1}') for n in (0, 1))),
        ),
        Message(
            "tool",
            (
                ToolResult("functions.f:0", (Text("first"),)),
                ToolResult("functions.f:1", (Text("second"),)),
            ),
        ),
        Message("user", (Text("And now this picture?"), image)),
    )
    tool = msgspec.structs.replace(WEATHER, name="f")
    request = asking("", stream=stream, messages=history, tools=(tool,))
    async with client_of(upstream, tmp_path) as (client, host):
        answer, reply = await ask(client, front, request)
        assert reply is not None, answer.body
        seen = host.host.last_request
    assert seen is not None
    assert [
        (result.call_id, "".join(p.text for p in result.content if isinstance(p, Text)))
        for message in seen.messages
        for result in message.tool_results
    ] == [("functions.f:0", "first"), ("functions.f:1", "second")]
    assert [c.call_id for m in seen.messages for c in m.tool_calls] == [
        "functions.f:0",
        "functions.f:1",
    ]
    images = [p for m in seen.messages for p in m.parts if isinstance(p, Image)]
    assert [picture.source for picture in images] == [image.source]
    assert [spec.name for spec in seen.tools] == ["f"]
    assert seen.sampling.max_output_tokens == 64


async def test_a_reply_cut_by_its_limit_says_so(
    front: str, upstream: str, stream: bool, tmp_path: Path
) -> None:
    async with client_of(upstream, tmp_path) as (client, _):
        _, reply = await ask(client, front, asking("a long one", stream=stream))
    assert reply is not None
    assert reply.finish_reason == "length"
    assert reply.message.text == "and so on"


async def test_cached_tokens_keep_their_meaning(
    front: str, upstream: str, stream: bool, tmp_path: Path
) -> None:
    async with client_of(upstream, tmp_path) as (client, _):
        _, reply = await ask(client, front, asking("a cached one", stream=stream))
    assert reply is not None
    assert reply.usage == Usage(2000, 3, cache_read_tokens=1500)


async def test_an_error_of_the_host_arrives_in_the_front_s_own_words(
    front: str, upstream: str, stream: bool, tmp_path: Path
) -> None:
    async with client_of(upstream, tmp_path) as (client, _):
        answer, _ = await ask(client, front, asking("a limited one", stream=stream))
    assert answer.status == 429
    assert answer.headers.get("retry-after") == "7"
    error = DIALECTS[front].decode_error(answer.status, answer.headers, answer.body)
    assert isinstance(error, RateLimited)
    assert "come back later" in error.message


async def test_reasoning_given_back_reaches_hosts_that_take_it(
    front: str, upstream: str, stream: bool, tmp_path: Path
) -> None:
    signature = "c2lnbmVk" if front in ("anthropic_messages", "bedrock_converse") else None
    thought = Reasoning("I considered it.", signature)
    history = (
        user("Think"),
        Message("assistant", (thought, ToolCall("functions.f:0", "f", "{}"))),
        Message("tool", (ToolResult("functions.f:0", (Text("done"),)),)),
    )
    tool = msgspec.structs.replace(WEATHER, name="f", parameters={"type": "object"})
    request = asking("", stream=stream, messages=history, tools=(tool,))
    async with client_of(upstream, tmp_path) as (client, host):
        answer, reply = await ask(client, front, request)
        assert reply is not None, answer.body
        seen = host.host.last_request
    assert seen is not None
    told = "".join(message.reasoning for message in seen.messages)
    dropped = "reasoning" in answer.headers.get("x-kimiya-adjustments", "")
    assert told == "I considered it." or dropped, "reasoning vanished without an adjustment"
