"""The Bedrock provider keeps the contract, proves who calls, and names what Bedrock refuses."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from kimiya.catalog.catalog import unknown_card
from kimiya.core.clock import VirtualClock
from kimiya.core.events import StreamStart
from kimiya.core.exchange import Response, Usage
from kimiya.core.fold import fold, unfold
from kimiya.core.messages import Message, Text, ToolCall
from kimiya.errors import (
    ConfigError,
    ContextOverflow,
    InvalidRequest,
    KimiyaError,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RemoteProtocolError,
    Unauthorized,
)
from kimiya.providers.aws_credentials import (
    BEARER_VARIABLE,
    BearerToken,
    BotocoreCredentials,
    CredentialSource,
    FixedCredentials,
)
from kimiya.providers.bedrock import BedrockProvider
from kimiya.providers.provider import Provider
from kimiya.providers.sigv4 import AwsKeys, Outgoing, Scope, sign
from kimiya.providers.transport import AiohttpTransport, Timeouts
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE
from tests.contracts.provider import ServedContract, asking

KEYS = FixedCredentials(AwsKeys("AKIA" + "A" * 16, "secret", "token"))
CARD = unknown_card("bedrock", "moonshotai.kimi-k2.5", "bedrock_converse")
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
REPLY = Response("req-1", "kimi-simulated", (Text("hi"),), "stop", "end_turn", usage=Usage(3, 2))


class TestContract(ServedContract):
    dialect = BEDROCK_CONVERSE

    def connect(self, base_url: str, timeouts: Timeouts) -> Provider:
        transport = AiohttpTransport(timeouts)
        return BedrockProvider("host", "us-east-1", transport, KEYS, base_url)


class Answer:
    """An answer whose body is at hand."""

    def __init__(self, status: int, headers: Mapping[str, str], *body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self.is_closed = False

    async def read(self) -> bytes:
        return b"".join(self._body)

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._body:
            yield piece

    async def aclose(self) -> None:
        self.is_closed = True


class Host:
    """A transport with one answer, which remembers what was asked."""

    def __init__(self, status: int = 200, headers: Mapping[str, str] = {}, *body: bytes) -> None:
        self.answer = Answer(status, {"x-amzn-requestid": "req-1", **headers}, *body)
        self.asked: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.is_closed = False

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Any:
        self.asked.append((url, body, headers))
        return self.answer

    async def get(self, url: str, headers: Mapping[str, str]) -> Any:
        raise AssertionError("nothing is got")

    async def aclose(self) -> None:
        self.is_closed = True


def provider(
    host: Host, credentials: CredentialSource = KEYS, endpoint_url: str | None = None
) -> BedrockProvider:
    moment = datetime(2026, 11, 22, 12, tzinfo=UTC)
    clock = VirtualClock(moment)
    return BedrockProvider("aws", "eu-west-1", host, credentials, endpoint_url, clock=clock)


def refusing(status: int, name: str, message: str) -> Host:
    return Host(status, {"x-amzn-errortype": name}, json.dumps({"message": message}).encode())


async def test_a_call_is_signed_as_it_is_sent() -> None:
    host = Host(200, {}, BEDROCK_CONVERSE.encode_response(REPLY, asking()))
    request = asking()
    named = type(request)(PROFILE, request.messages)
    response = await provider(host).complete(named, CARD)
    (url, body, headers), = host.asked  # fmt: skip
    assert url == (
        "https://bedrock-runtime.eu-west-1.amazonaws.com/model/"
        "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabc"
        "/converse"
    )
    call = Outgoing("POST", url, body, {"content-type": "application/json"})
    keys = AwsKeys("AKIA" + "A" * 16, "secret", "token")
    assert headers == sign(call, keys, Scope("eu-west-1"), datetime(2026, 11, 22, 12, tzinfo=UTC))
    assert (response.response_id, response.model) == ("req-1", PROFILE)
    assert (response.parts, response.usage) == (REPLY.parts, REPLY.usage)
    assert host.answer.is_closed


async def test_a_stream_is_named_and_folds() -> None:
    encoder = BEDROCK_CONVERSE.event_encoder(asking())
    stream = b"".join([*map(encoder.encode, unfold(REPLY)), encoder.close()])
    pieces = [stream[at : at + 5] for at in range(0, len(stream), 5)]
    host = Host(200, {}, *pieces)
    events = [event async for event in provider(host).stream(asking(), CARD)]
    assert events[0] == StreamStart("req-1", "kimi-simulated")
    assert fold(events) == REPLY
    assert host.asked[0][0].endswith("/converse-stream")


async def test_a_left_stream_lets_go_of_the_host() -> None:
    encoder = BEDROCK_CONVERSE.event_encoder(asking())
    host = Host(200, {}, *map(encoder.encode, unfold(REPLY)))
    stream = provider(host).stream(asking(), CARD)
    await anext(stream)
    await stream.aclose()
    assert host.answer.is_closed


async def test_what_is_not_an_event_stream_is_named() -> None:
    host = Host(200, {}, b'{"output": {"message": "no stream"}}')
    with pytest.raises(RemoteProtocolError, match="not an event stream"):
        [event async for event in provider(host).stream(asking(), CARD)]
    assert host.answer.is_closed


ON_DEMAND = (
    "Invocation of model ID moonshotai.kimi-k3 with on-demand throughput isn\u2019t supported. "
    "Retry your request with the ID or ARN of an inference profile that contains this model."
)
EMPTY = "The content field in the Message object at messages.3 is empty."


@pytest.mark.parametrize(
    ("status", "name", "message", "kind", "remedy"),
    [
        (400, "ValidationException", ON_DEMAND, InvalidRequest, "inference profile: put"),
        (
            400,
            "ValidationException:http://internal.amazon.com/x",
            "The provided model doesn't support on-demand throughput.",
            InvalidRequest,
            "`global.`",
        ),
        (
            400,
            "ValidationException",
            "The provided model identifier is invalid.",
            InvalidRequest,
            "list-inference-profiles",
        ),
        (
            403,
            "AccessDeniedException",
            "You invoked an unsupported model or your request did not allow prompt caching.",
            InvalidRequest,
            "cache.kind",
        ),
        (
            400,
            "ValidationException",
            "This model doesn't support the cachePoint field",
            InvalidRequest,
            "cache.kind",
        ),
        (
            400,
            "ValidationException",
            "Malformed input request: #: extraneous key [cachePoint] is not permitted",
            InvalidRequest,
            "cache.kind",
        ),
        (
            400,
            "ValidationException",
            "Cache point cannot be inserted after reasoning block",
            InvalidRequest,
            "before the reasoning",
        ),
        (400, "ValidationException", EMPTY, InvalidRequest, "no empty message"),
        (
            400,
            "ValidationException",
            "data retention mode 'default' is not available for this model",
            InvalidRequest,
            "AWS account",
        ),
        (400, "ValidationException", "Input is too long for model.", ContextOverflow, "Shorten"),
        (
            403,
            "AccessDeniedException",
            "User: x is not authorized to perform: bedrock:InvokeModel",
            Unauthorized,
            "bedrock:InvokeModelWithResponseStream",
        ),
        (403, "ExpiredTokenException", "expired", Unauthorized, "expired"),
        (404, "ResourceNotFoundException", "gone", InvalidRequest, "gone"),
        (408, "ModelTimeoutException", "late", ProviderTimeout, "late"),
        (424, "ModelErrorException", "broke", Overloaded, "broke"),
        (429, "ThrottlingException", "Too many tokens", RateLimited, "Too many"),
        (429, "ModelNotReadyException", "cold", Overloaded, "cold"),
        (503, "ServiceUnavailableException", "busy", Overloaded, "busy"),
        (502, "", "", Overloaded, "no message"),
    ],
)
async def test_refusals(
    status: int, name: str, message: str, kind: type[ProviderError], remedy: str
) -> None:
    host = refusing(status, name, message)
    with pytest.raises(kind) as caught:
        await provider(host).complete(asking(), CARD)
    error = caught.value
    assert type(error) is kind
    assert remedy in error.message
    assert (error.provider, error.status, error.request_id) == ("aws", status, "req-1")
    assert error.code == (name.partition(":")[0] or None)
    assert host.answer.is_closed


async def test_what_converse_cannot_say_is_refused_before_it_is_sent() -> None:
    host = Host()
    call = Message("assistant", (ToolCall("has space", "read", "{}"),))
    with pytest.raises(InvalidRequest, match=r"aws cannot be asked this.*has space"):
        await provider(host).complete(asking("x", call), CARD)
    assert host.asked == []


async def test_tokens_are_counted_until_the_service_refuses() -> None:
    counting = Host(200, {}, b'{"inputTokens": 12}')
    assert await provider(counting).count_tokens(asking(), CARD) == 12
    assert counting.asked[0][0].endswith("/count-tokens")
    assert json.loads(counting.asked[0][1]).keys() == {"input"}

    refusing_host = refusing(400, "ValidationException", "not supported")
    asked = provider(refusing_host)
    assert await asked.count_tokens(asking(), CARD) is None
    assert await asked.count_tokens(asking(), CARD) is None
    assert len(refusing_host.asked) == 1


@pytest.mark.parametrize(
    ("address", "is_sent"),
    [
        (None, True),
        ("http://127.0.0.1:9", True),
        ("http://localhost:9/", True),
        ("http://[::1]:9", True),
        ("http://10.0.0.1", False),
        ("http://127.0.0.1.example.test", False),
    ],
)
async def test_a_bearer_key_is_never_sent_in_the_clear(address: str | None, is_sent: bool) -> None:
    host = Host(200, {}, BEDROCK_CONVERSE.encode_response(REPLY, asking()))
    bearer = FixedCredentials(BearerToken("bedrock-key"))
    asked = provider(host, bearer, address)
    if is_sent:
        await asked.complete(asking(), CARD)
        assert host.asked[0][2]["authorization"] == "Bearer bedrock-key"
        assert "//model" not in host.asked[0][0]
    else:
        with pytest.raises(Unauthorized, match="in the clear"):
            await asked.complete(asking(), CARD)
        assert host.asked == []


@pytest.mark.parametrize(
    ("region", "address"),
    [("", None), ("us east", None), ("a/../b", None), ("us-east-1", "ftp://x"), ("us-east-1", "x")],
)
def test_mistakes_in_the_configuration_are_named(region: str, address: str | None) -> None:
    with pytest.raises(ConfigError, match=r"providers\.aws\."):
        BedrockProvider("aws", region, Host(), KEYS, address)


class Refreshable:
    """Keys that run out when told to."""

    def __init__(self) -> None:
        self.is_due = False
        self.renewals = 0
        self.threads: set[str] = set()

    def refresh_needed(self) -> bool:
        return self.is_due

    def get_frozen_credentials(self) -> Any:
        self.threads.add(threading.current_thread().name)
        self.renewals += 1
        self.is_due = False
        return type(
            "Frozen", (), {"access_key": f"A{self.renewals}", "secret_key": "s", "token": ""}
        )


async def test_the_chain_is_asked_once_off_the_loop_and_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Refreshable()

    class Session:
        def __init__(self, profile: str | None) -> None: ...

        def get_credentials(self) -> Refreshable:
            return keys

    monkeypatch.delenv(BEARER_VARIABLE, raising=False)
    monkeypatch.setattr("botocore.session.Session", Session)
    source = BotocoreCredentials()
    burst = await asyncio.gather(*(source.current() for _ in range(5)))
    assert set(burst) == {AwsKeys("A1", "s")}
    keys.is_due = True
    assert await source.current() == AwsKeys("A2", "s")
    assert keys.renewals == 2
    assert threading.current_thread().name not in keys.threads


async def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAX")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    monkeypatch.setenv(BEARER_VARIABLE, " key\n")
    assert await BotocoreCredentials().current() == BearerToken("key")
    monkeypatch.delenv(BEARER_VARIABLE)
    assert await BotocoreCredentials().current() == AwsKeys("AKIAX", "s", "t")


async def test_no_credentials_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, profile: str | None) -> None: ...

        def get_credentials(self) -> None:
            return None

    monkeypatch.delenv(BEARER_VARIABLE, raising=False)
    monkeypatch.setattr("botocore.session.Session", Session)
    with pytest.raises(Unauthorized, match="aws configure") as caught:
        await provider(Host(), BotocoreCredentials()).complete(asking(), CARD)
    assert caught.value.provider == "aws"
    monkeypatch.undo()
    monkeypatch.delenv(BEARER_VARIABLE, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(KimiyaError, match="nobody"):
        await BotocoreCredentials("nobody").current()
    assert "secret" not in repr(BearerToken("secret"))
