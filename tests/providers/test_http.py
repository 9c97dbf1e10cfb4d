"""What the HTTP provider adds to its dialect: addresses, credentials, and odd answers."""

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from kimiya.catalog.catalog import unknown_card
from kimiya.core.exchange import Request
from kimiya.core.fold import fold
from kimiya.core.messages import Inline, Message, Opaque, Video, user
from kimiya.errors import (
    ConfigError,
    InvalidRequest,
    Overloaded,
    ProviderUnreachable,
    RemoteProtocolError,
    Unauthorized,
)
from kimiya.providers.http import HttpProvider
from kimiya.providers.transport import AiohttpTransport, Timeouts
from kimiya.wire.anthropic_messages import ANTHROPIC_MESSAGES
from kimiya.wire.dialect import Dialect, WireOptions
from kimiya.wire.openai_chat import OPENAI_CHAT
from tests.providers.raw_host import Exchange, Handler, Seen, raw_host

CARD = unknown_card("h", "m", "openai_chat")
ASKED = Request("m", (user("hi"),))
REPLY = json.dumps(
    {
        "id": "r1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"},
                "finish_reason": "stop",
            }
        ],
    }
).encode()


def answering(body: bytes, status: str = "200 OK", headers: str = "") -> Handler:
    async def handler(exchange: Exchange) -> None:
        kind = "" if "content-type" in headers else "content-type: application/json\r\n"
        exchange.answer(body, status=status, headers=kind + headers)

    return handler


@contextlib.asynccontextmanager
async def calling(
    handler: Handler,
    dialect: Dialect = OPENAI_CHAT,
    api_key: str | None = "sk-secret-123456",
    **options: object,
) -> AsyncIterator[tuple[HttpProvider, Seen]]:
    async with raw_host(handler) as seen:
        transport = AiohttpTransport(Timeouts(5, 5, 5))
        provider = HttpProvider("h", seen.base_url, api_key, dialect, transport, **options)  # type: ignore[arg-type]
        try:
            yield provider, seen
        finally:
            await provider.aclose()


async def test_openai_credentials() -> None:
    async with calling(answering(REPLY)) as (provider, seen):
        assert (await provider.complete(ASKED, CARD)).message.text == "hello"
    line, headers, body = seen.requests[0]
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == "bearer sk-secret-123456"
    assert headers["content-type"] == "application/json"
    assert json.loads(body).get("stream", False) is False


async def test_anthropic_credentials() -> None:
    async with calling(answering(b"{}", "500 x"), ANTHROPIC_MESSAGES) as (provider, seen):
        with pytest.raises(Overloaded):
            await provider.complete(ASKED, CARD)
    line, headers, _ = seen.requests[0]
    assert line == "POST /v1/messages HTTP/1.1"
    assert headers["x-api-key"] == "sk-secret-123456"
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers


async def test_no_key_sends_no_credentials() -> None:
    async with calling(answering(REPLY), api_key=None) as (provider, seen):
        await provider.complete(ASKED, CARD)
    assert "authorization" not in seen.requests[0][1]


async def test_the_users_headers_win() -> None:
    extra = {"Authorization": "Basic abc", "X-Team": "a"}
    async with calling(answering(REPLY), extra_headers=extra) as (provider, seen):
        await provider.complete(ASKED, CARD)
    assert seen.requests[0][1]["authorization"] == "basic abc"
    assert seen.requests[0][1]["x-team"] == "a"


async def test_the_line_break_of_a_key_file_is_dropped() -> None:
    async with calling(answering(REPLY), api_key="sk-secret-123456\n") as (provider, seen):
        await provider.complete(ASKED, CARD)
    assert seen.requests[0][1]["authorization"] == "bearer sk-secret-123456"


@pytest.mark.parametrize("key", ["sk-secret\n-123456", "“sk-secret-123456”", "sk-secret\x00"])
def test_a_key_no_header_can_carry(key: str) -> None:
    with pytest.raises(ConfigError, match=r"providers\.h\.api_key") as caught:
        HttpProvider("h", "https://h", key, OPENAI_CHAT, AiohttpTransport())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_body_says_whether_to_stream_whatever_the_request_said(streamed: bool) -> None:
    asked = Request("m", (user("hi"),), stream=not streamed)
    async with calling(answering(REPLY)) as (provider, seen):
        if streamed:
            events = [event async for event in provider.stream(asked, CARD)]
            # The host answered whole although a stream was asked for.
            assert fold(events).message.text == "hello"
        else:
            await provider.complete(asked, CARD)
    assert json.loads(seen.requests[0][2]).get("stream", False) is streamed


async def test_facts_of_the_endpoint_come_from_the_card_or_the_configuration() -> None:
    asked = Request("m", (user("hi"),), sampling=ASKED.sampling.__class__(max_output_tokens=9))
    options = WireOptions(max_tokens_field="max_completion_tokens")
    async with calling(answering(REPLY)) as (provider, seen):
        await provider.complete(asked, CARD)
    async with calling(answering(REPLY), options=options) as (provider, other):
        await provider.complete(asked, CARD)
    assert json.loads(seen.requests[0][2])["max_tokens"] == 9
    assert json.loads(other.requests[0][2])["max_completion_tokens"] == 9


async def test_a_redirect_names_the_remedy() -> None:
    handler = answering(b"", "308 x", "location: https://new.example/v1?key=1\r\n")
    async with calling(handler) as (provider, _):
        with pytest.raises(
            InvalidRequest, match=r"https://new\.example/v1; set base_url"
        ) as caught:
            await provider.complete(ASKED, CARD)
    assert caught.value.status == 308


PAGES = [
    ("502 Bad Gateway", Overloaded, "something in front"),
    ("404 Not Found", InvalidRequest, "base_url"),
    ("403 Forbidden", Unauthorized, "base_url"),
    ("200 OK", RemoteProtocolError, "base_url"),
]


@pytest.mark.parametrize(("status", "kind", "hint"), PAGES)
async def test_a_web_page(status: str, kind: type[Exception], hint: str) -> None:
    handler = answering(b"<html>nginx</html>", status, "content-type: text/html; charset=x\r\n")
    async with calling(handler) as (provider, _):
        with pytest.raises(kind, match=hint):
            await provider.complete(ASKED, CARD)


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"\xff\xfe", b'{"error": 7}'])
@pytest.mark.parametrize("status", ["401 x", "500 x", "429 x", "418 x"])
async def test_error_answers_nobody_can_read_are_still_named(body: bytes, status: str) -> None:
    kinds = {"401 x": Unauthorized, "500 x": Overloaded, "418 x": InvalidRequest}
    async with calling(answering(body, status)) as (provider, _):
        with pytest.raises(Exception) as caught:
            await provider.complete(ASKED, CARD)
    assert status == "429 x" or type(caught.value) is kinds[status]
    assert getattr(caught.value, "provider", "h") == "h"


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"\xff\xfe", b"{}"])
async def test_replies_nobody_can_read(body: bytes) -> None:
    async with calling(answering(body)) as (provider, _):
        with pytest.raises(RemoteProtocolError):
            await provider.complete(ASKED, CARD)


async def test_what_the_dialect_cannot_say_is_refused_before_sending() -> None:
    strange = Message("user", (Opaque("bedrock_converse", {"guardContent": {}}),))
    async with calling(answering(REPLY)) as (provider, seen):
        with pytest.raises(InvalidRequest, match="openai_chat") as caught:
            await provider.complete(Request("m", (strange,)), CARD)
    assert caught.value.status is None
    assert not seen.requests


async def test_an_unreachable_host_is_named() -> None:
    provider = HttpProvider("h", "http://127.0.0.1:9", None, OPENAI_CHAT, AiohttpTransport())
    with pytest.raises(ProviderUnreachable, match=r"127\.0\.0\.1:9") as caught:
        await provider.complete(ASKED, CARD)
    assert caught.value.provider == "h"
    await provider.aclose()


async def test_model_ids() -> None:
    body = b'{"object":"list","data":[{"id":"kimi-k2.6"},{"id":"kimi-k3","extra":1}]}'
    async with calling(answering(body)) as (provider, seen):
        assert await provider.model_ids() == ("kimi-k2.6", "kimi-k3")
    line, headers, _ = seen.requests[0]
    assert line == "GET /v1/models HTTP/1.1"
    assert headers["authorization"] == "bearer sk-secret-123456"


async def test_model_ids_with_a_wrong_key() -> None:
    async with calling(answering(b"{}", "401 x")) as (provider, _):
        with pytest.raises(Unauthorized) as caught:
            await provider.model_ids()
    assert caught.value.provider == "h"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data":[1]}', b'{"data":{}}x', b'{"data":1}']
)
async def test_a_list_of_models_nobody_can_read(body: bytes) -> None:
    async with calling(answering(body)) as (provider, _):
        with pytest.raises(RemoteProtocolError, match="models"):
            await provider.model_ids()


async def test_tokens_are_counted_where_host_and_dialect_count() -> None:
    async with calling(answering(b'{"input_tokens":42}'), ANTHROPIC_MESSAGES) as (provider, seen):
        assert await provider.count_tokens(ASKED, CARD) == 42
    assert seen.requests[0][0] == "POST /v1/messages/count_tokens HTTP/1.1"
    assert "max_tokens" not in json.loads(seen.requests[0][2])


async def test_tokens_are_not_counted_by_openai() -> None:
    async with calling(answering(REPLY)) as (provider, seen):
        assert await provider.count_tokens(ASKED, CARD) is None
    assert not seen.requests


async def test_a_host_that_does_not_count() -> None:
    async with calling(answering(b"{}", "404 x"), ANTHROPIC_MESSAGES) as (provider, _):
        assert await provider.count_tokens(ASKED, CARD) is None


async def test_a_count_that_is_refused_for_another_reason() -> None:
    async with calling(answering(b"{}", "400 x"), ANTHROPIC_MESSAGES) as (provider, _):
        with pytest.raises(InvalidRequest):
            await provider.count_tokens(ASKED, CARD)


async def test_a_count_of_what_cannot_be_said() -> None:
    video = Message("user", (Video(Inline("video/mp4", "AAAA")),))
    async with calling(answering(b"{}"), ANTHROPIC_MESSAGES) as (provider, _):
        with pytest.raises(InvalidRequest, match="anthropic_messages"):
            await provider.count_tokens(Request("m", (video,)), CARD)
