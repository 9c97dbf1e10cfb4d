"""The ``openai`` SDK through the gateway: Chat Completions and Responses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.files import ADD, PNG, SCHEMAS, WRITTEN, run_tool

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
IMAGE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "image: what is it?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        ],
    }
]


@pytest.fixture
def client(gateway: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert "sim" in [model.id for model in client.models.list()]


def test_a_chat_whole(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": "chat: hi"}]
    )
    assert reply.choices[0].message.content == "You said: chat: hi — ü€"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (21, 9)


def test_a_chat_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="sim",
        messages=[{"role": "user", "content": "chat: hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "You said: chat: hi — ü€"
    finished = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert finished == ["stop"]
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert (usage.prompt_tokens, usage.completion_tokens) == (21, 9)


def _whole(client: openai.OpenAI, messages: list[Any], tools: Any) -> dict[str, Any]:
    reply = client.chat.completions.create(model="sim", messages=messages, tools=tools)
    return reply.choices[0].message.model_dump(exclude_none=True)


def _streamed(client: openai.OpenAI, messages: list[Any], tools: Any) -> dict[str, Any]:
    with client.chat.completions.stream(model="sim", messages=messages, tools=tools) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion().choices[0].message.model_dump(exclude_none=True)


both_ways = pytest.mark.parametrize("ask", [_whole, _streamed], ids=["whole", "streamed"])


@both_ways
def test_a_tool_loop_writes_a_file(client: openai.OpenAI, ask: Any, tmp_path: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "loop: note.txt"}]
    for _ in range(2):
        message = ask(client, messages, TOOLS)
        (call,) = message["tool_calls"]
        done = run_tool(
            tmp_path, call["function"]["name"], json.loads(call["function"]["arguments"])
        )
        call.pop("index", None)
        messages += [message, {"role": "tool", "tool_call_id": call["id"], "content": done}]
    assert ask(client, messages, TOOLS)["content"] == f"It holds: {WRITTEN}"
    assert (tmp_path / "note.txt").read_text() == WRITTEN


@both_ways
def test_parallel_calls(client: openai.OpenAI, ask: Any, tmp_path: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "parallel: two files"}]
    message = ask(client, messages, TOOLS)
    assert message["content"] == "Both at once."
    messages.append(message)
    ids = {call["id"] for call in message["tool_calls"]}
    for call in message["tool_calls"]:
        call.pop("index", None)
        done = run_tool(
            tmp_path, call["function"]["name"], json.loads(call["function"]["arguments"])
        )
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": done})
    assert len(ids) == 2
    assert ask(client, messages, TOOLS)["content"].startswith("Results: done")
    assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["A", "B"]


def test_an_image_is_taken_where_the_model_sees(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="sim", messages=IMAGE)
    assert reply.choices[0].message.content == "A picture, then."


def test_an_image_is_refused_where_it_does_not(client: openai.OpenAI, embedded: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=embedded, messages=IMAGE)


def test_errors_are_the_sdks_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError, match="come back later"):
        client.chat.completions.create(
            model="sim", messages=[{"role": "user", "content": "busy: now"}]
        )
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "x"}]
        )


def test_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="sim", input="chat: hi")
    assert whole.output_text == "You said: chat: hi — ü€"
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (21, 9)
    with client.responses.stream(model="sim", input="chat: hi") as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text == whole.output_text


def test_the_embedded_model_chats_whole_and_streamed(client: openai.OpenAI, embedded: str) -> None:
    asked: Any = {
        "model": embedded,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        "max_tokens": 24,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    assert "Paris" in (whole.choices[0].message.content or "")
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 24
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content


@both_ways
def test_the_embedded_model_calls_the_tool_it_must(
    client: openai.OpenAI, embedded: str, ask: Any
) -> None:
    asked: Any = {
        "model": embedded,
        "messages": [{"role": "user", "content": "Add 2 and 3"}],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": ADD}}],
        "tool_choice": "required",
        "max_tokens": 60,
        "temperature": 0,
    }
    if ask is _whole:
        choice = client.chat.completions.create(**asked).choices[0]
    else:
        with client.chat.completions.stream(**asked) as stream:
            for _ in stream:
                pass
            choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "add"
    assert set(json.loads(call.function.arguments)) == {"a", "b"}
    assert choice.finish_reason == "tool_calls"
