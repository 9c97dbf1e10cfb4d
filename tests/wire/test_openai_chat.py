"""Chat Completions as real hosts and clients speak it, with all their liberties."""

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from kimiya.core.events import (
    Finish,
    ReasoningDelta,
    StreamEvent,
    StreamStart,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from kimiya.core.exchange import Request, Response, Thinking, ToolSpec, Usage
from kimiya.core.fold import fold, unfold
from kimiya.core.messages import Message, Reasoning, Text, ToolCall, ToolResult, user
from kimiya.errors import (
    BudgetExceeded,
    ContextOverflow,
    InvalidRequest,
    KimiyaError,
    LocalProtocolError,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RemoteProtocolError,
    TamingExhausted,
    Unauthorized,
    UnknownModel,
)
from kimiya.wire.dialect import WireOptions
from kimiya.wire.openai_chat import OPENAI_CHAT, OpenAiChat

ASKED = Request("m", (user("hi"),), stream=True, dialect="openai_chat")

REPLY = Response(
    "id-1",
    "kimi",
    (
        Reasoning("hm"),
        Text("so"),
        ToolCall("functions.f:0", "f", '{"a": 1}'),
        ToolCall("b", "g", ""),
    ),
    "tool_calls",
    "tool_calls",
    usage=Usage(100, 20, cache_read_tokens=60, cache_write_tokens=10, reasoning_tokens=5),
    created=7,
)


def stream(*chunks: Any, done: bool = True) -> list[StreamEvent]:
    decoder = OPENAI_CHAT.event_decoder()
    events: list[StreamEvent] = []
    for chunk in chunks:
        data = chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()
        events += decoder.feed(b"data: " + data + b"\n\n")
    if done:
        events += decoder.feed(b"data: [DONE]\n\n")
    return events + decoder.close()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "i", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def call(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return delta(tool_calls=[{**fields, "function": {"name": name, "arguments": arguments}}])


def test_the_sdk_reads_a_whole_reply() -> None:
    body = OPENAI_CHAT.encode_response(REPLY, ASKED)
    read = ChatCompletion.model_validate_json(body)
    message = read.choices[0].message
    assert message.content == "so"
    assert message.model_extra == {"reasoning_content": "hm"}
    assert [c.id for c in message.tool_calls or []] == ["functions.f:0", "b"]
    assert read.choices[0].finish_reason == "tool_calls"
    assert read.usage is not None
    assert read.usage.total_tokens == 120
    assert read.usage.prompt_tokens_details is not None
    assert read.usage.prompt_tokens_details.cached_tokens == 60


def test_the_sdk_gathers_a_stream_into_the_same() -> None:
    encoder = OPENAI_CHAT.event_encoder(ASKED)
    body = b"".join([*map(encoder.encode, unfold(REPLY)), encoder.close()])
    frames = body.decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    chunks = [
        ChatCompletionChunk.model_validate_json(f.removeprefix("data: ")) for f in frames[:-2]
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    state = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(chunk)
    whole = state.get_final_completion()
    message = whole.choices[0].message
    assert message.content == "so"
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []] == [
        ("functions.f:0", "f", '{"a": 1}'),
        ("b", "g", ""),
    ]
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 100


def test_usage_is_streamed_only_to_those_who_ask() -> None:
    silent = Request("m", (user("hi"),), stream=True, stream_usage=False, dialect="openai_chat")
    encoder = OPENAI_CHAT.event_encoder(silent)
    body = b"".join([*map(encoder.encode, unfold(REPLY)), encoder.close()])
    assert b'"usage"' not in body
    assert body.endswith(b"data: [DONE]\n\n")


def test_the_stop_sequence_is_streamed() -> None:
    events: list[StreamEvent] = [StreamStart("i"), Finish("stop_sequence", "stop", "END")]
    encoder = OPENAI_CHAT.event_encoder(ASKED)
    decoder = OPENAI_CHAT.event_decoder()
    body = b"".join([*map(encoder.encode, events), encoder.close()])
    assert decoder.feed(body) == events


def test_remarks_pings_and_errors_in_a_stream() -> None:
    encoder = OPENAI_CHAT.event_encoder(ASKED)
    assert encoder.note({"route": "x"}) == b": kimiya route=x\n\n"
    assert encoder.ping().startswith(b":")
    error = json.loads(encoder.error(RateLimited("slow")).removeprefix(b"data: "))
    assert error["error"]["code"] == "rate_limit_exceeded"


STREAMS = [
    pytest.param(
        [delta(role="assistant"), delta(), delta(content=""), delta(content="a"), delta("stop")],
        [StreamStart("i"), TextDelta(1, "a"), Finish("stop", "stop")],
        id="empty deltas",
    ),
    pytest.param(
        [delta(content="a")],
        [StreamStart("i"), TextDelta(1, "a"), Finish("unknown")],
        id="no finish reason but done",
    ),
    pytest.param(
        [delta("stop", content="a"), delta(content="b")],
        [StreamStart("i"), TextDelta(1, "a"), TextDelta(1, "b"), Finish("stop", "stop")],
        id="content behind the finish reason",
    ),
    pytest.param(
        [delta(reasoning_content="r", reasoning="r"), delta(reasoning="s"), delta("stop")],
        [StreamStart("i"), ReasoningDelta(0, "r"), ReasoningDelta(0, "s"), Finish("stop", "stop")],
        id="one of two reasoning fields",
    ),
    pytest.param(
        [
            delta(reasoning="t", reasoning_details=[{"type": "reasoning.text", "text": "t"}]),
            delta(reasoning_details=[{"type": "reasoning.text", "signature": "s"}]),
            delta("stop"),
        ],
        [
            StreamStart("i"),
            ReasoningDelta(0, "t"),
            ReasoningDelta(0, "", "s"),
            Finish("stop", "stop"),
        ],
        id="reasoning details",
    ),
    pytest.param(
        [
            call("f", "", index=0, id="a"),
            call(None, "{}", index=0),
            call("g", "{}", index=1, id="b"),
            delta("tool_calls"),
        ],
        [
            StreamStart("i"),
            ToolCallDelta(2, "a", "f"),
            ToolCallDelta(2, arguments="{}"),
            ToolCallDelta(3, "b", "g", "{}"),
            Finish("tool_calls", "tool_calls"),
        ],
        id="calls",
    ),
    pytest.param(
        [
            call("f", "{}", index=0, id="a"),
            call("g", "{}", index=0, id="b"),
            call(None, " ", index=0),
            delta("tool_calls"),
        ],
        [
            StreamStart("i"),
            ToolCallDelta(2, "a", "f", "{}"),
            ToolCallDelta(3, "b", "g", "{}"),
            ToolCallDelta(3, arguments=" "),
            Finish("tool_calls", "tool_calls"),
        ],
        id="every call has index 0",
    ),
    pytest.param(
        [
            call("f", "{", index=None, id="a"),
            call(None, "}"),
            call("g", "{}"),
            call(None, "!", id="a"),
            delta("tool_calls"),
        ],
        [
            StreamStart("i"),
            ToolCallDelta(2, "a", "f", "{"),
            ToolCallDelta(2, arguments="}"),
            ToolCallDelta(3, "", "g", "{}"),
            ToolCallDelta(2, "a", "", "!"),
            Finish("tool_calls", "tool_calls"),
        ],
        id="no index",
    ),
    pytest.param(
        [
            call("g", "{}", index=1, id="b"),
            call("f", "{}", index=0, id="a"),
            delta("tool_calls"),
        ],
        [
            StreamStart("i"),
            ToolCallDelta(3, "b", "g", "{}"),
            ToolCallDelta(2, "a", "f", "{}"),
            Finish("tool_calls", "tool_calls"),
        ],
        id="calls out of order",
    ),
    pytest.param(
        [call("f", {"a": 1}, index=0, id="a"), delta("function_call")],
        [
            StreamStart("i"),
            ToolCallDelta(2, "a", "f", '{"a":1}'),
            Finish("tool_calls", "function_call"),
        ],
        id="arguments as an object, legacy finish",
    ),
    pytest.param(
        [{"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 3}}]}],
        [StreamStart(), UsageReport(Usage(3)), Finish("stop", "stop")],
        id="usage in the choice",
    ),
    pytest.param(
        [
            {"id": "", "choices": [], "prompt_filter_results": []},
            delta("stop", content="a"),
            {"id": "i", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        ],
        [
            StreamStart("i"),
            TextDelta(1, "a"),
            UsageReport(Usage(3, 1)),
            Finish("stop", "stop"),
        ],
        id="a filter's chunk before the start, usage behind the end",
    ),
    pytest.param(
        [{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop", "stop_reason": "END"}]}],
        [StreamStart(), TextDelta(1, "a"), Finish("stop_sequence", "stop", "END")],
        id="which stop sequence",
    ),
    pytest.param(
        [delta(refusal="no"), delta("stop")],
        [StreamStart("i"), TextDelta(1, "no"), Finish("refusal", "stop")],
        id="refusal",
    ),
]


@pytest.mark.parametrize(("chunks", "events"), STREAMS)
def test_streams_of_hosts(chunks: list[Any], events: list[StreamEvent]) -> None:
    assert stream(*chunks) == events


def test_a_finish_reason_is_enough_without_done() -> None:
    assert stream(delta("stop", content="a"), done=False)[-1] == Finish("stop", "stop")


@pytest.mark.parametrize(
    "chunks",
    [[], [delta(content="a")], [b'{"choices": ['], [b"7"], [{"choices": 1}], [delta(content=1)]],
    ids=repr,
)
def test_a_cut_or_broken_stream_is_never_whole(chunks: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        stream(*chunks, done=False)


def test_logprobs_survive_streaming() -> None:
    one = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [1]}}], "id": "i"}
    two = {"choices": [{"delta": {}, "finish_reason": "stop", "logprobs": {"content": [2]}}]}
    response = fold(stream({**one, "system_fingerprint": "fp"}, two))
    assert response.extras == {
        "openai_chat": {"system_fingerprint": "fp", "choice": {"logprobs": {"content": [1, 2]}}}
    }
    written = json.loads(OPENAI_CHAT.encode_response(response, ASKED))
    assert written["choices"][0]["logprobs"] == {"content": [1, 2]}
    assert written["system_fingerprint"] == "fp"


USAGES = [
    ({"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 4}, Usage(9, 2, 4)),
    (
        {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}, "cached_tokens": 4},
        Usage(9, 0, 4),
    ),
    ({"prompt_tokens": 9, "cached_tokens": 4, "cache_write_tokens": 3}, Usage(9, 0, 4, 3)),
    (
        {"prompt_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 1}},
        Usage(9, reasoning_tokens=1),
    ),
    ({"prompt_tokens": 2, "cached_tokens": 10}, Usage(12, 0, 10)),
    ({"prompt_tokens": 9, "prompt_tokens_details": None}, Usage(9)),
    ({}, None),
    (None, None),
]


@pytest.mark.parametrize(("sent", "usage"), USAGES)
def test_usage_includes_the_cache(sent: Any, usage: Usage | None) -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": sent}
    assert OPENAI_CHAT.decode_response(json.dumps(body).encode()).usage == usage


def test_a_reply_without_id_or_name_is_left_to_taming() -> None:
    calls = [{"function": {"arguments": None}}, {"index": 1, "id": "b", "function": {"name": "g"}}]
    body = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": ""}]}
    read = OPENAI_CHAT.decode_response(json.dumps(body).encode())
    assert read.parts == (ToolCall("", "", ""), ToolCall("b", "g", ""))
    assert read.finish_reason == "unknown"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {}}, {"message": {}}]}',
        b'{"choices": [{"message": {"content": [{"type": "image"}]}}]}',
    ],
)
def test_a_reply_that_is_none(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        OPENAI_CHAT.decode_response(body)
    assert caught.value.frame == body


def decode(**fields: Any) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return OPENAI_CHAT.decode_request(json.dumps(body).encode())


SWITCHES = [
    ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
    ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Thinking(True, budget_tokens=9)),
    ({"thinking": True}, Thinking(enabled=True)),
    ({"chat_template_kwargs": {"thinking": False}}, Thinking(enabled=False)),
    ({"reasoning_effort": "low"}, Thinking(effort="low")),
]


@pytest.mark.parametrize(("fields", "thinking"), SWITCHES)
def test_thinking_is_read_in_every_form(fields: Any, thinking: Thinking) -> None:
    assert decode(**fields).thinking == thinking


def test_unknown_keys_beside_known_ones_come_back() -> None:
    fields: dict[str, Any] = {
        "thinking": {"type": "enabled", "keep": "all"},
        "chat_template_kwargs": {"preserve_thinking": True},
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "stream": True,
        "response_format": {"type": "structural_tag", "x": 1},
    }
    again = json.loads(OPENAI_CHAT.encode_request(decode(**fields), WireOptions()).body)
    assert {key: again[key] for key in fields} == fields


def test_a_switch_adapt_put_into_extras_is_written() -> None:
    request = Request(
        "m",
        (user("x"),),
        dialect="openai_chat",
        extras={"chat_template_kwargs": {"thinking": False}},
    )
    sent = json.loads(OPENAI_CHAT.encode_request(request, WireOptions()).body)
    assert sent["chat_template_kwargs"] == {"thinking": False}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_details"])
def test_reasoning_goes_where_the_host_reads_it(field: str) -> None:
    request = Request("m", (Message("assistant", (Reasoning("hm"), Text("a"))),))
    options = WireOptions(reasoning_field=field, max_tokens_field="max_completion_tokens")
    sent = json.loads(OPENAI_CHAT.encode_request(request, options).body)["messages"][0]
    assert set(sent) == {"role", "content", field}
    body = json.dumps({"model": "m", "messages": [sent]}).encode()
    assert OPENAI_CHAT.decode_request(body).messages[0].reasoning == "hm"


def test_signatures_travel_in_details() -> None:
    parts = (Reasoning("a", signature="s"), Reasoning(redacted="zz"), Text("t"))
    request = Request("m", (Message("assistant", parts),), dialect="openai_chat")
    options = WireOptions(reasoning_field="reasoning_details")
    assert OPENAI_CHAT.decode_request(OPENAI_CHAT.encode_request(request, options).body) == request


def test_results_of_one_round_share_a_message() -> None:
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [], "refusal": None},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": None, "name": "g"},
        {"role": "user", "content": "x"},
    ]
    assert decode(messages=messages).messages == (
        Message("assistant", ()),
        Message("tool", (ToolResult("a", (Text("1"),)), ToolResult("b", name="g"))),
        user("x"),
    )


def test_a_tool_of_the_hosts_own_comes_back_as_it_was() -> None:
    search = {"type": "builtin_function", "function": {"name": "$web_search"}}
    call_ = {"id": "c", "type": "builtin_function"}
    call_ |= {"function": {"name": "$web_search", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call_]}
    request = decode(tools=[search], messages=[said])
    assert request.tools == (ToolSpec("$web_search", kind="builtin_function", extras=search),)
    again = json.loads(OPENAI_CHAT.encode_request(request, WireOptions()).body)
    assert again["tools"] == [search]
    assert again["messages"] == [said]
    reply = Response("i", "m", (ToolCall("c", "$web_search", "{}"),), "tool_calls")
    shown = json.loads(OPENAI_CHAT.encode_response(reply, request))
    assert shown["choices"][0]["message"]["tool_calls"] == [call_]


ERRORS = [
    (
        400,
        {"error": {"message": "This model's maximum context length is 8 tokens"}},
        ContextOverflow,
    ),
    (400, {"error": {"message": "Your request exceeded model token limit: 9"}}, ContextOverflow),
    (
        400,
        {"object": "error", "message": "The prompt is longer than the model's context length"},
        ContextOverflow,
    ),
    (400, {"error": {"code": "context_length_exceeded", "message": "x"}}, ContextOverflow),
    (400, {"error": {"message": "thinking is enabled but ..."}}, InvalidRequest),
    (400, {"detail": [{"msg": "bad"}]}, InvalidRequest),
    (404, {"error": {"type": "resource_not_found_error", "message": "x"}}, InvalidRequest),
    (401, {"error": {"type": "invalid_authentication_error"}}, Unauthorized),
    (402, {}, Unauthorized),
    (403, "forbidden", Unauthorized),
    (408, {}, ProviderTimeout),
    (429, {"error": {"type": "rate_limit_reached_error"}}, RateLimited),
    (429, {"error": {"type": "engine_overloaded_error"}}, Overloaded),
    (429, {"error": "context window is not the matter"}, RateLimited),
    (500, {"error": {"type": "invalid_request_error", "message": "x"}}, Overloaded),
    (503, None, Overloaded),
    (504, [], ProviderTimeout),
    (529, {"error": {"code": 529}}, Overloaded),
]


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
def test_what_a_hosts_error_means(status: int, body: Any, kind: type[ProviderError]) -> None:
    headers = {"retry-after": "3", "x-request-id": "r"}
    error = OPENAI_CHAT.decode_error(status, headers, json.dumps(body).encode())
    assert type(error) is kind
    assert (error.status, error.retry_after_s, error.request_id) == (status, 3.0, "r")


@pytest.mark.parametrize("body", [b"", b"<html>\xff", b"[" * 100_000, b'{"error": {"message": 5}}'])
def test_no_error_answer_is_too_broken(body: bytes) -> None:
    assert type(OPENAI_CHAT.decode_error(500, {"retry-after": "soon"}, body)) is Overloaded


IN_STREAM = [
    ({"error": {"message": "x", "code": 429}}, RateLimited),
    ({"error": {"message": "x", "type": "server_error"}}, Overloaded),
    ({"error": {"message": "x", "type": "invalid_request_error"}}, InvalidRequest),
    ({"error": "the engine died"}, Overloaded),
    ({"object": "error", "message": "maximum context length", "code": 400}, ContextOverflow),
]


@pytest.mark.parametrize(("chunk", "kind"), IN_STREAM)
def test_an_error_inside_a_stream_or_a_reply(chunk: Any, kind: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as caught:
        stream(chunk)
    assert type(caught.value) is kind
    with pytest.raises(kind):
        OPENAI_CHAT.decode_response(json.dumps(chunk).encode())


def test_what_came_before_an_error_is_delivered_first() -> None:
    decoder = OPENAI_CHAT.event_decoder()
    said = b"data: " + json.dumps(delta(content="a")).encode() + b"\n\n"
    assert decoder.feed(said + b'data: {"error": {"message": "x"}}\n\n') == [
        StreamStart("i"),
        TextDelta(1, "a"),
    ]
    with pytest.raises(Overloaded):
        decoder.close()


SHOWN: list[tuple[KimiyaError, int, str, str | None]] = [
    (LocalProtocolError("x", path="messages[0]"), 400, "invalid_request_error", None),
    (ContextOverflow("x"), 400, "invalid_request_error", "context_length_exceeded"),
    (InvalidRequest("x", code="odd"), 400, "invalid_request_error", "odd"),
    (UnknownModel("x"), 404, "invalid_request_error", "model_not_found"),
    (Unauthorized("x"), 401, "authentication_error", "invalid_api_key"),
    (RateLimited("x"), 429, "rate_limit_error", "rate_limit_exceeded"),
    (BudgetExceeded("x", budget="b"), 429, "insufficient_quota", "insufficient_quota"),
    (Overloaded("x"), 503, "server_error", "server_is_overloaded"),
    (TamingExhausted("x"), 502, "server_error", None),
    (RemoteProtocolError("x"), 502, "server_error", None),
]


@pytest.mark.parametrize(("error", "status", "kind", "code"), SHOWN)
def test_errors_as_clients_expect_them(
    error: KimiyaError, status: int, kind: str, code: str | None
) -> None:
    answer = OPENAI_CHAT.encode_error(error)
    shown = json.loads(answer.body)["error"]
    assert (answer.status, shown["type"], shown["code"]) == (status, kind, code)
    assert shown["message"] == error.message


def test_an_error_says_where_and_when_to_retry() -> None:
    local = json.loads(OPENAI_CHAT.encode_error(LocalProtocolError("x", path="n")).body)
    assert local["error"]["param"] == "n"
    answer = OPENAI_CHAT.encode_error(RateLimited("x", retry_after_s=1.2))
    assert answer.headers["retry-after"] == "2"


def test_a_line_beyond_the_cap() -> None:
    with pytest.raises(RemoteProtocolError, match="longer than 100 bytes"):
        OpenAiChat(max_line_bytes=100).event_decoder().feed(b"data: " + b"x" * 200)
