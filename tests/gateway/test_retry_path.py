"""A turn that breaks, as every client sees it: one coherent reply or one clear error.

The upstream is a served simulated host with a self-hosted Kimi's card; what it says the first time
is broken in one way or another, what it says when asked again is not.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from kimiya.core.exchange import Request, Sampling, ToolSpec
from kimiya.core.messages import user
from kimiya.errors import KimiyaError
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.server import Running, running
from kimiya.wire.aws_eventstream import FrameDecoder
from kimiya.wire.dialects import DIALECTS
from tests.gateway.driver import Answer
from tests.gateway.selfhosted import (
    FRONTS,
    Posted,
    Replica,
    record_posts,
    replica_before,
    reply_of,
    send,
)

LEAK = "<|tool_call_begin|>functions.read:0<|tool_call_argument_begin|>"
BROKEN = "the broken turn"
"""Stands in everything a broken turn says, so that a stitched reply shows."""

# What the host says first, and the reason people are given for asking again.
RETRIED = {
    "empty": ("fault: I.empty", "empty_turn: the turn is empty"),
    "think_only": (
        f"reasoning: {BROKEN}\n  finish: stop",
        "think_only: the turn ends after its reasoning",
    ),
    "padding": ("fault: I.marks", "padding: the turn is padding"),
    "undeclared": (
        f'reasoning: {BROKEN}\n  call open_portal: {{"path": "{BROKEN}"}}',
        "undeclared_tool: the model called a tool nobody declared",
    ),
    "undeclared_leaked": (
        f"reasoning: {BROKEN}\n  fault: J.leaked",
        "undeclared_tool: the model called a tool nobody declared",
    ),
    "truncated": (
        f'reasoning: {BROKEN}\n  raw: {LEAK}{{"path": "{BROKEN}\n  finish: length',
        "truncated_call: a call was cut before its end",
    ),
    "invalid": (
        f'reasoning: {BROKEN}\n  call read: {{"file": "{BROKEN}"}}',
        "invalid_arguments: arguments do not fit the tool's schema",
    ),
}
# What is mended at once, and the code of the mend.
REPAIRED = {
    "in_text": ("fault: B.plain", "call_from_content"),
    "in_reasoning": ("fault: A.plain", "call_from_reasoning"),
    "in_name": ("fault: D.tailed", "name_mended"),
    "glued": ("fault: E.glued", "call_unglued"),
}
READ = ToolSpec(
    "read",
    "Read a file",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
GOOD = """
  reasoning: A good thought.
  text: I read it.
  call read: {"path": "good.txt"}
  usage: input=20 output=9
"""
fronts = pytest.mark.parametrize("front", FRONTS)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def asking(*, stream: bool, tools: tuple[ToolSpec, ...] = (READ,)) -> Request:
    limit = Sampling(max_output_tokens=100)
    return Request("model", (user("Go"),), tools=tools, sampling=limit, stream=stream)


class Scene(Struct):
    """A gateway and the hosts behind it."""

    replica: Replica
    hosts: Mapping[str, Running]
    posted: Posted

    async def ask(self, front: str, *, stream: bool, **fields: Any) -> Answer:
        return await send(self.replica.client, front, asking(stream=stream, **fields))

    async def metrics(self) -> str:
        answer = await self.replica.client.send("/metrics", method="GET")
        return answer.body.decode()


@asynccontextmanager
async def scene(
    folder: Path, patch: pytest.MonkeyPatch, *scripts: str, retries: int = 1
) -> AsyncIterator[Scene]:
    """A gateway before one host, or two where the first may be given up."""
    async with (
        running(parse_script(scripts[0])) as first,
        running(parse_script(scripts[-1])) as second,
    ):
        hosts = {"up": first, "spare": second}
        if len(scripts) == 1:
            hosts.pop("spare")
        async with replica_before(hosts, folder, retries=retries) as replica:
            yield Scene(replica, hosts, record_posts(patch))


def broken_once(steps: str) -> str:
    return f"reply once\n  {steps}\n\nreply{GOOD}"


def broken_always(steps: str) -> str:
    return f"reply\n  {steps}\n"


def remarks_of(answer: Answer, front: str, *, stream: bool) -> Mapping[str, str]:
    """What the answer says of its own making: headers, or the note behind a stream."""
    if not stream:
        kept = {k: v for k, v in answer.headers.items() if k.startswith("x-kimiya-")}
        return {name.removeprefix("x-kimiya-"): text for name, text in kept.items()}
    if front == "bedrock_converse":
        frames = FrameDecoder().feed(answer.body)
        (note,) = [f for f in frames if f.word(":event-type") == "kimiyaNote"]
        return msgspec.json.decode(note.payload)
    found = re.findall(r"^: kimiya ([\w-]+)=(.*)$", answer.body.decode(), re.MULTILINE)
    return dict(found)


def assert_good(answer: Answer, front: str, *, stream: bool) -> None:
    """The reply is the good one, whole, and nothing else."""
    reply = reply_of(answer, front, stream=stream)
    assert reply.message.text == "I read it."
    assert reply.message.reasoning == "A good thought."
    calls = [(c.name, msgspec.json.decode(c.arguments)) for c in reply.message.tool_calls]
    assert calls == [("read", {"path": "good.txt"})]
    assert reply.finish_reason == "tool_calls"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (20, 9)
    assert BROKEN.encode() not in answer.body
    assert b"<|" not in answer.body
    assert b"!!!" not in answer.body


def error_in(answer: Answer, front: str) -> KimiyaError:
    """The one error a stream ends with."""
    decoder = DIALECTS[front].event_decoder()
    try:
        for piece in answer.pieces:
            decoder.feed(piece)
        decoder.close()
    except KimiyaError as error:
        return error
    pytest.fail(f"the stream ended well: {answer.body!r}")


@fronts
@both_ways
@pytest.mark.parametrize("case", sorted(RETRIED))
async def test_a_broken_turn_is_asked_again_and_nobody_sees_it(
    front: str, stream: bool, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, reason = RETRIED[case]
    async with scene(tmp_path, monkeypatch, broken_once(steps)) as on:
        answer = await on.ask(front, stream=stream)
        page = await on.metrics()
        assert len(on.hosts["up"].host.performed) == 2
    assert_good(answer, front, stream=stream)
    remarks = remarks_of(answer, front, stream=stream)
    assert remarks["verdict"] == "retried"
    assert remarks["reason"] == reason
    assert remarks["attempts"] == "2"
    assert remarks["route"] == "up:moonshotai/Kimi-K2.5"
    target = 'target="up:moonshotai/Kimi-K2.5"'
    assert f'kimiya_verdicts_total{{{target},verdict="retried"}} 1.0' in page
    assert f'kimiya_attempts_total{{error="Unusable",{target}}} 1.0' in page
    assert f'kimiya_attempts_total{{error="none",{target}}} 1.0' in page


@fronts
@both_ways
@pytest.mark.parametrize("case", sorted(REPAIRED))
async def test_a_mended_turn_needs_no_second_attempt(
    front: str, stream: bool, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, code = REPAIRED[case]
    script = f"reply\n  {steps}{GOOD}"
    async with scene(tmp_path, monkeypatch, script) as on:
        answer = await on.ask(front, stream=stream)
        page = await on.metrics()
        assert len(on.hosts["up"].host.performed) == 1
    assert_good(answer, front, stream=stream)
    remarks = remarks_of(answer, front, stream=stream)
    assert remarks["verdict"] == "repaired"
    assert code in re.split(r"[,*]", remarks["repairs"])
    assert "reason" not in remarks
    assert f'kimiya_repairs_total{{code="{code}"}} 1.0' in page
    assert 'verdict="repaired"} 1.0' in page


@fronts
@both_ways
async def test_the_second_attempt_is_constrained_and_keeps_the_prompt(
    front: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, _ = RETRIED["truncated"]
    async with scene(tmp_path, monkeypatch, broken_once(steps)) as on:
        await on.ask(front, stream=stream)
        first, second = (msgspec.json.decode(body) for body in on.posted)
    assert "response_format" not in first
    tag = second.pop("response_format")
    assert tag["type"] == "structural_tag"
    (call,) = tag["format"]["tags"]
    assert call["begin"] == "<|tool_call_begin|>functions.read:"
    assert call["content"]["elements"][-1]["json_schema"] == READ.parameters
    assert second == first
    assert on.posted.messages[0] == on.posted.messages[1]


@fronts
@both_ways
async def test_an_empty_turn_is_asked_again_as_it_was(
    front: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, _ = RETRIED["empty"]
    async with scene(tmp_path, monkeypatch, broken_once(steps)) as on:
        await on.ask(front, stream=stream)
    assert on.posted[0] == on.posted[1]


@fronts
@both_ways
@pytest.mark.parametrize("case", ["think_only", "truncated", "undeclared"])
async def test_a_host_that_goes_on_breaking_is_left_for_the_next(
    front: str, stream: bool, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, reason = RETRIED[case]
    async with scene(tmp_path, monkeypatch, broken_always(steps), f"reply{GOOD}") as on:
        answer = await on.ask(front, stream=stream)
        page = await on.metrics()
        assert [len(host.host.performed) for host in on.hosts.values()] == [2, 1]
    assert_good(answer, front, stream=stream)
    remarks = remarks_of(answer, front, stream=stream)
    assert remarks["route"] == "spare:moonshotai/Kimi-K2.5"
    assert (remarks["verdict"], remarks["reason"], remarks["attempts"]) == ("retried", reason, "3")
    assert 'kimiya_attempts_total{error="Unusable",target="up:moonshotai/Kimi-K2.5"} 2.0' in page
    assert 'kimiya_attempts_total{error="none",target="spare:moonshotai/Kimi-K2.5"} 1.0' in page


@fronts
@both_ways
@pytest.mark.parametrize("case", sorted(RETRIED))
async def test_what_no_attempt_mends_is_one_clear_error(
    front: str, stream: bool, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, reason = RETRIED[case]
    async with scene(tmp_path, monkeypatch, broken_always(steps)) as on:
        answer = await on.ask(front, stream=stream)
        page = await on.metrics()
        assert len(on.hosts["up"].host.performed) == 2
    status = 424 if front == "bedrock_converse" else 502  # its ModelErrorException
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    error = DIALECTS[front].decode_error(answer.status, answer.headers, answer.body)
    assert error.retryable
    assert f"no usable reply in 2 attempt(s): {reason}" in error.message
    assert BROKEN.encode() not in answer.body
    assert b"<|" not in answer.body
    assert 'kimiya_verdicts_total{target="up:moonshotai/Kimi-K2.5",verdict="failed"} 1.0' in page
    assert f'status="{status}"' in page


@fronts
async def test_a_stream_whose_text_was_read_ends_with_an_error_never_with_a_second_reply(
    front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "reply once\n  text: This much you have read. \n  call open_portal: {}\n\nreply" + GOOD
    async with scene(tmp_path, monkeypatch, script, f"reply{GOOD}") as on:
        answer = await on.ask(front, stream=True)
        assert [len(host.host.performed) for host in on.hosts.values()] == [1, 0]
    assert answer.status == 200
    assert b"This much you have read." in answer.body
    assert b"I read it." not in answer.body
    assert b"open_portal" not in answer.body
    assert "no usable reply" in error_in(answer, front).message


@fronts
async def test_the_same_reply_asked_for_whole_is_asked_again(
    front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "reply once\n  text: This much came. \n  call open_portal: {}\n\nreply" + GOOD
    async with scene(tmp_path, monkeypatch, script) as on:
        answer = await on.ask(front, stream=False)
    assert_good(answer, front, stream=False)
    assert b"This much came." not in answer.body


@fronts
@both_ways
async def test_a_call_without_declared_tools_is_asked_for_in_words(
    front: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        f'reply once\n  raw: {LEAK}{{"path": "{BROKEN}"}}<|tool_call_end|>\n\n'
        "reply\n  text: In words, then."
    )
    async with scene(tmp_path, monkeypatch, script) as on:
        answer = await on.ask(front, stream=stream, tools=())
    assert reply_of(answer, front, stream=stream).message.text == "In words, then."
    assert BROKEN.encode() not in answer.body
    assert remarks_of(answer, front, stream=stream)["verdict"] == "retried"
