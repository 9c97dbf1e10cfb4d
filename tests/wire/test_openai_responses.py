"""The Responses API as Codex sends it, as the SDK reads it, and as hosts stream it."""

import json
from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response as SdkResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

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
from kimiya.core.exchange import AutoChoice, Request, Response, Thinking, ToolSpec, Usage
from kimiya.core.fold import fold, unfold
from kimiya.core.messages import Message, Reasoning, Text, ToolCall, ToolResult, system, user
from kimiya.errors import (
    ContextOverflow,
    Overloaded,
    ProviderError,
    RateLimited,
    RemoteProtocolError,
)
from kimiya.wire.dialect import WireOptions
from kimiya.wire.openai_chat import OPENAI_CHAT
from kimiya.wire.openai_responses import OPENAI_RESPONSES

FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
PATCH = {
    "type": "custom",
    "name": "patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
RUN = {
    "type": "function",
    "name": "run",
    "description": "Runs it.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}},
}
AGENTS = {"type": "namespace", "name": "agents", "description": "More hands.", "tools": [RUN]}
SEARCH = {"type": "web_search", "external_web_access": True}

SECOND_TURN: dict[str, Any] = {
    "model": "kimi",
    "stream": True,
    "instructions": "Be brief.",
    "input": [
        {"type": "message", "id": "msg_1", "role": "developer", "content": [
            {"type": "input_text", "text": "Rules."}]},
        {"type": "message", "id": "msg_2", "role": "user", "content": [
            {"type": "input_text", "text": "Write made.txt"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None, "content": [
            {"type": "reasoning_text", "text": "A file."}]},
        {"type": "function_call", "id": "fc_1", "status": "completed", "name": "run",
         "call_id": "functions.run:0", "arguments": '{"cmd": "touch made.txt"}'},
        {"type": "custom_tool_call", "id": "ctc_1", "name": "patch", "call_id": "p:1",
         "input": "*** Begin"},
        {"type": "function_call_output", "id": "fco_1", "call_id": "functions.run:0",
         "output": "exit 0"},
        {"type": "custom_tool_call_output", "call_id": "p:1",
         "output": [{"type": "input_text", "text": "ok"}]},
    ],
    "tools": [RUN, PATCH, AGENTS, SEARCH],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "high", "summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "client_metadata": {"turn": "1"},
}  # fmt: skip
"""The shape Codex CLI 0.169.0 sends in the second turn of a tool loop, cut down."""


CUSTOM = {"type": "custom_tool_call"}


def test_a_turn_of_codex() -> None:
    request = OPENAI_RESPONSES.decode_request(json.dumps(SECOND_TURN).encode())
    assert request.messages == (
        system("Be brief."),
        Message("developer", (Text("Rules."),)),
        user("Write made.txt"),
        Message(
            "assistant",
            (
                Reasoning("A file.", extras={"id": "rs_1"}),
                ToolCall("functions.run:0", "run", '{"cmd": "touch made.txt"}'),
                ToolCall(
                    "p:1", "patch", '{"input":"*** Begin"}', None, {"type": "custom_tool_call"}
                ),
            ),
        ),
        Message(
            "tool",
            (
                ToolResult("functions.run:0", (Text("exit 0"),)),
                ToolResult("p:1", (Text("ok"),), extras={"type": "custom_tool_call_output"}),
            ),
        ),
    )
    assert request.tools == (
        ToolSpec("run", "Runs it.", RUN["parameters"], strict=False),
        ToolSpec("patch", "Edits files.", FREE_TEXT, extras=PATCH),
        ToolSpec("agents", kind="namespace", extras=AGENTS),
        ToolSpec("web_search", kind="web_search", extras=SEARCH),
    )
    assert request.tool_choice == AutoChoice()
    assert request.thinking == Thinking(effort="high")
    assert request.extras["prompt_cache_key"] == "k"


def test_a_turn_of_codex_comes_back_to_its_own_dialect() -> None:
    request = OPENAI_RESPONSES.decode_request(json.dumps(SECOND_TURN).encode())
    again = json.loads(OPENAI_RESPONSES.encode_request(request, WireOptions()).body)
    assert again["tools"] == SECOND_TURN["tools"]
    assert again["reasoning"] == SECOND_TURN["reasoning"]
    assert again["store"] is False
    assert [item["type"] for item in again["input"]] == [
        item["type"] for item in SECOND_TURN["input"]
    ]
    assert again["input"][4]["input"] == "*** Begin"
    assert OPENAI_RESPONSES.decode_request(json.dumps(again).encode()) == request


def test_a_free_text_tool_can_be_offered_as_a_function() -> None:
    request = OPENAI_RESPONSES.decode_request(
        json.dumps({**SECOND_TURN, "tools": [RUN, PATCH]}).encode()
    )
    sent = json.loads(OPENAI_CHAT.encode_request(request, WireOptions()).body)
    assert sent["tools"][1]["function"] == {
        "name": "patch",
        "description": "Edits files.",
        "parameters": FREE_TEXT,
    }
    assert sent["messages"][3]["reasoning_content"] == "A file."
    assert [m["role"] for m in sent["messages"][4:]] == ["tool", "tool"]


EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
ASKED = OPENAI_RESPONSES.decode_request(json.dumps(SECOND_TURN).encode())
REPLY = Response(
    "resp_1",
    "kimi",
    (
        Reasoning("hm"),
        Text("so"),
        ToolCall("functions.run:1", "run", '{"cmd": "ls"}'),
        ToolCall("p:2", "patch", '{"input": "*** End"}'),
    ),
    "tool_calls",
    usage=Usage(100, 20, cache_read_tokens=60, reasoning_tokens=5),
    created=7,
)


def written(events: list[StreamEvent], request: Request = ASKED) -> list[dict[str, Any]]:
    encoder = OPENAI_RESPONSES.event_encoder(request)
    body = b"".join([*map(encoder.encode, events), encoder.close()])
    return [parsed(frame) for frame in body.decode().split("\n\n") if frame]


def parsed(frame: str) -> dict[str, Any]:
    name, data = frame.split("\n")
    event = json.loads(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    return event


def test_the_order_of_a_stream() -> None:
    events = written(unfold(REPLY))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_the_sdk_accepts_every_event_and_gathers_the_reply() -> None:
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in written(unfold(REPLY)):
        state.handle_event(EVENTS.validate_python(event))
    whole = SdkResponse.model_validate_json(OPENAI_RESPONSES.encode_response(REPLY, ASKED))
    final = state._completed_response  # pyright: ignore[reportPrivateUsage]
    assert final is not None
    assert final.output_text == whole.output_text == "so"
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    assert [item.type for item in whole.output] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
    ]
    assert whole.output[3].input == "*** End"  # type: ignore[union-attr]
    assert final.usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.input_tokens_details.cached_tokens == 60
    assert whole.usage.output_tokens_details.reasoning_tokens == 5


def test_text_that_goes_on_after_a_call_opens_a_new_item() -> None:
    events = written(
        [StreamStart("r"), TextDelta(1, "a"), ToolCallDelta(2, "c", "run"), TextDelta(1, "b"),
         Finish("tool_calls")]
    )  # fmt: skip
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["message", "function_call", "message"]
    assert len({item["id"] for item in done}) == 3


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("context_window", "incomplete", {"reason": "max_output_tokens"}),
        ("refusal", "incomplete", {"reason": "content_filter"}),
        ("stop_sequence", "completed", None),
        ("unknown", "completed", None),
    ],
)
def test_how_a_reply_ends(reason: Any, status: str, why: Any) -> None:
    last = written([StreamStart("r"), Finish(reason)])[-1]
    assert last["type"] == f"response.{status}"
    assert last["response"]["status"] == status
    assert last["response"]["incomplete_details"] == why


def test_an_error_ends_a_stream_as_failed() -> None:
    encoder = OPENAI_RESPONSES.event_encoder(ASKED)
    encoder.encode(StreamStart("r"))
    event = parsed(encoder.error(RateLimited("slow")).decode().strip())
    assert event["type"] == "response.failed"
    assert event["response"]["error"] == {"code": "rate_limit_exceeded", "message": "slow"}
    assert encoder.close() == b""


def stream(*events: dict[str, Any]) -> list[StreamEvent]:
    decoder = OPENAI_RESPONSES.event_decoder()
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return decoder.feed(body) + decoder.close()


def ev(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def ended(status: str = "completed", **fields: Any) -> dict[str, Any]:
    return ev(status, response={"id": "r", "status": status, **fields})


MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "a"}]}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
THOUGHT = {
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "x"}, {"type": "summary_text", "text": "y"}],
    "encrypted_content": "zz",
}
TWO_TEXTS = {
    "type": "message",
    "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}],
}
SPAN = 1 << 16

STREAMS = [
    pytest.param(
        [
            ev("output_item.done", output_index=0, item=MESSAGE),
            ev("output_item.done", output_index=1, item=CALL),
            ended(),
        ],
        [
            TextDelta(0, "a"),
            PartEnd(0),
            ToolCallDelta(SPAN, "c", "f"),
            ToolCallDelta(SPAN, arguments="{}"),
            PartEnd(SPAN),
            StreamStart("r"),
            Finish("tool_calls", "completed"),
        ],
        id="only finished items",
    ),
    pytest.param(
        [ended(output=[MESSAGE], usage={"input_tokens": 3, "output_tokens": 1})],
        [
            StreamStart("r"),
            TextDelta(0, "a"),
            PartEnd(0),
            UsageReport(Usage(3, 1)),
            Finish("stop", "completed"),
        ],
        id="only the finished reply",
    ),
    pytest.param(
        [
            ev("created", response={"id": "r"}),
            ev("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="x"),
            ev("reasoning_summary_text.delta", output_index=0, summary_index=1, delta="y"),
            ev("output_item.done", output_index=0, item=THOUGHT),
            ended("incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ],
        [
            StreamStart("r"),
            ReasoningDelta(0, "x"),
            ReasoningDelta(0, "\n\ny"),
            ReasoningDelta(0, "", "zz"),
            PartEnd(0),
            Finish("length", "max_output_tokens"),
        ],
        id="a summary, and what is encrypted",
    ),
    pytest.param(
        [
            ev("created", response={"id": "r"}),
            ev("output_item.added", output_index=0, item={**CALL, "arguments": ""}),
            ev("function_call_arguments.delta", output_index=0, delta="{}"),
            ev("function_call_arguments.done", output_index=0, arguments="{}"),
            ev("output_item.done", output_index=0, item=CALL),
            ended(output=[CALL]),
        ],
        [
            StreamStart("r"),
            ToolCallDelta(0, "c", "f"),
            ToolCallDelta(0, arguments="{}"),
            PartEnd(0),
            Finish("tool_calls", "completed"),
        ],
        id="nothing is said twice",
    ),
    pytest.param(
        [
            ev("created", response={"id": "r"}),
            ev("output_text.delta", output_index=0, content_index=0, delta="a"),
            ev("output_text.delta", output_index=0, content_index=1, delta="b"),
            ev("output_item.done", output_index=0, item=TWO_TEXTS),
            ended(),
        ],
        [
            StreamStart("r"),
            TextDelta(0, "a"),
            TextDelta(1, "b"),
            PartEnd(0),
            PartEnd(1),
            Finish("stop", "completed"),
        ],
        id="two texts in a message",
    ),
    pytest.param(
        [
            ev("created", response={"id": "r"}),
            ev("refusal.delta", output_index=0, content_index=0, delta="no"),
            ended(),
        ],
        [StreamStart("r"), TextDelta(0, "no"), Finish("refusal", "completed")],
        id="refusal",
    ),
]


@pytest.mark.parametrize(("sent", "events"), STREAMS)
def test_streams_of_hosts(sent: list[Any], events: list[StreamEvent]) -> None:
    assert stream(*sent) == events


@pytest.mark.parametrize(("sent", "_"), STREAMS[:-1])  # the last has no finished item
def test_streamed_and_whole_agree(sent: list[Any], _: Any) -> None:
    items = [event["item"] for event in sent if event["type"] == "response.output_item.done"]
    last = sent[-1]["response"]
    body = {**last, "output": items or last.get("output", [])}
    assert fold(stream(*sent)) == OPENAI_RESPONSES.decode_response(json.dumps(body).encode())


def test_items_of_the_hosts_own_pass_through() -> None:
    searched = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    reply = fold(stream(ev("output_item.done", output_index=0, item=searched), ended()))
    assert reply.extras == {"openai_responses": {"output": [searched]}}
    assert json.loads(OPENAI_RESPONSES.encode_response(reply, ASKED))["output"] == [searched]
    assert written(unfold(reply))[-1]["response"]["output"] == [searched]


FAILURES = [
    (ended("failed", error={"code": "rate_limit_exceeded", "message": "x"}), RateLimited),
    (ended("failed", error={"code": "server_error", "message": "x"}), Overloaded),
    ({"type": "error", "code": "context_length_exceeded", "message": "x"}, ContextOverflow),
    ({"error": {"message": "x", "code": 503}}, Overloaded),
]


@pytest.mark.parametrize(("event", "kind"), FAILURES)
def test_failures_inside_a_stream(event: Any, kind: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as caught:
        stream(event)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [ev("created", response={"id": "r"})],
        [ev("output_text.delta", output_index=-1, delta="a")],
        [ev("output_text.delta", output_index=0, delta=5)],
        [ev("output_item.done", output_index=0, item="x")],
        [ev("completed", response={"id": "r", "status": "in_progress"})],
    ],
    ids=repr,
)
def test_a_cut_or_broken_stream_is_never_whole(sent: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        stream(*sent)


def test_what_is_said_after_a_call_stays_after_it() -> None:
    parts = (Text("a"), ToolCall("c", "f", "{}"), Text("b"))
    request = Request("m", (Message("assistant", parts),), dialect="openai_responses")
    sent = json.loads(OPENAI_RESPONSES.encode_request(request, WireOptions()).body)
    assert [item["type"] for item in sent["input"]] == ["message", "function_call", "message"]
