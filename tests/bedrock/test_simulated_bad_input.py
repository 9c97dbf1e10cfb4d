"""Whatever is sent to the simulated account, it answers as a service: taken, or refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.core.clock import VirtualClock
from kimiya.providers.simulated.bedrock import SimulatedBedrock, region_of
from kimiya.providers.simulated.bedrock_refusal import Refusal
from tests.bedrock.aws import K3, K25, SONNET

SIGNED = {
    "authorization": "AWS4-HMAC-SHA256 Credential=AKIA/20261122/us-east-1/bedrock/aws4_request,"
}
WORDS = st.sampled_from(
    ["messages", "content", "text", "cachePoint", "system", "toolConfig", "tools", "toolResult",
     "reasoningContent", "role", "ttl", "type", "input", "converse", "inferenceProfileName",
     "modelSource", "copyFrom", "tags", "key", "value", "tagKeys", "resourceARN",
     "clientRequestToken", "description", SONNET, "1h", "default"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
LIKE_A_CALL = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(st.fixed_dictionaries({"role": VALUES, "content": VALUES}) | VALUES),
        "system": st.lists(st.fixed_dictionaries({"cachePoint": VALUES}) | VALUES, max_size=3),
        "toolConfig": st.fixed_dictionaries({"tools": VALUES}) | VALUES,
    },
)


@given(LIKE_A_CALL | VALUES, st.sampled_from([f"us.{SONNET}", K25, f"us.{K3}"]))
def test_bodies_of_the_runtime(body: Any, model: str) -> None:
    account = SimulatedBedrock(VirtualClock())
    for take in (account.admit, account.count):
        status = 200
        try:
            take(model, json.dumps(body).encode(), SIGNED)
        except Refusal as refusal:
            status = refusal.status
        assert status in (200, 400, 403)


PATHS = [
    ("POST", "/inference-profiles"),
    ("POST", "/tagResource"),
    ("POST", "/untagResource"),
    ("POST", "/listTagsForResource"),
]


@given(st.sampled_from(PATHS), VALUES)
def test_bodies_of_the_control_plane(path: tuple[str, str], body: Any) -> None:
    account = SimulatedBedrock(VirtualClock())
    try:
        status, _ = account.manage(*path, "", json.dumps(body).encode(), SIGNED)
    except Refusal as refusal:
        status = refusal.status
    assert status in (200, 201, 400, 404)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 9999, b"null"])
def test_what_is_no_json(body: bytes) -> None:
    account = SimulatedBedrock(VirtualClock())
    with pytest.raises(Refusal, match="ValidationException"):
        account.admit(K25, body, SIGNED)
    with pytest.raises(Refusal, match="ValidationException"):
        account.manage("POST", "/inference-profiles", "", body, SIGNED)


@pytest.mark.parametrize(
    "query", ["type=NONE", "maxResults=0", "maxResults=x", "maxResults=9999", "nextToken=%00"]
)
def test_queries(query: str) -> None:
    account = SimulatedBedrock(VirtualClock())
    with pytest.raises(Refusal, match="ValidationException"):
        account.manage("GET", "/inference-profiles", query, b"", SIGNED)


@pytest.mark.parametrize("name", ["", "%2e%2e", "%ff"])
def test_paths(name: str) -> None:
    account = SimulatedBedrock(VirtualClock())
    with pytest.raises(Refusal, match="ResourceNotFoundException"):
        account.manage("GET", f"/inference-profiles/{name}", "", b"", SIGNED)


def test_who_calls_decides_the_region() -> None:
    assert region_of(SIGNED) == "us-east-1"
    assert region_of({"authorization": "Bearer key"}) == "us-east-1"
    elsewhere = SIGNED["authorization"].replace("/bedrock/", "/s3/")
    with pytest.raises(Refusal, match="correct service: 'bedrock'"):
        region_of({"authorization": elsewhere})
    with pytest.raises(Refusal, match="MissingAuthenticationTokenException"):
        region_of({})


def test_calls_made_at_once_all_write_and_the_next_one_reads() -> None:
    account = SimulatedBedrock(VirtualClock())
    mark = {"cachePoint": {"type": "default"}}
    messages = [{"role": "user", "content": [{"text": "x" * 8000}, mark, {"text": "q"}]}]
    body = json.dumps({"messages": messages}).encode()
    burst = [account.admit(f"us.{SONNET}", body, SIGNED) for _ in range(3)]
    assert {admitted.bill.written_tokens for admitted in burst} == {2004}
    account.begin(burst[0])
    late = account.admit(f"global.{SONNET}", body, SIGNED).bill
    assert (late.read_tokens, late.written_tokens, late.fresh_tokens) == (2004, 0, 1)
