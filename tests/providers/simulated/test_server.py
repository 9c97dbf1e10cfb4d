"""What the simulated host sends over a port."""

import json

import pytest

from kimiya.errors import ConfigError
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.server import running, serve
from kimiya.providers.transport import AiohttpTransport, Timeouts
from kimiya.wire.anthropic_messages import ANTHROPIC_MESSAGES
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE
from kimiya.wire.openai_chat import OPENAI_CHAT
from kimiya.wire.openai_responses import OPENAI_RESPONSES

DIALECTS = (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES, BEDROCK_CONVERSE)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALLING = 'reply\n  call f: {"path": "a.txt"}'


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[dict[str, object]]:
        lines = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]


async def post(script: str, path: str, body: object, seed: int | None = None) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with running(parse_script(script), dialects=DIALECTS, seed=seed) as host:
        transport = AiohttpTransport(Timeouts(5, 5, 5))
        try:
            reply = await transport.post(host.base_url + path, data, {})
            return Answer(reply.status, dict(reply.headers), await reply.read())
        finally:
            await transport.aclose()


def chat(*, stream: bool = False) -> dict[str, object]:
    return {
        "model": "kimi",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": TOOLS,
        "stream": stream,
    }


MESSAGES = {
    "model": "kimi",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
}


RESPONSES = {
    "model": "kimi",
    "input": "hi",
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
}
CONVERSE = {
    "messages": [{"role": "user", "content": [{"text": "hi"}]}],
    "toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}]},
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_openai(path: str) -> None:
    answer = await post("reply\n  text: {user}!", path, chat())
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"] == "hi!"  # type: ignore[index]
    assert answer.json["model"] == "kimi"
    assert answer.headers["x-kimiya-simulated"] == "request=1 line=1 fault=none"


async def test_anthropic() -> None:
    answer = await post("reply\n  text: {user}!", "/v1/messages", MESSAGES)
    assert answer.json["content"] == [{"type": "text", "text": "hi!"}]


async def test_responses() -> None:
    answer = await post("reply\n  text: {user}!", "/v1/responses", RESPONSES)
    assert b'"hi!"' in answer.body


async def test_bedrock() -> None:
    answer = await post("reply\n  text: {user} {model}", "/model/a%2Fb%3A1/converse", CONVERSE)
    assert answer.json["output"]["message"]["content"] == [{"text": "hi a/b:1"}]  # type: ignore[index]
    streamed = await post("reply\n  text: x", "/model/a/converse-stream", CONVERSE)
    assert streamed.headers["content-type"] == "application/vnd.amazon.eventstream"


async def test_token_counts() -> None:
    answer = await post("reply", "/v1/messages/count_tokens", MESSAGES)
    assert answer.json["input_tokens"] > 0  # type: ignore[operator]


async def test_models() -> None:
    script = parse_script("models: a, b\nreply")
    async with running(script, dialects=DIALECTS) as host:
        transport = AiohttpTransport(Timeouts(5, 5, 5))
        reply = await transport.get(f"{host.base_url}/v1/models", {})
        assert [row["id"] for row in json.loads(await reply.read())["data"]] == ["a", "b"]
        await transport.aclose()


BAD = [
    ("/v1/chat/completions", b"not json", 400),
    ("/v1/chat/completions", b"", 400),
    ("/v1/chat/completions", {"model": 1}, 400),
    ("/v1/messages", {"messages": "x"}, 400),
    ("/v1/nowhere", {}, 404),
    ("/", {}, 404),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD)
async def test_bad_requests(path: str, body: object, status: int) -> None:
    answer = await post("reply", path, body)
    assert answer.status == status
    assert "error" in answer.json


async def test_a_request_nothing_fits_is_told_so() -> None:
    answer = await post("reply when turn 9\n  text: x", "/v1/chat/completions", chat())
    assert answer.status == 400
    assert b"no reply of script" in answer.body


async def test_statuses_and_retry_after_are_those_of_the_script() -> None:
    script = 'reply\n  error: 529 overloaded_error retry_after=1500ms "come back"'
    for path, body in (("/v1/chat/completions", chat()), ("/v1/messages", MESSAGES)):
        answer = await post(script, path, body)
        assert answer.status == 529
        assert answer.headers["retry-after"] == "1.5"
        assert b"come back" in answer.body


def names(answer: Answer) -> list[str]:
    deltas = [choice["delta"] for chunk in answer.chunks for choice in chunk["choices"]]  # type: ignore
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    return [call["function"].get("name") for call in calls]


async def test_strange_framing_reaches_the_chat_wire() -> None:
    async def seen(fault: str) -> list[str]:
        script = f'reply\n  call read_file: {{"path": "a.txt"}}\n  fault: {fault}'
        return names(await post(script, "/v1/chat/completions", chat(stream=True)))

    assert (await seen("H.fragments"))[:2] == ["read", "_file"]
    assert set(await seen("H.repeats")) == {"read_file"}
    assert "" in await seen("H.empties")


@pytest.mark.parametrize("fault", ["H.fragments", "H.repeats", "H.empties"])
async def test_strange_framing_is_made_plain_where_a_wire_has_no_place_for_it(fault: str) -> None:
    script = f"{CALLING}\n  fault: {fault}"
    answer = await post(script, "/v1/messages", {**MESSAGES, "stream": True})
    starts = [e["content_block"] for e in answer.chunks if e["type"] == "content_block_start"]
    assert [block["name"] for block in starts] == ["f"]  # type: ignore[index]
    pieces = [
        e["delta"].get("partial_json", "") for e in answer.chunks if "index" in e and "delta" in e
    ]  # type: ignore
    assert json.loads("".join(pieces)) == {"path": "a.txt"}


async def test_damaged_arguments_reach_every_wire() -> None:
    script = f"{CALLING}\n  fault: F.no_brace"
    streamed = await post(script, "/v1/messages", {**MESSAGES, "stream": True})
    pieces = [e["delta"].get("partial_json", "") for e in streamed.chunks if "delta" in e]  # type: ignore
    assert "".join(pieces) == '{"path": "a.txt"'
    whole = await post(script, "/v1/messages", MESSAGES)
    assert whole.json["content"][-1]["input"] == '{"path": "a.txt"'  # type: ignore[index]
    openai = await post(script, "/v1/chat/completions", chat())
    (call,) = openai.json["choices"][0]["message"]["tool_calls"]  # type: ignore[index]
    assert call["function"]["arguments"] == '{"path": "a.txt"'


async def test_every_fault_leaves_the_host_answering() -> None:
    from kimiya.providers.simulated.damage import FORMS

    script = "\n".join(
        f"reply when request {number}\n  text: x\n  call f: {{}}\n  fault: {name}"
        for number, name in enumerate([n for n in FORMS for _ in range(8)], 1)
    )
    bodies = [
        ("/v1/chat/completions", chat()),
        ("/v1/chat/completions", chat(stream=True)),
        ("/v1/messages", MESSAGES),
        ("/v1/messages", {**MESSAGES, "stream": True}),
        ("/v1/responses", RESPONSES),
        ("/v1/responses", {**RESPONSES, "stream": True}),
        ("/model/kimi/converse", CONVERSE),
        ("/model/kimi/converse-stream", CONVERSE),
    ]
    async with running(parse_script(script), dialects=DIALECTS) as host:
        transport = AiohttpTransport(Timeouts(5, 5, 5))
        for name in FORMS:
            for path, body in bodies:
                data = json.dumps(body).encode()
                reply = await transport.post(host.base_url + path, data, {})
                assert reply.status == 200, (name, path, await reply.read())
                assert await reply.read()
        await transport.aclose()


def test_only_loopback_unless_it_is_meant(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "x.sim"
    path.write_text("reply")
    with pytest.raises(ConfigError, match="public"):
        serve(path, "0.0.0.0", 0)
    with pytest.raises(ConfigError, match="port"):
        serve(path, "127.0.0.1", 70_000)
