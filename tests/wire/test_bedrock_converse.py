"""Converse as hosts and clients really send it: one table a kind of oddity."""

import json
from typing import Any

import pytest

from kimiya.core.events import (
    Finish,
    PartEnd,
    ReasoningDelta,
    StreamEvent,
    StreamStart,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from kimiya.core.exchange import NoChoice, Request, Response, Sampling, ToolSpec, Usage
from kimiya.core.messages import (
    Breakpoint,
    Image,
    Inline,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Url,
    Video,
    system,
    user,
)
from kimiya.errors import LocalProtocolError, Overloaded, RateLimited, RemoteProtocolError
from kimiya.wire.aws_eventstream import Frame, encode_frame
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE as DIALECT
from kimiya.wire.dialect import WireOptions

DONE = Finish("stop", "end_turn")


def decode(**fields: Any) -> Request:
    return DIALECT.decode_request(json.dumps({"messages": [], **fields}).encode(), model="m")


def encode(request: Request) -> dict[str, Any]:
    return json.loads(DIALECT.encode_request(request, WireOptions()).body)


def frame(kind: str, **fields: Any) -> bytes:
    headers = {":message-type": "event", ":event-type": kind, ":content-type": "application/json"}
    return encode_frame(Frame(headers, json.dumps({"p": "abcd", **fields}).encode()))


def delta(index: int, **fields: Any) -> bytes:
    return frame("contentBlockDelta", contentBlockIndex=index, delta=fields)


def call(index: int) -> bytes:
    start = {"toolUse": {"toolUseId": "a", "name": "f"}}
    return frame("contentBlockStart", contentBlockIndex=index, start=start)


def stream(*frames: bytes) -> list[StreamEvent]:
    decoder = DIALECT.event_decoder()
    return decoder.feed(b"".join(frames)) + decoder.close()


STOP = frame("messageStop", stopReason="end_turn")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        pytest.param(
            [
                frame("messageStart", role="assistant"), delta(0, reasoningContent={"text": "hm"}),
                delta(0, reasoningContent={"signature": "s"}),
                frame("contentBlockStop", contentBlockIndex=0), delta(1, text="hi"), STOP,
                frame("metadata", usage={"inputTokens": 3, "outputTokens": 1, "totalTokens": 4}),
            ],
            [
                StreamStart(), ReasoningDelta(0, "hm"), ReasoningDelta(0, signature="s"),
                PartEnd(0), TextDelta(1, "hi"), PartEnd(1), UsageReport(Usage(3, 1)), DONE,
            ],
            id="usage after the stop",
        ),
        pytest.param([delta(0, text="hi"), STOP], [TextDelta(0, "hi"), PartEnd(0), DONE],
                     id="no metadata"),
        pytest.param(
            [call(0), delta(0, toolUse={"input": ""}), STOP],
            [ToolCallDelta(0, "a", "f"), ToolCallDelta(0, arguments="{}"), PartEnd(0), DONE],
            id="a call without arguments",
        ),
        pytest.param(
            [delta(0, text="a"), delta(0, toolUse={"input": "{}"}), STOP],
            [TextDelta(0, "a"), PartEnd(0), ToolCallDelta(1, arguments="{}"), PartEnd(1), DONE],
            id="a delta of another kind",
        ),
        pytest.param([frame("newEvent", x=1), STOP], [DONE], id="an event yet to be invented"),
    ],
)  # fmt: skip
def test_streams_of_hosts(frames: list[bytes], expected: list[StreamEvent]) -> None:
    assert stream(*frames) == expected


def test_what_events_cannot_carry_is_kept() -> None:
    citation = {"citation": {"title": "t"}}
    metadata = frame("metadata", usage={}, trace={"x": 1}, metrics={"latencyMs": 5})
    *_, finish = stream(delta(0, text="a"), delta(0, **citation), STOP, metadata)
    assert isinstance(finish, Finish)
    assert finish.extras == {
        "trace": {"x": 1},
        "metrics": {"latencyMs": 5},
        "unstreamed_blocks": [{"delta": citation, "contentBlockIndex": 0}],
    }


def test_metadata_alone_is_no_end() -> None:
    with pytest.raises(RemoteProtocolError, match="before the model said"):
        stream(delta(0, text="a"), frame("metadata", usage={}))


@pytest.mark.parametrize(
    ("headers", "payload", "kind"),
    [
        (
            {":message-type": "exception", ":exception-type": "throttlingException"},
            b'{"message": "slow down"}',
            RateLimited,
        ),
        (
            {":message-type": "error", ":error-code": "InternalServerException",
             ":error-message": "slow down"},
            b"",
            Overloaded,
        ),
    ],
)  # fmt: skip
def test_exceptions_inside_a_stream(
    headers: dict[str, str], payload: bytes, kind: type[Exception]
) -> None:
    decoder = DIALECT.event_decoder()
    data = delta(0, text="a") + encode_frame(Frame(headers, payload))
    assert decoder.feed(data) == [TextDelta(0, "a")]
    with pytest.raises(kind, match="slow down"):
        decoder.feed(b"")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"inputTokens": 1, "outputTokens": 2, "totalTokens": 10, "cacheReadInputTokens": 4,
             "cacheWriteInputTokens": 3},
            Usage(8, 2, 4, 3),
        ),
        (
            {"inputTokens": 8, "outputTokens": 2, "totalTokens": 10, "cacheReadInputTokens": 4,
             "cacheWriteInputTokens": 3},
            Usage(8, 2, 4, 3),
        ),
        ({"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 4}, Usage(5, 2, 4)),
        ({"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}, None),
    ],
)  # fmt: skip
def test_usage_additive_or_inclusive(usage: dict[str, int], expected: Usage | None) -> None:
    *_, last = stream(STOP, frame("metadata", usage=usage))
    events = stream(STOP, frame("metadata", usage=usage))
    reports = [event.usage for event in events if isinstance(event, UsageReport)]
    assert reports == ([] if expected is None else [expected])
    assert last == DONE


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"toolResult": {"toolUseId": "a"}}]}]},
            "messages[0].content[0].toolResult.content",
        ),
        ({"system": [3]}, "system[0]"),
        ({"toolConfig": {"tools": [{"toolSpec": {}}]}}, "toolConfig.tools[0].toolSpec.name"),
        ({"toolConfig": {"toolChoice": {"some": {}}}}, "toolConfig.toolChoice"),
        ({"inferenceConfig": {"maxTokens": 1.5}}, "inferenceConfig.maxTokens"),
    ],
)
def test_wrong_bodies_name_the_field(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        decode(**fields)
    assert caught.value.path == path


def asking(*parts: Any, role: Any = "user") -> Request:
    return Request("m", (Message(role, parts),))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (asking(ToolCall("a b", "f", "{}"), role="assistant"), "call ids"),
        (asking(ToolCall("a" * 65, "f", "{}"), role="assistant"), "call ids"),
        (asking(ToolResult(""), role="tool"), "call ids"),
        (asking(ToolCall("a", "f", "{"), role="assistant"), "not a JSON object"),
        (asking(Image(Url("https://x"))), "send it inline"),
        (asking(Image(Inline("image/tiff", "eA=="))), "image/tiff"),
        (asking(Video(Url("s3://bucket/film"))), "format cannot be told"),
        (asking(Opaque("anthropic_messages", {})), "only there"),
        (asking(ToolResult("a", (Text("x", Breakpoint()),)), role="tool"), "mark the result"),
        (Request("m", (), tool_choice=NoChoice()), "leave the tools out"),
        (Request("m", (), tools=(ToolSpec("f"),), parallel_tool_calls=False), "parallel"),
        (Request("m", (), sampling=Sampling(seed=1)), "no such setting"),
        (Request("m", (), user='{"id"}'), "metadata of at most"),
        (Request("m", (user("x"), Message("developer", (Text("y"),)))), "no developer"),
    ],
)
def test_what_cannot_be_said_raises(request_: Request, words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        DIALECT.encode_request(request_, WireOptions())


@pytest.mark.parametrize("call_id", ["functions.get_weather:0", "call_1", "a" * 64])
def test_call_ids_that_fit(call_id: str) -> None:
    wire = encode(asking(ToolCall(call_id, "f", "{}"), role="assistant"))
    assert wire["messages"][0]["content"][0]["toolUse"]["toolUseId"] == call_id


POINT = {"cachePoint": {"type": "default"}}


def test_marks_stand_after_what_they_mark() -> None:
    request = Request(
        "m",
        (
            Message("system", (Text("s", Breakpoint("1h")),)),
            Message("tool", (ToolResult("a", (Text("x"),), cache=Breakpoint()),)),
            Message("user", (Text("u", Breakpoint()),)),
        ),
        tools=(ToolSpec("f", cache=Breakpoint()), ToolSpec("g")),
    )
    wire = encode(request)
    assert wire["system"] == [{"text": "s"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert [next(iter(block)) for block in wire["messages"][0]["content"]] == [
        "toolResult", "cachePoint", "text", "cachePoint",
    ]  # fmt: skip
    assert [next(iter(tool)) for tool in wire["toolConfig"]["tools"]] == [
        "toolSpec", "cachePoint", "toolSpec",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [POINT, {"text": "x"}, POINT, POINT]}]},
        {"messages": [{"role": "assistant", "content": [
            {"reasoningContent": {"reasoningText": {"text": "x"}}}, POINT,
            {"toolUse": {"toolUseId": "a", "name": "f", "input": {}, "type": "server_tool_use"}},
        ]}]},
        {"messages": [{"role": "user", "content": [
            {"document": {"format": "pdf", "name": "d", "source": {"bytes": "eA=="}}}, POINT,
            {"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/v",
                                                                  "bucketOwner": "1"}}}},
            {"audio": {"format": "mp3", "source": {"bytes": "eA=="}}},
            {"image": {"format": "tiff", "source": {"bytes": "eA=="}}},
        ]}]},
        {"messages": [{"role": "user", "content": [{"toolResult": {"toolUseId": "a", "content": [
            {"json": {"x": [1, None]}}, {"searchResult": {"source": "s"}}], "type": "t"}}]}]},
        {"system": [{"guardContent": {"text": {"text": "x"}}}]},
        {"toolConfig": {"tools": [POINT, {"systemTool": {"name": "nova_grounding"}}], "new": 1}},
        {"additionalModelRequestFields": {"thinking": {"type": "enabled", "keep": 1}, "top_k": 2}},
        {"additionalModelRequestFields": {"thinking": "odd", "top_k": "x"}},
        {"additionalModelRequestFields": "text"},
        {"additionalModelResponseFieldPaths": ["/x"], "guardrailConfig": {"trace": "enabled"}},
        {"inferenceConfig": {"topK": 3}, "performanceConfig": {"latency": "optimized"}},
        {"requestMetadata": {"user_id": "u", "team": "a"}, "serviceTier": {"type": "flex"}},
        {"outputConfig": {"effort": "high", "textFormat": {"type": "json_schema", "structure": {
            "jsonSchema": {"schema": '{"type":"object"}', "name": "n", "description": "d"}}}}},
        {"outputConfig": {"effort": "odd", "textFormat": {"type": "new"}}},
    ],
)  # fmt: skip
def test_what_is_not_known_comes_back_verbatim(fields: dict[str, Any]) -> None:
    assert encode(decode(**fields)) == {"messages": [], **fields}


def test_broken_json_of_a_schema_is_named() -> None:
    schema = {"type": "json_schema", "structure": {"jsonSchema": {"schema": "{"}}}
    with pytest.raises(LocalProtocolError, match=r"jsonSchema\.schema: is not JSON"):
        decode(outputConfig={"textFormat": schema})


@pytest.mark.parametrize("arguments", ['{"cut": ', "[1]", '"x"', "null", "text", "\\"])
def test_broken_arguments_of_a_reply_are_shown_as_they_are(arguments: str) -> None:
    reply = Response("", "", (ToolCall("a", "f", arguments),), "tool_calls", "tool_use")
    body = DIALECT.encode_response(reply, Request("m", ()))
    assert json.loads(body)["output"]["message"]["content"][0]["toolUse"]["input"] == arguments
    assert DIALECT.decode_response(body) == reply


def test_the_model_is_read_from_the_path_escaped_or_not() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.x"
    for model in (arn, arn.replace(":", "%3A").replace("/", "%2F")):
        assert DIALECT.decode_request(b"{}", model=model, stream=True).model == arn
    with pytest.raises(LocalProtocolError, match="in the path"):
        DIALECT.decode_request(b"{}")


def test_a_late_system_message_is_said_in_place() -> None:
    request = Request("m", (user("x"), system("y")), dialect="bedrock_converse")
    wire = encode(request)
    assert [message["role"] for message in wire["messages"]] == ["user", "system"]
    assert decode(**wire).messages == request.messages


def test_signed_reasoning_travels() -> None:
    wire = encode(asking(Reasoning("x", "s"), role="assistant"))["messages"][0]["content"]
    assert wire == [{"reasoningContent": {"reasoningText": {"text": "x", "signature": "s"}}}]


def test_the_stop_sequence_stands_where_the_service_puts_it() -> None:
    reply = Response("", "", (Text("x"),), "stop_sequence", "stop_sequence", "END")
    body = DIALECT.encode_response(reply, Request("m", ()))
    assert json.loads(body)["additionalModelResponseFields"] == {"stop_sequence": "END"}
    assert DIALECT.decode_response(body) == reply
    encoder = DIALECT.event_encoder(Request("m", ()))
    finish = Finish("stop_sequence", "stop_sequence", "END")
    *_, read = stream(encoder.encode(finish), encoder.close())
    assert read == finish


def test_usage_that_was_cut_off_is_missed() -> None:
    metadata = frame("metadata", usage={"inputTokens": 3, "outputTokens": 1})
    with pytest.raises(RemoteProtocolError, match="in the middle of a frame"):
        stream(STOP, metadata[:-1])
