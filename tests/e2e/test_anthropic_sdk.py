"""The ``anthropic`` SDK through the gateway: Messages, whole and streamed, and token counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.e2e.files import ADD, PNG, SCHEMAS, WRITTEN, run_tool

TOOLS: Any = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
IMAGE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "image: what is it?"},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            },
        ],
    }
]


@pytest.fixture
def client(gateway: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway, api_key="none", max_retries=0) as client:
        yield client


def _whole(client: anthropic.Anthropic, **asked: Any) -> anthropic.types.Message:
    return client.messages.create(max_tokens=500, **asked)


def _streamed(client: anthropic.Anthropic, **asked: Any) -> anthropic.types.Message:
    with client.messages.stream(max_tokens=500, **asked) as stream:
        for _ in stream:
            pass
        return stream.get_final_message()


both_ways = pytest.mark.parametrize("ask", [_whole, _streamed], ids=["whole", "streamed"])


def _text(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def _calls(message: anthropic.types.Message) -> list[anthropic.types.ToolUseBlock]:
    return [block for block in message.content if block.type == "tool_use"]


def _results(message: anthropic.types.Message, folder: Path) -> dict[str, Any]:
    """Run what was called; the user's next message."""
    results = [
        {
            "type": "tool_result",
            "tool_use_id": call.id,
            "content": run_tool(folder, call.name, dict(call.input)),  # type: ignore[call-overload]
        }
        for call in _calls(message)
    ]
    return {"role": "user", "content": results}


def _said(message: anthropic.types.Message) -> dict[str, Any]:
    content = [block.model_dump(exclude_none=True) for block in message.content]
    return {"role": "assistant", "content": content}


@both_ways
def test_a_chat(client: anthropic.Anthropic, ask: Any) -> None:
    reply = ask(client, model="sim", messages=[{"role": "user", "content": "chat: hi"}])
    assert _text(reply) == "You said: chat: hi — ü€"
    assert [b.thinking for b in reply.content if b.type == "thinking"] == ["A greeting."]
    assert reply.stop_reason == "end_turn"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (21, 9)


@both_ways
def test_a_tool_loop_writes_a_file(client: anthropic.Anthropic, ask: Any, tmp_path: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "loop: note.txt"}]
    for _ in range(2):
        reply = ask(client, model="sim", messages=messages, tools=TOOLS)
        assert reply.stop_reason == "tool_use"
        messages += [_said(reply), _results(reply, tmp_path)]
    final = ask(client, model="sim", messages=messages, tools=TOOLS)
    assert _text(final) == f"It holds: {WRITTEN}"
    assert (tmp_path / "note.txt").read_text() == WRITTEN


@both_ways
def test_parallel_calls(client: anthropic.Anthropic, ask: Any, tmp_path: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "parallel: two files"}]
    reply = ask(client, model="sim", messages=messages, tools=TOOLS)
    assert len({call.id for call in _calls(reply)}) == 2
    messages += [_said(reply), _results(reply, tmp_path)]
    assert _text(ask(client, model="sim", messages=messages, tools=TOOLS)).startswith("Results:")
    assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["A", "B"]


def test_an_image_is_taken_where_the_model_sees(client: anthropic.Anthropic) -> None:
    assert _text(_whole(client, model="sim", messages=IMAGE)) == "A picture, then."


def test_an_image_is_refused_where_it_does_not(client: anthropic.Anthropic, embedded: str) -> None:
    with pytest.raises(anthropic.BadRequestError):
        _whole(client, model=embedded, messages=IMAGE)


def test_errors_are_the_sdks_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.RateLimitError, match="come back later"):
        _whole(client, model="sim", messages=[{"role": "user", "content": "busy: now"}])
    with pytest.raises(anthropic.NotFoundError, match="no-such-model"):
        _whole(client, model="no-such-model", messages=[{"role": "user", "content": "x"}])


def test_tokens_are_counted(client: anthropic.Anthropic, embedded: str) -> None:
    messages: Any = [{"role": "user", "content": "What is the capital of France?"}]
    counted = client.messages.count_tokens(model=embedded, messages=messages)
    reply = client.messages.create(model=embedded, messages=messages, max_tokens=4)
    cached = reply.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == reply.usage.input_tokens + cached
    assert client.messages.count_tokens(model="sim", messages=messages).input_tokens > 0


@both_ways
def test_the_embedded_model_chats(client: anthropic.Anthropic, embedded: str, ask: Any) -> None:
    reply = ask(
        client,
        model=embedded,
        system="You are a helpful assistant.",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        extra_body={"temperature": 0, "max_tokens": 24},
    )
    assert "Paris" in _text(reply)
    assert reply.stop_reason == "end_turn"


@both_ways
def test_the_embedded_model_calls_the_tool_it_must(
    client: anthropic.Anthropic, embedded: str, ask: Any
) -> None:
    reply = ask(
        client,
        model=embedded,
        messages=[{"role": "user", "content": "Add 2 and 3"}],
        tools=[{"name": "add", "input_schema": ADD}],
        tool_choice={"type": "tool", "name": "add"},
        extra_body={"temperature": 0},
    )
    (call,) = _calls(reply)
    assert call.name == "add"
    assert {key: type(value) for key, value in call.input.items()} == {"a": int, "b": int}
    assert reply.stop_reason == "tool_use"
