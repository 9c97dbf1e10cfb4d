"""Thirty tool turns from every front to a self-hosted Kimi: its ids upstream, the client's below.

Each conversation must extend its own prompt byte for byte, and a gateway that never saw it before
must go on with it as if it had.
"""

import re
from pathlib import Path

import msgspec
import pytest

from kimiya.core.exchange import Request, Response, Sampling, ToolSpec
from kimiya.core.messages import (
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    system,
    user,
)
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.server import Running, running
from tests.gateway.selfhosted import (
    FRONTS,
    Posted,
    record_posts,
    replica_before,
    reply_of,
    send,
)

TURNS = 30
# Ids as other engines make them up: what the model would copy, were it shown them.
SCRIPT = """
ids: {style}

reply when turn 7
  reasoning: Two at once, this time.
  call read: {{"path": "left.txt"}}
  call list: {{}}

reply when turn 12
  reasoning: I say something, too.
  text: Now the next one.
  call read: {{"path": "{{turn}}.txt"}}

reply
  reasoning: Step {{turn}} it is.
  call read: {{"path": "{{turn}}.txt"}}
"""
TOOLS = (
    ToolSpec(
        "read",
        "Read a file",
        {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    ),
    ToolSpec("list", "List files", {"type": "object", "properties": {}}),
)
STYLES = {
    "openai_chat": r"call_[0-9A-Za-z]{24}",
    "openai_responses": r"call_[0-9A-Za-z]{24}",
    "anthropic_messages": r"toolu_01[0-9A-Za-z]{22}",
    "bedrock_converse": r"tooluse_[0-9A-Za-z]{22}",
}
# What a client brings along from another provider: two steps made elsewhere.
ELSEWHERE = {
    "openai_chat": ("call_Vq3kYp0aZ8", "functions.read:0"),
    "openai_responses": ("call_Vq3kYp0aZ8", "fc_68f1c2"),
    "anthropic_messages": ("toolu_01A09q90qw90lq917835lq9", "toolu_vrtx_01Hz"),
    "bedrock_converse": ("tooluse_kZJMlvQmRJ6eAyJE5GIl7Q", "tooluse_9"),
}
fronts = pytest.mark.parametrize("front", FRONTS)


def opening(front: str) -> tuple[Message, ...]:
    """A conversation that began elsewhere, with its provider's own ids."""
    first, second = ELSEWHERE[front]
    return (
        system("Work through the files."),
        user("Go on with the files."),
        Message("assistant", (Reasoning("As before.", None), ToolCall(first, "list", "{}"))),
        Message("tool", (ToolResult(first, (Text("a b"),)),)),
        Message("assistant", (Reasoning("And so on."), ToolCall(second, "read", '{"path":"a"}'))),
        Message("tool", (ToolResult(second, (Text("of a"),)),)),
    )


def asking(messages: tuple[Message, ...], turn: int) -> Request:
    """Every other turn is streamed."""
    return Request(
        "model",
        messages,
        tools=TOOLS,
        sampling=Sampling(max_output_tokens=500),
        stream=turn % 2 == 0,
    )


def answered(messages: tuple[Message, ...], reply: Response) -> tuple[Message, ...]:
    """The conversation with the reply and the results of its calls, the last call first."""
    results = tuple(
        ToolResult(call.call_id, (Text(f"what {call.arguments} gave"),))
        for call in reversed(reply.message.tool_calls)
    )
    return (*messages, reply.message, Message("tool", results))


def assert_canonical(request: Request | None) -> None:
    """Ids count through the conversation, and every result names the call it answers."""
    assert request is not None
    calls = [call for message in request.messages for call in message.tool_calls]
    assert [call.call_id for call in calls] == [
        f"functions.{call.name}:{index}" for index, call in enumerate(calls)
    ]
    open_ids: set[str] = set()
    for message in request.messages:
        for result in message.tool_results:
            assert result.call_id in open_ids, "a result before its call, or twice"
            open_ids.remove(result.call_id)
        open_ids |= {call.call_id for call in message.tool_calls}
    assert not open_ids


def assert_paired(request: Request | None) -> None:
    """The text of each result speaks of the call it is paired with."""
    assert request is not None
    arguments = {c.call_id: c.arguments for m in request.messages for c in m.tool_calls}
    for message in request.messages:
        for result in message.tool_results:
            text = "".join(part.text for part in result.content if isinstance(part, Text))
            if text.startswith("what "):
                said = msgspec.json.decode(text[len("what ") : -len(" gave")])
                assert said == msgspec.json.decode(arguments[result.call_id])


def assert_prefixes(posted: Posted) -> None:
    """Each prompt extends the one before it, byte for byte."""
    for earlier, later in zip(posted.messages, posted.messages[1:], strict=False):
        assert later.startswith(earlier[:-1]), f"{earlier[-300:]!r} is not in {later!r}"
        assert len(later) > len(earlier)


@fronts
@pytest.mark.parametrize("native", ["call", "canonical"])
async def test_thirty_turns_are_canonical_upstream_and_the_client_s_own_below(
    front: str, native: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = record_posts(monkeypatch)
    messages = opening(front)
    asked: list[tuple[Message, ...]] = []
    ids: list[list[str]] = []
    async with running(parse_script(SCRIPT.format(style=native))) as host:
        async with replica_before({"up": host}, tmp_path) as replica:
            for turn in range(TURNS):
                request = asking(messages, turn)
                answer = await send(replica.client, front, request)
                reply = reply_of(answer, front, stream=request.stream)
                assert reply.finish_reason == "tool_calls"
                assert_canonical(host.host.last_request)
                assert_paired(host.host.last_request)
                asked.append(messages)
                ids.append([call.call_id for call in reply.message.tool_calls])
                messages = answered(messages, reply)
        flat = [call_id for round_ids in ids for call_id in round_ids]
        assert len(flat) == len(set(flat)) == TURNS + 1
        wrong = [call_id for call_id in flat if not re.fullmatch(STYLES[front], call_id)]
        assert wrong == []
        assert_prefixes(posted)
        await _goes_on_elsewhere(front, host, (asked, ids, posted), tmp_path)


async def _goes_on_elsewhere(
    front: str,
    host: Running,
    seen: tuple[list[tuple[Message, ...]], list[list[str]], Posted],
    folder: Path,
) -> None:
    """A gateway that starts anew in the middle gives the same ids and sends the same bytes."""
    asked, ids, posted = seen
    first = list(posted)
    for turn in (0, 8, 13, TURNS - 1):
        async with replica_before({"up": host}, folder) as replica:
            request = asking(asked[turn], turn)
            answer = await send(replica.client, front, request)
            reply = reply_of(answer, front, stream=request.stream)
        # The host says what turn it is by the history, so it says the same again.
        assert [call.call_id for call in reply.message.tool_calls] == ids[turn]
        assert posted[-1] == first[turn]


@fronts
async def test_the_client_is_told_that_ids_were_renamed(front: str, tmp_path: Path) -> None:
    async with (
        running(parse_script(SCRIPT.format(style="call"))) as host,
        replica_before({"up": host}, tmp_path) as replica,
    ):
        answer = await send(replica.client, front, asking(opening(front), 0))
    assert "call_ids_canonical" in answer.headers["x-kimiya-adjustments"]
