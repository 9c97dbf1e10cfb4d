"""The official Anthropic SDK reads what the dialect writes, and the dialect what the SDK sends."""

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest
from msgspec import structs

from kimiya.core.exchange import Request, Response, Usage
from kimiya.core.fold import unfold
from kimiya.core.messages import Breakpoint, Message, Reasoning, Text, ToolCall, ToolResult
from kimiya.errors import (
    BudgetExceeded,
    ContextOverflow,
    KimiyaError,
    Overloaded,
    ProviderTimeout,
    RateLimited,
    Unauthorized,
    UnknownModel,
)
from kimiya.wire.anthropic_messages import ANTHROPIC_MESSAGES as DIALECT

ASKED = Request("kimi", ())
REPLY = Response(
    response_id="msg_1",
    model="kimi-k2.5",
    parts=(
        Reasoning("Let me look.", signature="c2ln"),
        Text("I will read it."),
        ToolCall("functions.read:0", "read", '{"path": "a b"}'),
        ToolCall("functions.now:1", "now", ""),
        Reasoning("", redacted="cmVk"),
    ),
    finish_reason="tool_calls",
    raw_finish_reason="tool_calls",
    usage=Usage(100, 20, cache_read_tokens=60, cache_write_tokens=30, cache_write_1h_tokens=10),
)


def client(handler: Callable[[httpx2.Request], httpx2.Response]) -> anthropic.Anthropic:
    """The SDK with no network below it."""
    http = httpx2.Client(transport=httpx2.MockTransport(handler))
    return anthropic.Anthropic(
        api_key="none", base_url="http://kimiya.test", max_retries=0, http_client=http
    )


def answering(body: bytes, status: int = 200, **headers: str) -> anthropic.Anthropic:
    """The SDK before a host with one answer."""
    return client(lambda _: httpx2.Response(status, content=body, headers=headers))


def ask(sdk: anthropic.Anthropic) -> anthropic.types.Message:
    return sdk.messages.create(
        model="kimi", max_tokens=9, messages=[{"role": "user", "content": "hello"}]
    )


def check(message: Any) -> None:
    kinds = [block.type for block in message.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use", "redacted_thinking"]
    thinking, text, read, now, redacted = message.content
    assert (thinking.thinking, thinking.signature) == ("Let me look.", "c2ln")
    assert text.text == "I will read it."
    assert (read.id, read.name, read.input) == ("functions.read:0", "read", {"path": "a b"})
    assert now.input == {}
    assert redacted.data == "cmVk"
    assert (message.id, message.model) == ("msg_1", "kimi-k2.5")
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (10, 20)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (60, 30)


def test_whole() -> None:
    body = DIALECT.encode_response(REPLY, ASKED)
    check(ask(answering(body, **{"content-type": "application/json"})))


def test_streamed_with_pings_and_notes() -> None:
    encoder = DIALECT.event_encoder(ASKED)
    pieces = [encoder.encode(event) + encoder.ping() for event in unfold(REPLY)]
    notes = encoder.note({"route": "moonshot:kimi", "repairs": "2\nevent: x"})
    stream = b"".join([*pieces, notes, encoder.close()])
    sdk = answering(stream, **{"content-type": DIALECT.stream_content_type})
    with sdk.messages.stream(
        model="kimi", max_tokens=9, messages=[{"role": "user", "content": "hello"}]
    ) as events:
        seen = {event.type for event in events}
        check(events.get_final_message())
    assert {"message_start", "signature", "input_json", "thinking", "message_stop"} <= seen


def test_an_error_inside_a_stream_is_raised() -> None:
    encoder = DIALECT.event_encoder(ASKED)
    stream = b"".join(map(encoder.encode, unfold(REPLY)[:3])) + encoder.error(Overloaded("full"))
    sdk = answering(stream, **{"content-type": DIALECT.stream_content_type})
    with (
        pytest.raises(anthropic.APIStatusError, match="overloaded_error"),
        sdk.messages.stream(
            model="kimi", max_tokens=9, messages=[{"role": "user", "content": "hello"}]
        ) as events,
    ):
        events.get_final_message()


@pytest.mark.parametrize(
    ("error", "status", "kind", "raised"),
    [
        (RateLimited("slow", retry_after_s=1.2), 429, "rate_limit_error", anthropic.RateLimitError),
        (Overloaded("full"), 529, "overloaded_error", anthropic.OverloadedError),
        (UnknownModel("kimmi", ["kimi"]), 404, "not_found_error", anthropic.NotFoundError),
        (Unauthorized("no"), 401, "authentication_error", anthropic.AuthenticationError),
        (ProviderTimeout("late"), 504, "timeout_error", anthropic.GatewayTimeoutError),
        (BudgetExceeded("over", budget="b"), 429, "rate_limit_error", anthropic.RateLimitError),
        (ContextOverflow("9 > 8"), 400, "invalid_request_error", anthropic.BadRequestError),
        (KimiyaError("broken"), 500, "api_error", anthropic.InternalServerError),
    ],
)
def test_errors(error: KimiyaError, status: int, kind: str, raised: type[Exception]) -> None:
    wire = DIALECT.encode_error(error)
    with pytest.raises(raised) as caught:
        ask(answering(wire.body, wire.status, **wire.headers))
    assert wire.status == status
    assert caught.value.body["error"]["type"] == kind  # type: ignore[attr-defined]
    back = DIALECT.decode_error(wire.status, wire.headers, wire.body)
    if isinstance(error, RateLimited):
        assert (type(back), back.retry_after_s) == (RateLimited, 2.0)
    if isinstance(error, ContextOverflow):
        # Claude Code shortens its history when it meets these words.
        assert "prompt is too long" in str(caught.value)
        assert type(back) is ContextOverflow


def test_a_conversation_of_the_sdk_is_read() -> None:
    bodies: list[bytes] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.content)
        return httpx2.Response(200, content=DIALECT.encode_response(REPLY, ASKED))

    sdk = client(handle)
    first = ask(sdk)
    sdk.messages.create(
        model="kimi",
        max_tokens=9,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        thinking={"type": "enabled", "budget_tokens": 2048},
        metadata={"user_id": "u1"},
        messages=[
            {"role": "user", "content": "hello"},
            first.to_param(),
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "and then?"},
                    {"type": "tool_result", "tool_use_id": "functions.read:0", "content": "x"},
                    {"type": "tool_result", "tool_use_id": "functions.now:1", "is_error": True},
                ],
            },
        ],
    )
    read = DIALECT.decode_request(bodies[-1])
    assert [message.role for message in read.messages] == [
        "system", "user", "assistant", "tool", "user",
    ]  # fmt: skip
    assert read.messages[0].parts == (Text("Be brief.", Breakpoint()),)
    shown = [structs.replace(part, extras={}) for part in read.messages[2].parts]
    assert shown[2].arguments.replace(" ", "") == '{"path":"ab"}'  # type: ignore[union-attr]
    assert shown[0] == REPLY.parts[0]
    assert read.messages[3] == Message(
        "tool",
        (
            ToolResult("functions.read:0", (Text("x"),)),
            ToolResult("functions.now:1", is_error=True),
        ),
    )
    assert read.messages[4].text == "and then?"
    assert (read.thinking.enabled, read.thinking.budget_tokens, read.user) == (True, 2048, "u1")


def test_token_counts() -> None:
    sdk = answering(DIALECT.encode_token_count(41))
    counted = sdk.messages.count_tokens(
        model="kimi", messages=[{"role": "user", "content": "hello"}]
    )
    assert counted.input_tokens == DIALECT.decode_token_count(b'{"input_tokens": 41}') == 41
