"""boto3 reads what the dialect writes, and the dialect what boto3 sends."""

from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from kimiya.core.exchange import AutoChoice, Request, Response, Usage
from kimiya.core.fold import unfold
from kimiya.core.messages import Breakpoint, Image, Inline, Reasoning, Text, ToolCall, ToolResult
from kimiya.errors import (
    ContextOverflow,
    KimiyaError,
    Overloaded,
    ProviderTimeout,
    RateLimited,
    RemoteProtocolError,
    TamingExhausted,
    UnknownModel,
)
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE as DIALECT
from kimiya.wire.dialect import WireOptions

ASKED = Request("moonshotai.kimi-k2.5", ())
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
HELLO = [{"role": "user", "content": [{"text": "hello"}]}]
REPLY = Response(
    response_id="",
    model="",
    parts=(
        Reasoning("Let me look.", signature="c2ln"),
        Text("I will read it."),
        ToolCall("functions.read:0", "read", '{"path": "a b"}'),
        ToolCall("functions.now:1", "now", ""),
        Reasoning("", redacted="cmVk"),
    ),
    finish_reason="tool_calls",
    raw_finish_reason="tool_use",
    usage=Usage(100, 20, cache_read_tokens=60, cache_write_tokens=30, cache_write_1h_tokens=10),
)


class Raw:
    """The body of an answer, in pieces."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> list[bytes]:
        return [self._body[at : at + 7] for at in range(0, len(self._body), 7)]

    def read(self, *_: Any) -> bytes:
        return self._body


def host(body: bytes, status: int = 200, sent: list[Any] | None = None, **headers: str) -> Any:
    """A boto3 client before a host with one answer; ``sent`` gathers requests."""
    client = boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        aws_access_key_id="AKIA" + "A" * 16,
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )

    def answer(request: Any, **_: Any) -> AWSResponse:
        if sent is not None:
            sent.append(request)
        lower = {name.lower(): value for name, value in headers.items()}
        return AWSResponse(request.url, status, lower, Raw(body))

    client.meta.events.register("before-send.bedrock-runtime", answer)
    return client


def encode_stream(*tail: bytes) -> bytes:
    encoder = DIALECT.event_encoder(ASKED)
    pieces = [encoder.ping() + encoder.encode(event) for event in unfold(REPLY)]
    return b"".join([*pieces, encoder.note({"route": "bedrock:kimi"}), encoder.close(), *tail])


def test_whole() -> None:
    reply = host(DIALECT.encode_response(REPLY, ASKED)).converse(modelId="m", messages=HELLO)
    thinking, text, read, now, redacted = reply["output"]["message"]["content"]
    assert thinking["reasoningContent"]["reasoningText"]["signature"] == "c2ln"
    assert text == {"text": "I will read it."}
    assert read["toolUse"] == {
        "toolUseId": "functions.read:0", "name": "read", "input": {"path": "a b"},
    }  # fmt: skip
    assert now["toolUse"]["input"] == {}
    assert redacted["reasoningContent"]["redactedContent"] == b"red"
    assert reply["stopReason"] == "tool_use"
    assert reply["usage"] == {
        "inputTokens": 10,
        "outputTokens": 20,
        "totalTokens": 120,
        "cacheReadInputTokens": 60,
        "cacheWriteInputTokens": 30,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 10}, {"ttl": "5m", "inputTokens": 20}],
    }


def test_streamed_and_what_boto3_does_with_events_it_does_not_know() -> None:
    reply = host(encode_stream()).converse_stream(modelId="m", messages=HELLO)
    events = list(reply["stream"])
    kinds = [next(iter(event)) for event in events]
    assert kinds[0] == "messageStart"
    assert kinds[-2:] == ["messageStop", "metadata"]
    assert set(kinds) == {
        "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop",
        "messageStop", "metadata",
    }  # fmt: skip
    said: dict[int, dict[str, Any]] = {}
    for event in events:
        if "contentBlockDelta" in event:
            block = said.setdefault(event["contentBlockDelta"]["contentBlockIndex"], {})
            for kind, value in event["contentBlockDelta"]["delta"].items():
                for name, piece in (value if isinstance(value, dict) else {"": value}).items():
                    block[kind + name] = block.get(kind + name, type(piece)()) + piece
    assert said == {
        0: {"reasoningContenttext": "Let me look.", "reasoningContentsignature": "c2ln"},
        1: {"text": "I will read it."},
        2: {"toolUseinput": '{"path": "a b"}'},
        3: {"toolUseinput": "{}"},
        4: {"reasoningContentredactedContent": b"red"},
    }
    assert events[-1]["metadata"]["usage"]["totalTokens"] == 120


def test_an_error_inside_a_stream_is_raised() -> None:
    encoder = DIALECT.event_encoder(ASKED)
    stream = encoder.encode(unfold(REPLY)[0]) + encoder.error(RateLimited("slow down"))
    reply = host(stream).converse_stream(modelId="m", messages=HELLO)
    with pytest.raises(EventStreamError, match=r"throttlingException.*slow down"):
        list(reply["stream"])
    decoder = DIALECT.event_decoder()
    assert len(decoder.feed(stream)) == 1
    with pytest.raises(RateLimited, match="slow down"):
        decoder.close()


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (RateLimited("slow"), 429, "ThrottlingException"),
        (Overloaded("full"), 503, "ServiceUnavailableException"),
        (UnknownModel("kimmi"), 404, "ResourceNotFoundException"),
        (ProviderTimeout("late"), 408, "ModelTimeoutException"),
        (ContextOverflow("9 > 8"), 400, "ValidationException"),
        (RemoteProtocolError("cut"), 503, "ServiceUnavailableException"),
        (TamingExhausted("hopeless"), 424, "ModelErrorException"),
        (KimiyaError("broken"), 500, "InternalServerException"),
    ],
)
def test_errors(error: KimiyaError, status: int, name: str) -> None:
    wire = DIALECT.encode_error(error)
    assert wire.status == status
    with pytest.raises(ClientError) as caught:
        host(wire.body, wire.status, **wire.headers).converse(modelId="m", messages=HELLO)
    assert caught.value.response["Error"] == {"Code": name, "Message": error.message}


def test_a_conversation_of_boto3_is_read() -> None:
    sent: list[Any] = []
    host(DIALECT.encode_response(REPLY, ASKED), sent=sent).converse(
        modelId=PROFILE,
        system=[{"text": "Be brief."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        messages=[
            {"role": "user", "content": [
                {"text": "look"}, {"image": {"format": "png", "source": {"bytes": b"png"}}},
            ]},
            {"role": "assistant", "content": [
                {"toolUse": {"toolUseId": "functions.read:0", "name": "read",
                             "input": {"path": "a b"}}},
            ]},
            {"role": "user", "content": [
                {"toolResult": {"toolUseId": "functions.read:0", "status": "error",
                                "content": [{"json": {"why": "gone"}}]}},
                {"cachePoint": {"type": "default"}},
            ]},
        ],
        toolConfig={
            "tools": [{"toolSpec": {"name": "read", "inputSchema": {"json": {"type": "object"}}}}],
            "toolChoice": {"auto": {}},
        },
        inferenceConfig={"maxTokens": 9, "temperature": 0.5},
        additionalModelRequestFields={"thinking": {"type": "enabled", "budget_tokens": 2048},
                                      "top_k": 3, "other": [1]},
    )  # fmt: skip
    path = sent[0].url.partition("amazonaws.com")[2]
    _, _, model, operation = path.split("/")
    read = DIALECT.decode_request(sent[0].body, model=model, stream=False)
    assert (read.model, operation) == (PROFILE, "converse")
    system, user, assistant, tool = read.messages
    assert system.parts == (Text("Be brief.", Breakpoint("1h")),)
    assert user.parts == (Text("look"), Image(Inline("image/png", "cG5n")))
    assert assistant.parts == (ToolCall("functions.read:0", "read", '{"path": "a b"}'),)
    (result,) = tool.tool_results
    assert isinstance(result, ToolResult)
    assert (result.is_error, result.cache) == (True, Breakpoint())
    assert result.content == (Text('{"why":"gone"}', extras={"json": True}),)
    assert read.tool_choice == AutoChoice()
    assert (read.sampling.max_output_tokens, read.sampling.top_k) == (9, 3)
    assert (read.thinking.enabled, read.thinking.budget_tokens) == (True, 2048)
    assert read.extras == {"additionalModelRequestFields": {"other": [1]}}
    again = DIALECT.encode_request(read, WireOptions())
    assert again.path == path
    assert DIALECT.decode_request(again.body, model=model, stream=False) == read
