"""``boto3``'s ``converse`` and ``converse_stream`` through the gateway, credentials made up."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.e2e.files import ADD, PNG, SCHEMAS, WRITTEN, run_tool

TOOLS: Any = {
    "tools": [
        {"toolSpec": {"name": name, "inputSchema": {"json": schema}}}
        for name, schema in SCHEMAS.items()
    ]
}
IMAGE: Any = [
    {
        "role": "user",
        "content": [
            {"text": "image: what is it?"},
            {"image": {"format": "png", "source": {"bytes": base64.b64decode(PNG)}}},
        ],
    }
]


@pytest.fixture
def client(gateway: str) -> Iterator[Any]:
    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=gateway,
        region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="made-up",
        config=Config(retries={"max_attempts": 0}, proxies={}),
    )
    yield client
    client.close()


def _asking(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": text}]}


def _whole(client: Any, **asked: Any) -> dict[str, Any]:
    reply = client.converse(**asked)
    return {"stop": reply["stopReason"], "usage": reply["usage"], **reply["output"]["message"]}


def _streamed(client: Any, **asked: Any) -> dict[str, Any]:
    """The events, put together as Bedrock's clients do."""
    blocks: dict[int, dict[str, Any]] = {}
    out: dict[str, Any] = {"role": "assistant"}
    for event in client.converse_stream(**asked)["stream"]:
        if start := event.get("contentBlockStart"):
            blocks[start["contentBlockIndex"]] = {
                "toolUse": {**start["start"]["toolUse"], "json": ""}
            }
        elif piece := event.get("contentBlockDelta"):
            _grow(blocks.setdefault(piece["contentBlockIndex"], {}), piece["delta"])
        elif stop := event.get("messageStop"):
            out["stop"] = stop["stopReason"]
        elif metadata := event.get("metadata"):
            out["usage"] = metadata["usage"]
    for block in blocks.values():
        if call := block.get("toolUse"):
            call["input"] = json.loads(call.pop("json") or "{}")
    return {**out, "content": [blocks[index] for index in sorted(blocks)]}


def _grow(block: dict[str, Any], delta: dict[str, Any]) -> None:
    if "toolUse" in delta:
        block["toolUse"]["json"] += delta["toolUse"]["input"]
    elif "reasoningContent" in delta:
        text = block.setdefault("reasoningContent", {"reasoningText": {"text": ""}})
        text["reasoningText"]["text"] += delta["reasoningContent"].get("text", "")
    else:
        block["text"] = block.get("text", "") + delta["text"]


both_ways = pytest.mark.parametrize("ask", [_whole, _streamed], ids=["whole", "streamed"])


def _text(reply: dict[str, Any]) -> str:
    return "".join(block.get("text", "") for block in reply["content"])


def _calls(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return [block["toolUse"] for block in reply["content"] if "toolUse" in block]


def _results(reply: dict[str, Any], folder: Path) -> dict[str, Any]:
    results = [
        {
            "toolResult": {
                "toolUseId": call["toolUseId"],
                "content": [{"text": run_tool(folder, call["name"], call["input"])}],
            }
        }
        for call in _calls(reply)
    ]
    return {"role": "user", "content": results}


def _said(reply: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": reply["content"]}


@both_ways
def test_a_chat(client: Any, ask: Any) -> None:
    reply = ask(client, modelId="sim", messages=[_asking("chat: hi")])
    assert _text(reply) == "You said: chat: hi — ü€"
    reasoning = [b["reasoningContent"]["reasoningText"]["text"] for b in reply["content"][:1]]
    assert reasoning == ["A greeting."]
    assert reply["stop"] == "end_turn"
    assert reply["usage"]["inputTokens"] == 21
    assert reply["usage"]["outputTokens"] == 9


@both_ways
def test_a_tool_loop_writes_a_file(client: Any, ask: Any, tmp_path: Path) -> None:
    messages = [_asking("loop: note.txt")]
    for _ in range(2):
        reply = ask(client, modelId="sim", messages=messages, toolConfig=TOOLS)
        assert reply["stop"] == "tool_use"
        messages += [_said(reply), _results(reply, tmp_path)]
    final = ask(client, modelId="sim", messages=messages, toolConfig=TOOLS)
    assert _text(final) == f"It holds: {WRITTEN}"
    assert (tmp_path / "note.txt").read_text() == WRITTEN


@both_ways
def test_parallel_calls(client: Any, ask: Any, tmp_path: Path) -> None:
    messages = [_asking("parallel: two files")]
    reply = ask(client, modelId="sim", messages=messages, toolConfig=TOOLS)
    assert len({call["toolUseId"] for call in _calls(reply)}) == 2
    messages += [_said(reply), _results(reply, tmp_path)]
    final = ask(client, modelId="sim", messages=messages, toolConfig=TOOLS)
    assert _text(final).startswith("Results:")
    assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["A", "B"]


def test_an_image_is_taken_where_the_model_sees(client: Any) -> None:
    assert _text(_whole(client, modelId="sim", messages=IMAGE)) == "A picture, then."


def test_an_image_is_refused_where_it_does_not(client: Any, embedded: str) -> None:
    with pytest.raises(ClientError) as caught:
        client.converse(modelId=embedded, messages=IMAGE)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("model", "text", "code"),
    [("sim", "busy: now", "ThrottlingException"), ("none", "x", "ResourceNotFoundException")],
)
def test_errors_are_bedrocks_own(client: Any, model: str, text: str, code: str) -> None:
    for call in (client.converse, client.converse_stream):
        with pytest.raises(ClientError) as caught:
            call(modelId=model, messages=[_asking(text)])
        assert caught.value.response["Error"]["Code"] == code


@both_ways
def test_the_embedded_model_chats(client: Any, embedded: str, ask: Any) -> None:
    reply = ask(
        client,
        modelId=embedded,
        system=[{"text": "You are a helpful assistant."}],
        messages=[_asking("What is the capital of France?")],
        inferenceConfig={"maxTokens": 24, "temperature": 0},
    )
    assert "Paris" in _text(reply)
    assert reply["usage"]["outputTokens"] == 8


@both_ways
def test_the_embedded_model_calls_the_tool_it_must(client: Any, embedded: str, ask: Any) -> None:
    reply = ask(
        client,
        modelId=embedded,
        messages=[_asking("Add 2 and 3")],
        toolConfig={
            "tools": [{"toolSpec": {"name": "add", "inputSchema": {"json": ADD}}}],
            "toolChoice": {"tool": {"name": "add"}},
        },
        inferenceConfig={"maxTokens": 60, "temperature": 0},
    )
    (call,) = _calls(reply)
    assert call["name"] == "add"
    assert set(call["input"]) == {"a", "b"}
    assert reply["stop"] == "tool_use"
