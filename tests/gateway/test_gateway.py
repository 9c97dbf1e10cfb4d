"""What the gateway answers at its edges: pages, keys, limits, bad bodies, clients that leave."""

import asyncio
import json
from pathlib import Path

import pytest

from kimiya.assembly import App, assemble
from kimiya.config.settings import Config, ProviderConfig, RouteConfig
from kimiya.core.context import CallContext
from kimiya.core.exchange import Request
from kimiya.gateway.endpoints import Limits
from kimiya.gateway.keys import KeyStore
from kimiya.pipeline import Call
from kimiya.providers.simulated import SimulatedProvider
from kimiya.wire.dialects import DIALECTS
from tests.gateway.driver import Client, gateway_over

SCRIPT = """
reply when user contains 'cut'
  text: this reply will be
  cut

reply when user contains 'stall'
  text: one moment
  stall

reply when user contains 'down'
  error: 503 overloaded "no room"

reply
  text: {user}
"""
CALLS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
    "bedrock_converse": "/model/sim/converse",
}
STREAM_PATHS = {**CALLS, "bedrock_converse": "/model/sim/converse-stream"}


def make_app(folder: Path) -> App:
    """Parts over one simulated provider."""
    script = folder / "script.txt"
    script.write_text(SCRIPT)
    return assemble(
        Config(
            providers={"sim": ProviderConfig(kind="simulated", host="sim", script=str(script))},
            routes={"sim": RouteConfig(targets=("sim:echo",), retries=0)},
        ),
        env={},
    )


@pytest.fixture
def app(tmp_path: Path) -> App:
    return make_app(tmp_path)


@pytest.fixture
def client(app: App, tmp_path: Path) -> Client:
    return Client(gateway_over(app, tmp_path))


def body_for(front: str, text: str, *, stream: bool = False, model: str = "sim") -> bytes:
    """A minimal body of a front, as its clients write it."""
    message = {"role": "user", "content": text}
    bodies: dict[str, dict[str, object]] = {
        "openai_chat": {"model": model, "messages": [message]},
        "openai_responses": {"model": model, "input": text},
        "anthropic_messages": {"model": model, "max_tokens": 50, "messages": [message]},
        "bedrock_converse": {"messages": [{"role": "user", "content": [{"text": text}]}]},
    }
    body = bodies[front]
    if front != "bedrock_converse" and stream:
        body["stream"] = True
    return json.dumps(body).encode()


fronts = pytest.mark.parametrize("front", sorted(CALLS))


@fronts
async def test_invalid_json_is_a_clear_400(front: str, client: Client) -> None:
    answer = await client.send(CALLS[front], b'{"model": "sim", ')
    assert answer.status == 400
    error = DIALECTS[front].decode_error(400, answer.headers, answer.body)
    assert "JSON" in error.message


@fronts
@pytest.mark.parametrize(
    "body", [b"{", b"null", b"[]", b"3", b'"x"', b"\xff\xfe{}", b'{"model":"\xc3\x28"}', b"{}" * 9]
)
async def test_other_bodies_are_400_too(front: str, body: bytes, client: Client) -> None:
    answer = await client.send(CALLS[front], body)
    assert answer.status == 400, answer.body
    json.loads(answer.body)


@fronts
async def test_wrong_types_name_the_field(front: str, client: Client) -> None:
    field = "input" if front == "openai_responses" else "messages"
    body = json.dumps({"model": "sim", "max_tokens": 5, field: 17}).encode()
    answer = await client.send(CALLS[front], body)
    assert answer.status == 400
    assert field.encode() in answer.body


@pytest.mark.parametrize("front", sorted(set(CALLS) - {"bedrock_converse"}))
async def test_an_unknown_model_lists_the_nearest(front: str, client: Client) -> None:
    answer = await client.send(CALLS[front], body_for(front, "hi", model="sin"))
    assert answer.status == 404
    assert b"'sin'" in answer.body


async def test_an_unknown_model_in_a_bedrock_path(client: Client) -> None:
    body = body_for("bedrock_converse", "hi")
    answer = await client.send("/model/arn%3Aaws%3Ax%2Fnope/converse", body)
    assert answer.status == 404
    assert b"arn:aws:x/nope" in answer.body


@fronts
async def test_an_error_before_content_has_its_own_status(front: str, client: Client) -> None:
    for path in (CALLS[front], STREAM_PATHS[front]):
        answer = await client.send(path, body_for(front, "down", stream=path != CALLS[front]))
        assert answer.status in (503, 529)
        assert b"no room" in answer.body


@fronts
async def test_a_cut_stream_ends_in_an_error_never_in_a_finish(front: str, client: Client) -> None:
    answer = await client.send(STREAM_PATHS[front], body_for(front, "cut", stream=True))
    assert answer.status == 200
    decoder = DIALECTS[front].event_decoder()
    with pytest.raises(Exception, match=r"(?i)cut|end|broke|clos|connection"):
        [event for piece in answer.pieces for event in decoder.feed(piece)]
    assert b"this reply will be" in answer.body.replace(b'"', b"") or b"this" in answer.body


@fronts
async def test_a_body_beyond_the_limit_is_413(front: str, app: App, tmp_path: Path) -> None:
    client = Client(gateway_over(app, tmp_path, Limits(max_body_bytes=1000)))
    big = body_for(front, "x" * 2000)
    answer = await client.send(CALLS[front], big)
    assert answer.status == 413
    declared = await client.send(CALLS[front], b"", headers={"content-length": "52428800"})
    assert declared.status == 413
    assert b"max_body_bytes" in declared.body
    assert (await client.send(CALLS[front], body_for(front, "small"))).status == 200


@fronts
async def test_too_many_header_bytes_are_431(front: str, app: App, tmp_path: Path) -> None:
    client = Client(gateway_over(app, tmp_path, Limits(max_header_bytes=500)))
    answer = await client.send(CALLS[front], body_for(front, "hi"), headers={"x-big": "y" * 600})
    assert answer.status == 431


async def test_a_body_in_many_pieces_is_one_body(client: Client) -> None:
    body = body_for("openai_chat", "in pieces")
    answer = await client.send(
        CALLS["openai_chat"], [body[i : i + 3] for i in range(0, len(body), 3)]
    )
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "in pieces"


async def test_a_client_that_leaves_stops_the_call(client: Client, app: App) -> None:
    provider = app.providers["sim"]
    assert isinstance(provider, SimulatedProvider)
    path = CALLS["openai_chat"]
    await client.send(path, body_for("openai_chat", "stall", stream=True), leave_after=1)
    await client.send(path, body_for("openai_chat", "stall"), leave_after=0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, f"tasks left behind: {others}"
    page = await client.send("/metrics", method="GET")
    assert b"kimiya_in_flight 0.0" in page.body


async def test_more_calls_than_the_cap_are_told_to_come_back(app: App, tmp_path: Path) -> None:
    gateway = gateway_over(app, tmp_path, Limits(max_streams=1))
    client = Client(gateway)
    path, stalled = CALLS["openai_chat"], body_for("openai_chat", "stall", stream=True)
    first = asyncio.create_task(client.send(path, stalled))
    await asyncio.sleep(0)
    answer = await client.send(path, body_for("openai_chat", "hi"))
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    first.cancel()
    await asyncio.wait([first])
    assert (await client.send(path, body_for("openai_chat", "hi"))).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("POST", "/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/messages", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/model//converse", 404),
    ],
)
async def test_pages(method: str, path: str, status: int, client: Client) -> None:
    answer = await client.send(path, method=method)
    assert answer.status == status
    if status == 405:
        assert answer.headers["allow"]


async def test_models_are_listed_for_both_kinds_of_client(client: Client) -> None:
    openai = json.loads((await client.send("/v1/models", method="GET")).body)
    assert "sim" in [model["id"] for model in openai["data"]]
    headers = {"anthropic-version": "2023-06-01"}
    anthropic = json.loads((await client.send("/v1/models", method="GET", headers=headers)).body)
    assert anthropic["data"][0]["type"] == "model"
    assert anthropic["has_more"] is False


async def test_tokens_are_counted_and_an_estimate_says_so(client: Client) -> None:
    body = body_for("anthropic_messages", "four words of text")
    answer = await client.send("/v1/messages/count_tokens", body)
    assert answer.status == 200
    assert json.loads(answer.body)["input_tokens"] > 3
    assert answer.headers["x-kimiya-count"] == "host"


async def test_where_no_host_counts_an_estimate_says_so(
    client: Client, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_count(*_: object) -> None:
        return None

    monkeypatch.setattr(app.providers["sim"], "count_tokens", no_count)
    body = body_for("anthropic_messages", "four words of text")
    answer = await client.send("/v1/messages/count_tokens", body)
    assert json.loads(answer.body)["input_tokens"] > 3
    assert answer.headers["x-kimiya-count"] == "estimated"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {key}"},
        {"x-api-key": "{key}"},
        {"authorization": "AWS4-HMAC-SHA256 Credential={key}/20261122/us-east-1/bedrock/x"},
    ],
)
async def test_with_keys_only_their_holders_may_call(
    headers: dict[str, str], app: App, tmp_path: Path
) -> None:
    store = KeyStore(tmp_path / "keys.json")
    _, secret = store.create("test")
    client = Client(gateway_over(app, tmp_path, keys=store))
    path, body = CALLS["openai_chat"], body_for("openai_chat", "hi")
    assert (await client.send(path, body)).status == 401
    wrong = {name: value.format(key="kmy-0-0") for name, value in headers.items()}
    refused = await client.send(path, body, headers=wrong)
    assert refused.status == 401
    assert secret.encode() not in refused.body
    right = {name: value.format(key=secret) for name, value in headers.items()}
    assert (await client.send(path, body, headers=right)).status == 200
    assert (await client.send("/v1/models", method="GET")).status == 401
    assert (await client.send("/healthz", method="GET")).status == 200


async def test_a_failure_inside_is_a_500_that_leaks_nothing(
    client: Client, app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object) -> object:
        raise ZeroDivisionError("secret sk-abcdefgh12345678 in here")

    monkeypatch.setattr(app.pipeline, "whole", explode)
    answer = await client.send(CALLS["openai_chat"], body_for("openai_chat", "hi"))
    assert answer.status == 500
    assert b"sk-abcdefgh" not in answer.body
    assert b"ZeroDivisionError" in answer.body
    assert "failed inside Kimiya" in caplog.text


async def test_a_stream_says_what_was_done_in_a_comment(client: Client) -> None:
    body = body_for("openai_chat", "hello", stream=True)
    answer = await client.send(CALLS["openai_chat"], body)
    comment = [line for line in answer.body.splitlines() if line.startswith(b": ")]
    assert any(b"route=sim:echo" in line for line in comment)
    assert answer.body.rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize("tags", ["nonsense", "=x", ",".join(f"t{n}=1" for n in range(20))])
async def test_tags_that_cannot_be_read_are_refused(tags: str, client: Client) -> None:
    body = body_for("openai_chat", "hi")
    answer = await client.send(CALLS["openai_chat"], body, headers={"x-kimiya-tags": tags})
    assert answer.status == 400
    assert b"x-kimiya-tags" in answer.body


async def test_the_account_of_a_call_comes_from_key_and_headers(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CallContext] = []
    whole = app.pipeline.whole

    def spy(request: Request, context: CallContext) -> Call:
        seen.append(context)
        return whole(request, context)

    monkeypatch.setattr(app.pipeline, "whole", spy)
    store = KeyStore(tmp_path / "keys.json")
    key_id, secret = store.create("test")
    headers = {
        "x-api-key": secret,
        "x-kimiya-tags": "department=sales, project=x",
        "x-kimiya-conversation": "c-1",
        "x-kimiya-run": "r-1",
    }
    client = Client(gateway_over(app, tmp_path, keys=store))
    await client.send(
        CALLS["anthropic_messages"], body_for("anthropic_messages", "hi"), headers=headers
    )
    tags = {"department": "sales", "project": "x"}
    assert seen == [CallContext(key_id, tags, "c-1", None, "r-1", "anthropic_messages")]
