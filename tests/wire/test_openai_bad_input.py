"""Bodies no dialect of OpenAI's can read: each error names the exact place."""

import json
from typing import Any

import pytest

from kimiya.core.exchange import Request, Sampling, ToolSpec
from kimiya.core.messages import (
    Breakpoint,
    HostFile,
    Image,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Url,
    Video,
    user,
)
from kimiya.errors import LocalProtocolError
from kimiya.wire.dialect import Dialect, WireOptions
from kimiya.wire.openai_chat import OPENAI_CHAT
from kimiya.wire.openai_responses import OPENAI_RESPONSES


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


def said(*messages: Any) -> dict[str, Any]:
    return chat(messages=list(messages))


def spoke(*parts: Any) -> dict[str, Any]:
    return said({"role": "user", "content": list(parts)})


def called(**call: Any) -> dict[str, Any]:
    return said({"role": "assistant", "tool_calls": [{"id": "c", **call}]})


CHAT = [
    (chat(model=None), "model", "required"),
    (chat(model=""), "model", "empty"),
    (chat(model=7), "model", "must be a string, not an integer"),
    ({"model": "m"}, "messages", "required"),
    (chat(messages="hi"), "messages", "must be a list"),
    (said("hi"), "messages[0]", "must be an object"),
    (said({"content": "x"}), "messages[0].role", "required"),
    (said({"role": "robot", "content": "x"}), "messages[0].role", "must be one of"),
    (said({"role": "function", "content": "x"}), "messages[0].role", "must be one of"),
    (said({"role": "user"}), "messages[0].content", "must be a string or a list"),
    (said({"role": "user", "content": 1}), "messages[0].content", "not an integer"),
    (spoke("x"), "messages[0].content[0]", "must be an object"),
    (spoke({"text": "x"}), "messages[0].content[0].type", "required"),
    (spoke({"type": "text"}), "messages[0].content[0].text", "required"),
    (spoke({"type": "image_url"}), "messages[0].content[0].image_url", "must be an object"),
    (
        spoke({"type": "image_url", "image_url": {}}),
        "messages[0].content[0].image_url.url",
        "required",
    ),
    (
        spoke({"type": "image_url", "image_url": {"url": "data:image/png,xx"}}),
        "messages[0].content[0].image_url.url",
        "base64",
    ),
    (
        spoke({"type": "text", "text": "x", "cache_control": {"ttl": "2h"}}),
        "messages[0].content[0].cache_control.ttl",
        "5m, 1h",
    ),
    (said({"role": "tool", "content": "x"}), "messages[0].tool_call_id", "required"),
    (called(), "messages[0].tool_calls[0].function", "required"),
    (called(function={}), "messages[0].tool_calls[0].function.name", "required"),
    (
        called(function={"name": "f", "arguments": 3}),
        "messages[0].tool_calls[0].function.arguments",
        "string of JSON",
    ),
    (chat(tools=[{"function": {}}]), "tools[0].type", "required"),
    (chat(tools=[{"type": "function"}]), "tools[0].function", "required"),
    (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", "required"),
    (chat(tool_choice="any"), "tool_choice", "'any'"),
    (chat(tool_choice={"type": "function"}), "tool_choice.function", "required"),
    (chat(tool_choice={"type": "allowed_tools"}), "tool_choice.type", "must be function"),
    (chat(n=2), "n", "one choice"),
    (chat(temperature="hot"), "temperature", "must be a number"),
    (chat(max_tokens=True), "max_tokens", "must be an integer"),
    (chat(stop=[1]), "stop[0]", "must be a string"),
    (chat(stream="yes"), "stream", "true or false"),
    (chat(stream_options={"include_usage": 1}), "stream_options.include_usage", "true or false"),
    (chat(reasoning_effort="huge"), "reasoning_effort", "must be one of"),
    (chat(thinking={"type": "on"}), "thinking.type", "enabled"),
    (chat(response_format={}), "response_format.type", "required"),
    (chat(response_format={"type": "json_schema"}), "response_format.json_schema", "required"),
    (chat(functions=[]), "functions", "use tools"),
    (chat(metadata=[]), "metadata", "must be an object"),
]


def given(*items: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": list(items), **fields}


RESPONSES = [
    ({"model": "m"}, "input", "must be a string or a list"),
    ({"input": "x"}, "model", "required"),
    (given(previous_response_id="resp_1"), "previous_response_id", "store=false"),
    (given(conversation="c"), "conversation", "store=false"),
    (given(background=True), "background", "leave it out"),
    (given({"type": "item_reference", "id": "x"}), "input[0].type", "send the item itself"),
    (given({}), "input[0].type", "required"),
    (given({"role": "robot", "content": ""}), "input[0].role", "must be one of"),
    (given({"role": "user"}), "input[0].content", "must be a string or a list"),
    (given({"role": "user", "content": [{}]}), "input[0].content[0].type", "required"),
    (
        given({"role": "user", "content": [{"type": "input_image"}]}),
        "input[0].content[0].image_url",
        "required",
    ),
    (given({"type": "function_call", "call_id": "c"}), "input[0].name", "required"),
    (given({"type": "function_call_output"}), "input[0].call_id", "required"),
    (
        given({"type": "function_call_output", "call_id": "c", "output": 1}),
        "input[0].output",
        "must be a string or a list",
    ),
    (given({"type": "reasoning", "summary": [{}]}), "input[0].summary[0].text", "required"),
    (given(tools=[{"type": "function"}]), "tools[0].name", "required"),
    (given(tool_choice={"type": "function"}), "tool_choice.name", "required"),
    (given(reasoning={"effort": "huge"}), "reasoning.effort", "must be one of"),
    (given(text={"format": {}}), "text.format.type", "required"),
    (given(instructions=1), "instructions", "must be a string"),
]

TABLE = [
    pytest.param(dialect, *case, id=f"{dialect.name}-{case[1]}-{index}")
    for dialect, cases in ((OPENAI_CHAT, CHAT), (OPENAI_RESPONSES, RESPONSES))
    for index, case in enumerate(cases)
]


@pytest.mark.parametrize(("dialect", "body", "path", "words"), TABLE)
def test_the_error_names_the_place(
    dialect: Dialect, body: dict[str, Any], path: str, words: str
) -> None:
    # ``functions: []`` says nothing, and only what says something is refused.
    if path == "functions":
        body = {**body, "functions": [{}]}
    with pytest.raises(LocalProtocolError) as caught:
        dialect.decode_request(json.dumps(body).encode())
    assert caught.value.path == path
    assert words in caught.value.message


@pytest.mark.parametrize("dialect", [OPENAI_CHAT, OPENAI_RESPONSES], ids=lambda d: d.name)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"temperature": 1e999}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_object_of_json(dialect: Dialect, body: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        dialect.decode_request(body)


def ask(*parts: Any, role: Any = "user", **fields: Any) -> Request:
    return Request("m", (Message(role, parts),), **fields)


SIGNED = Reasoning("t", signature="s")

UNSAYABLE = [
    (OPENAI_CHAT, ask(Image(HostFile("f"))), "messages[0].content[0].url", "'f'"),
    (OPENAI_CHAT, ask(Opaque("other", {"type": "doc"})), "messages[0].content[0]", "'doc'"),
    (OPENAI_CHAT, ask(ToolCall("c", "f", "")), "messages[0].content[0]", "ToolCall"),
    (OPENAI_CHAT, ask(Image(Url("u")), role="assistant"), "messages[0]", "Image"),
    (OPENAI_CHAT, ask(Text("x"), role="tool"), "messages[0]", "Text"),
    (OPENAI_CHAT, ask(SIGNED, role="assistant"), "messages[0].reasoning_content", "signed"),
    (
        OPENAI_CHAT,
        Request("m", (user("x"),), sampling=Sampling(n=2)),
        "n",
        "one choice",
    ),
    (
        OPENAI_CHAT,
        Request("m", (user("x"),), tools=(ToolSpec("w", kind="web_search"),), dialect="other"),
        "tools[0].type",
        "only other knows",
    ),
    (OPENAI_RESPONSES, ask(Video(Url("u"))), "messages[0].content[0]", "Video"),
    (OPENAI_RESPONSES, ask(Opaque("other", {"type": "doc"})), "messages[0].content[0]", "'doc'"),
    (OPENAI_RESPONSES, Request("m", (Message("user", (), "ann"),)), "messages[0].name", "name"),
    (OPENAI_RESPONSES, ask(Text("x"), role="tool"), "messages[0]", "Text"),
]


@pytest.mark.parametrize(("dialect", "request_", "path", "words"), UNSAYABLE)
def test_what_cannot_be_said_raises_and_never_vanishes(
    dialect: Dialect, request_: Request, path: str, words: str
) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        dialect.encode_request(request_, WireOptions())
    assert caught.value.path == path
    assert words in caught.value.message


@pytest.mark.parametrize("dialect", [OPENAI_CHAT, OPENAI_RESPONSES], ids=lambda d: d.name)
def test_half_a_surrogate_pair_is_our_own_mistake(dialect: Dialect) -> None:
    with pytest.raises(LocalProtocolError, match="surrogate"):
        dialect.encode_request(Request("m", (user("\ud800"),)), WireOptions())


@pytest.mark.parametrize("dialect", [OPENAI_CHAT, OPENAI_RESPONSES], ids=lambda d: d.name)
def test_unknown_fields_come_back_to_the_same_dialect_only(dialect: Dialect) -> None:
    body: dict[str, Any] = {"model": "m", "seed": 1, "logit_bias": {"5": 1}, "new": [1]}
    body |= {"messages": [{"role": "user", "content": "x", "mark": 1}], "input": "x"}
    request = dialect.decode_request(json.dumps(body).encode())
    assert request.extras["new"] == [1]
    again = json.loads(dialect.encode_request(request, WireOptions()).body)
    assert again["new"] == [1]
    assert again["logit_bias"] == {"5": 1}
    foreign = Request("m", (user("x"),), dialect="other", extras={"new": [1]})
    assert b"new" not in dialect.encode_request(foreign, WireOptions()).body


def test_every_mark_and_failure_a_result_has() -> None:
    result = ToolResult("c", (Text("no such file"),), is_error=True, cache=Breakpoint("1h"))
    sent = json.loads(OPENAI_CHAT.encode_request(ask(result, role="tool"), WireOptions()).body)
    assert sent["messages"] == [
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": "no such file",
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
        }
    ]
