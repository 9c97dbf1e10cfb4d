"""Reasoning that a client dropped reaches the host again: its own, and nobody else's."""

from pathlib import Path

import msgspec
import pytest

from kimiya.core.context import CallContext
from kimiya.core.exchange import Request, Response, Sampling, ToolSpec
from kimiya.core.messages import Message, Reasoning, Text, ToolResult, user
from kimiya.gateway.keys import KeyStore
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.server import Running, running
from tests.gateway.selfhosted import FRONTS, Replica, replica_before, reply_of, send

# Canonical ids, as the vendor's own host gives them: the same in every conversation.
SCRIPT = """
ids: canonical

reply when user matches /about (\\w+)/ and not turn 3
  reasoning: What I think about {1} in step {turn}.
  call read: {"path": "a.txt"}

reply
  text: Done.
"""
READ = ToolSpec(
    "read",
    "Read a file",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
fronts = pytest.mark.parametrize("front", FRONTS)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def asking(messages: tuple[Message, ...], *, stream: bool) -> Request:
    limit = Sampling(max_output_tokens=100)
    return Request("model", messages, tools=(READ,), sampling=limit, stream=stream)


def without_reasoning(message: Message) -> Message:
    """What many clients keep of a reply."""
    parts = tuple(part for part in message.parts if not isinstance(part, Reasoning))
    return msgspec.structs.replace(message, parts=parts)


def gone_on(messages: tuple[Message, ...], reply: Response) -> tuple[Message, ...]:
    results = tuple(ToolResult(c.call_id, (Text("content"),)) for c in reply.message.tool_calls)
    return (*messages, without_reasoning(reply.message), Message("tool", results))


def told(host: Running) -> list[str]:
    """The reasoning of each of the assistant's messages in the newest request."""
    assert host.host.last_request is not None
    return [m.reasoning for m in host.host.last_request.messages if m.role == "assistant"]


async def say(
    replica: Replica, front: str, messages: tuple[Message, ...], *, stream: bool
) -> tuple[Response, str]:
    answer = await send(replica.client, front, asking(messages, stream=stream))
    adjustments = answer.headers.get("x-kimiya-adjustments", "")
    return reply_of(answer, front, stream=stream), adjustments


@fronts
@both_ways
async def test_two_conversations_with_equal_ids_keep_their_own(
    front: str, stream: bool, tmp_path: Path
) -> None:
    async with (
        running(parse_script(SCRIPT)) as host,
        replica_before({"up": host}, tmp_path, card="moonshot/kimi-k2.6") as replica,
    ):
        tea, war = (user("about tea"),), (user("about war"),)
        for turn in (1, 2):
            ids = []
            for topic in ("tea", "war"):
                messages = tea if topic == "tea" else war
                reply, adjustments = await say(replica, front, messages, stream=stream)
                assert told(host) == [
                    f"What I think about {topic} in step {step}." for step in range(1, turn)
                ]
                assert ("reasoning_restored" in adjustments) == (turn > 1)
                ids.append([call.call_id for call in reply.message.tool_calls])
                if topic == "tea":
                    tea = gone_on(tea, reply)
                else:
                    war = gone_on(war, reply)
            if front.startswith("openai"):
                assert ids[0] == ids[1] == [f"functions.read:{turn - 1}"]
        await say(replica, front, tea, stream=stream)
        assert told(host) == [f"What I think about tea in step {step}." for step in (1, 2)]


@fronts
@both_ways
async def test_two_tenants_with_one_conversation_keep_their_own(
    front: str, stream: bool, tmp_path: Path
) -> None:
    script = (
        'reply when request 1\n  reasoning: Ann thinks.\n  call read: {"path": "a"}\n'
        'reply when request 2\n  reasoning: Bob thinks.\n  call read: {"path": "a"}\n'
        "reply\n  text: Done.\n"
    )
    keys = KeyStore(tmp_path / "keys.json")
    secrets = {name: keys.create(name)[1] for name in ("ann", "bob", "eve")}
    async with (
        running(parse_script(script)) as host,
        replica_before({"up": host}, tmp_path, card="moonshot/kimi-k2.6") as replica,
    ):
        tenants = {
            name: Replica(replica.client.with_headers({"x-api-key": secret}), replica.app)
            for name, secret in secrets.items()
        }
        conversations: dict[str, tuple[Message, ...]] = {}
        for name in ("ann", "bob"):
            reply, _ = await say(tenants[name], front, (user("Go"),), stream=stream)
            conversations[name] = gone_on((user("Go"),), reply)
        conversations["eve"] = conversations["ann"]
        for name, own in (("ann", "Ann thinks."), ("bob", "Bob thinks."), ("eve", " ")):
            await say(tenants[name], front, conversations[name], stream=stream)
            assert told(host) == [own]


async def test_without_keys_too_a_call_in_process_says_whose_it_is(tmp_path: Path) -> None:
    request = asking((user("about tea"),), stream=False)
    async with (
        running(parse_script(SCRIPT)) as host,
        replica_before({"up": host}, tmp_path) as replica,
    ):
        pipeline = replica.app.pipeline
        outcome = await pipeline.complete(request, CallContext(key_id="ann"))
        again = asking(gone_on(request.messages, outcome.response), stream=False)
        for key, own in (("ann", "What I think about tea in step 1."), (None, " "), ("", " ")):
            await pipeline.complete(again, CallContext(key_id=key))
            assert told(host) == [own]


@fronts
@both_ways
async def test_lost_reasoning_becomes_the_placeholder_and_is_said(
    front: str, stream: bool, tmp_path: Path
) -> None:
    async with running(parse_script(SCRIPT)) as host:
        async with replica_before({"up": host}, tmp_path) as replica:
            messages = (user("about tea"),)
            reply, _ = await say(replica, front, messages, stream=stream)
            messages = gone_on(messages, reply)
        async with replica_before({"up": host}, tmp_path) as fresh:
            reply, adjustments = await say(fresh, front, messages, stream=stream)
            assert told(host) == [" "]
            assert "reasoning_placeholder" in adjustments
            # The next step is kept again; the lost one stays lost, and the prompt its prefix.
            _, adjustments = await say(fresh, front, gone_on(messages, reply), stream=stream)
            assert told(host) == [" ", "What I think about tea in step 2."]
            assert "reasoning_restored,reasoning_placeholder" in adjustments


@fronts
async def test_reasoning_the_client_gives_back_is_not_touched(front: str, tmp_path: Path) -> None:
    async with (
        running(parse_script(SCRIPT)) as host,
        replica_before({"up": host}, tmp_path) as replica,
    ):
        messages = (user("about tea"),)
        reply, _ = await say(replica, front, messages, stream=False)
        own = msgspec.structs.replace(
            reply.message, parts=(Reasoning("The client's."), *reply.message.tool_calls)
        )
        messages = (messages[0], own, *gone_on(messages, reply)[2:])
        _, adjustments = await say(replica, front, messages, stream=False)
        assert told(host) == ["The client's."]
        assert "reasoning" not in adjustments
