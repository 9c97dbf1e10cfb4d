"""Anthropic Messages as hosts and clients really send it: one table a kind of oddity."""

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
from kimiya.core.exchange import Request, Response, Thinking, ToolSpec, Usage
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
from kimiya.errors import LocalProtocolError, Overloaded, RemoteProtocolError
from kimiya.wire.anthropic_messages import ANTHROPIC_MESSAGES as DIALECT
from kimiya.wire.dialect import WireOptions

NAME = "anthropic_messages"


def decode(**fields: Any) -> Request:
    return DIALECT.decode_request(json.dumps({"model": "m", "messages": [], **fields}).encode())


def encode(request: Request) -> dict[str, Any]:
    return json.loads(DIALECT.encode_request(request, WireOptions()).body)


def stream(*events: dict[str, Any]) -> list[StreamEvent]:
    decoder = DIALECT.event_decoder()
    frames = [f"event: x\ndata: {json.dumps(event)}\n\n" for event in events]
    return decoder.feed("".join(frames).encode()) + decoder.close()


START = {"type": "message_start", "message": {"id": "i", "model": "m", "usage": {}}}
STOP = {"type": "message_stop"}
TOOL = {"type": "tool_use", "id": "a", "name": "f", "input": {}}


def opened(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def closed(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str | None = "end_turn", **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


TEXT = opened(0, {"type": "text", "text": ""})
HI = delta(0, type="text_delta", text="hi")
DONE = Finish("stop", "end_turn")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            [START, TEXT, HI, closed(0), closed(0), ended(), STOP],
            [StreamStart("i", "m"), TextDelta(0, ""), TextDelta(0, "hi"), PartEnd(0), DONE],
            id="a block stops twice",
        ),
        pytest.param([HI, ended()], [TextDelta(0, "hi"), PartEnd(0), DONE], id="no start, no stop"),
        pytest.param([START, START, ended()], [StreamStart("i", "m"), DONE], id="starts twice"),
        pytest.param(
            [START, TEXT, delta(0, type="thinking_delta", thinking="hm"), HI, ended()],
            [
                StreamStart("i", "m"), TextDelta(0, ""), PartEnd(0), ReasoningDelta(1, "hm"),
                PartEnd(1), TextDelta(2, "hi"), PartEnd(2), DONE,
            ],
            id="thinking in a text block",
        ),
        pytest.param(
            [opened(0, TOOL), closed(0), ended("tool_use")],
            [
                ToolCallDelta(0, "a", "f"), ToolCallDelta(0, arguments="{}"), PartEnd(0),
                Finish("tool_calls", "tool_use"),
            ],
            id="a call without arguments",
        ),
        pytest.param(
            [opened(0, {**TOOL, "input": {"x": 1}}), ended("tool_use")],
            [
                ToolCallDelta(0, "a", "f"), ToolCallDelta(0, arguments='{"x": 1}'), PartEnd(0),
                Finish("tool_calls", "tool_use"),
            ],
            id="arguments whole at the start",
        ),
        pytest.param(
            [opened(0, TOOL), closed(0), opened(0, {**TOOL, "id": "b"}), ended("tool_use")],
            [
                ToolCallDelta(0, "a", "f"), ToolCallDelta(0, arguments="{}"), PartEnd(0),
                ToolCallDelta(1, "b", "f"), ToolCallDelta(1, arguments="{}"), PartEnd(1),
                Finish("tool_calls", "tool_use"),
            ],
            id="an index used twice",
        ),
        pytest.param(
            [
                {"type": "message_start", "message": {"usage": {"input_tokens": 5}}},
                ended(None, output_tokens=1), ended(output_tokens=2, input_tokens=9), STOP, HI,
            ],
            [
                StreamStart(), UsageReport(Usage(5)), UsageReport(Usage(9, 2)), DONE,
            ],
            id="the last usage counts and nothing follows the end",
        ),
        pytest.param([START, STOP], [StreamStart("i", "m"), Finish("unknown")], id="no reason"),
        pytest.param(
            [{"type": "ping"}, {"type": "new"}, ended("newly")],
            [Finish("unknown", "newly")],
            id="words yet to be invented",
        ),
    ],
)  # fmt: skip
def test_streams_of_hosts(events: list[dict[str, Any]], expected: list[StreamEvent]) -> None:
    assert stream(*events) == expected


def test_blocks_that_events_cannot_carry_are_kept() -> None:
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    piece = {"type": "input_json_delta", "partial_json": "{"}
    *_, finish = stream(opened(0, block), delta(0, **piece), closed(0), ended())
    assert isinstance(finish, Finish)
    assert finish.extras == {"unstreamed_blocks": [{"content_block": block, "deltas": [piece]}]}


def test_an_error_event_is_the_hosts_error_after_what_came_before() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "full"}}
    decoder = DIALECT.event_decoder()
    data = b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in (START, TEXT, HI, error))
    assert len(decoder.feed(data)) == 3
    with pytest.raises(Overloaded, match="full"):
        decoder.close()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": "x"}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}]},
            "messages[0].content[0].name",
        ),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_use"}]},
            ]}]},
            "messages[0].content[0].content[0].id",
        ),
        ({"system": 3}, "system"),
        ({"tools": [{"description": "x"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop_sequences": ["a", 1]}, "stop_sequences[1]"),
        ({"stream": "yes"}, "stream"),
        ({"thinking": {"type": "enabled", "budget_tokens": "9"}}, "thinking.budget_tokens"),
        ({"model": None}, "model"),
    ],
)  # fmt: skip
def test_wrong_bodies_name_the_field(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        decode(**fields)
    assert caught.value.path == path


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": "\xff"}', b"[" * 100_000, b'"\\ud800"'])
def test_bodies_that_are_not_json_objects(body: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        DIALECT.decode_request(body)
    with pytest.raises(RemoteProtocolError):
        DIALECT.decode_response(body)


CALL = ToolCall("a", "f", "{}")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("m", (Message("assistant", (ToolCall("a", "f", "{"),)),)), "not a JSON object"),
        (Request("m", (Message("assistant", (ToolCall("a", "f", "[1]"),)),)), "not a JSON object"),
        (Request("m", (user("x"), system("y"))), "move it to the front"),
        (Request("m", (Message("user", (Text("x"),), name="ann"),)), "no name"),
        (Request("m", (Message("user", (Video(Url("ms://v")),)),)), "no video"),
        (Request("m", (Message("user", (Image(Url("u"), detail="low"),)),)), "no image detail"),
        (Request("m", (Message("user", (Opaque("openai_chat", {}),)),)), "only there"),
        (Request("m", (), tools=(ToolSpec("w", kind="web_search"),)), "another host's kind"),
        (Request("m", (), thinking=Thinking(effort="minimal")), "no effort"),
        (Request("m", (), thinking=Thinking(False, budget_tokens=9)), "off but has a budget"),
        (Request("m", (user("\ud800"),)), "surrogate"),
    ],
)
def test_what_cannot_be_said_raises(request_: Request, words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        DIALECT.encode_request(request_, WireOptions())


def test_arguments_travel_verbatim() -> None:
    body = b"""{"model": "m", "messages": [{"role": "assistant", "content": [
        {"type": "tool_use", "id": "a", "name": "f",
         "input":  {"b" : 1.0, "a": 12345678901234567890123}}
    ]}]}"""
    request = DIALECT.decode_request(body)
    assert request.messages[0].tool_calls[0].arguments == (
        '{"b" : 1.0, "a": 12345678901234567890123}'
    )
    written = DIALECT.encode_request(request, WireOptions()).body
    assert b'"input":{"b" : 1.0, "a": 12345678901234567890123}' in written


@pytest.mark.parametrize("arguments", ['{"cut": ', "[1]", '"x"', "null", "text", "\\"])
def test_broken_arguments_of_a_reply_are_shown_as_they_are(arguments: str) -> None:
    reply = Response("i", "m", (ToolCall("a", "f", arguments),), "tool_calls", "tool_use")
    body = DIALECT.encode_response(reply, Request("m", ()))
    assert json.loads(body)["content"][0]["input"] == arguments
    assert DIALECT.decode_response(body) == reply


def test_two_rounds_of_results_become_one_message() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
    request = decode(messages=[{"role": "user", "content": [result]}] * 2)
    assert request.messages == (Message("tool", (ToolResult("a", (Text("x"),)),) * 2),)


def test_results_join_the_user_message_after_them() -> None:
    messages = (Message("tool", (ToolResult("a"),)), user("go on"), user("now"))
    wire = encode(Request("m", messages))["messages"]
    assert wire == [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a"},
                {"type": "text", "text": "go on"},
            ],
        },
        {"role": "user", "content": "now"},
    ]


def test_leading_system_and_developer_messages_are_the_system_prompt() -> None:
    messages = (system("a"), Message("developer", (Text("b"),)), user("x"))
    wire = encode(Request("m", messages))
    assert wire["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert [message["role"] for message in wire["messages"]] == ["user"]


def test_a_system_message_in_the_middle_is_read() -> None:
    request = decode(
        messages=[{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]
    )
    assert request.messages == (user("x"), system("y"))


@pytest.mark.parametrize(
    "fields",
    [
        {"top_level": {"new": 1}, "container": "c", "service_tier": "auto"},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"thinking": {"type": "sometimes", "odd": 1}},
        {"thinking": {"type": "enabled", "keep": "all"}},
        {"output_config": {"effort": "high", "task_budget": 9}},
        {"output_config": {"effort": "odd"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"metadata": {"user_id": "u", "more": "x"}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
        {"tools": [{"name": "f", "input_schema": {"type": "object"}, "defer_loading": True}]},
        {"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "text", "data": "x"}, "title": "t",
             "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "text", "text": "x", "citations": [], "cache_control": {"type": "new"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "a",
                                         "more": 1}},
        ]}]},
        {"messages": [{"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "s", "name": "w", "input": {"q": 1}},
            {"type": "tool_use", "id": "a", "name": "f", "input": {}, "caller": {"type": "direct"}},
        ]}]},
    ],
)  # fmt: skip
def test_what_is_not_known_comes_back_verbatim(fields: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [], **fields}
    assert encode(decode(**fields)) == body


def test_marks_and_tools_of_a_server_kind() -> None:
    mark = {"type": "ephemeral", "ttl": "5m"}
    request = decode(tools=[{"type": "bash_20250124", "name": "bash", "cache_control": mark}])
    (tool,) = request.tools
    assert (tool.kind, tool.cache) == ("bash_20250124", Breakpoint("5m"))
    assert encode(request)["tools"][0]["cache_control"] == mark


def test_extras_of_a_reply_are_kept_and_known_ones_shown() -> None:
    fields = {
        "id": "i", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None,
        "content": [{"type": "text", "text": "x", "citations": None}], "stop_reason": "refusal",
        "stop_details": {"type": "refusal"}, "novel": 1, "empty": None,
        "usage": {"input_tokens": 3, "output_tokens": 2, "service_tier": "standard"},
    }  # fmt: skip
    reply = DIALECT.decode_response(json.dumps(fields).encode())
    assert reply.extras == {
        "stop_details": {"type": "refusal"},
        "novel": 1,
        "usage": {"service_tier": "standard"},
    }
    shown = json.loads(DIALECT.encode_response(reply, Request("m", ())))
    assert shown["stop_details"] == {"type": "refusal"}
    assert "novel" not in shown


def test_an_error_in_the_guise_of_a_reply_raises() -> None:
    body = b'{"type": "error", "error": {"type": "overloaded_error", "message": "full"}}'
    with pytest.raises(Overloaded, match="full"):
        DIALECT.decode_response(body)


def test_the_input_count_stands_in_the_start_where_it_is_known_that_early() -> None:
    encoder = DIALECT.event_encoder(Request("m", ()))
    assert encoder.encode(StreamStart("i", "m")) == b""
    start = encoder.encode(UsageReport(Usage(7, 1, cache_read_tokens=4)))
    assert b'"input_tokens":3' in start
    assert b'"cache_read_input_tokens":4' in start


def test_reasoning_goes_on_after_a_call() -> None:
    encoder = DIALECT.event_encoder(Request("m", ()))
    events: list[StreamEvent] = [
        ReasoningDelta(0, "a"), ToolCallDelta(1, "c", "f", "{}"), ReasoningDelta(0, "b"), DONE,
    ]  # fmt: skip
    data = b"".join([*map(encoder.encode, events), encoder.close()])
    decoder = DIALECT.event_decoder()
    kinds = [type(event) for event in decoder.feed(data) if not isinstance(event, PartEnd)]
    assert kinds.count(ReasoningDelta) == 4
    assert data.count(b"content_block_start") == 3 * 2


def test_inline_pictures_and_reasoning_stay_whole() -> None:
    parts = (Image(Inline("image/png", "aGk="), cache=Breakpoint()),)
    request = Request("m", (Message("user", parts), Message("assistant", (Reasoning("x", "s"),))))
    wire = encode(request)["messages"]
    assert wire[0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert wire[1]["content"] == [{"type": "thinking", "thinking": "x", "signature": "s"}]


def test_the_stop_sequence_travels_whole_and_streamed() -> None:
    reply = Response("i", "m", (Text("x"),), "stop_sequence", "stop_sequence", "END")
    assert DIALECT.decode_response(DIALECT.encode_response(reply, Request("m", ()))) == reply
    encoder = DIALECT.event_encoder(Request("m", ()))
    finish = Finish("stop_sequence", "stop_sequence", "END")
    decoder = DIALECT.event_decoder()
    *_, read = decoder.feed(encoder.encode(finish) + encoder.close())
    assert read == finish
