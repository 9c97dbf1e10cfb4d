"""The simulated runtime before the real boto3: what it refuses, and what it bills for caching."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kimiya.providers.simulated.bedrock import Policy
from tests.bedrock.aws import HAIKU, K3, K25, NOVA, SONNET, Account, account

SONNET_4 = "anthropic.claude-sonnet-4-20250514-v1:0"
OLD = "anthropic.claude-3-haiku-20240307-v1:0"
POINT = {"cachePoint": {"type": "default"}}
HOUR = {"cachePoint": {"type": "default", "ttl": "1h"}}


@pytest.fixture(scope="module")
def aws() -> Iterator[Account]:
    with account() as served:
        yield served


def text(name: str, tokens: int) -> dict[str, str]:
    """A block of exactly so many tokens, four characters each."""
    return {"text": (name + " ").ljust(tokens * 4, "x")}


def ask(aws: Account, model: str, system: Sequence[Any], *content: Any, **more: Any) -> Any:
    client = aws.client("bedrock-runtime")
    messages = [{"role": "user", "content": list(content) or [{"text": "go!!"}]}]
    return client.converse(modelId=model, system=list(system), messages=messages, **more)["usage"]


def figures(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    return (
        usage["inputTokens"],
        usage.get("cacheReadInputTokens", 0),
        usage.get("cacheWriteInputTokens", 0),
    )


def refusal(call: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call()
    told = caught.value.response
    status = told["ResponseMetadata"]["HTTPStatusCode"]
    return status, told["Error"]["Code"], told["Error"]["Message"]


# The opening of a system text or message is four tokens beside its words; "go!!" is one.
OPENING, GO = 4, 5


def test_one_write_then_reads(aws: Account) -> None:
    system = [text("one write", 2000), POINT]
    first = ask(aws, f"us.{SONNET}", system)
    assert figures(first) == (GO, 0, 2000 + OPENING)
    assert first["cacheDetails"] == [{"ttl": "5m", "inputTokens": 2000 + OPENING}]
    assert first["totalTokens"] == 2000 + OPENING + GO + 7
    second = ask(aws, f"us.{SONNET}", system)
    assert figures(second) == (GO, 2000 + OPENING, 0)


def test_reading_prolongs_and_time_ends_it(aws: Account) -> None:
    system = [text("time", 2000), POINT]
    hour = [text("an hour", 2000), HOUR]
    ask(aws, f"us.{SONNET}", system)
    ask(aws, f"us.{SONNET}", hour)
    for _ in range(3):
        aws.pass_time(200)
        assert figures(ask(aws, f"us.{SONNET}", system))[1] > 0
    aws.pass_time(301)
    assert figures(ask(aws, f"us.{SONNET}", system))[1:] == (0, 2000 + OPENING)
    assert figures(ask(aws, f"us.{SONNET}", hour))[1:] == (2000 + OPENING, 0)
    aws.pass_time(3601)
    late = ask(aws, f"us.{SONNET}", hour)
    assert late["cacheDetails"] == [{"ttl": "1h", "inputTokens": 2000 + OPENING}]


def test_two_lifetimes_are_billed_apart_and_a_longer_prefix_writes_the_rest(aws: Account) -> None:
    system = [text("apart", 1500), HOUR, text("more", 600), POINT]
    first = ask(aws, f"us.{SONNET}", system)
    assert first["cacheDetails"] == [
        {"ttl": "1h", "inputTokens": 1500 + OPENING},
        {"ttl": "5m", "inputTokens": 600},
    ]
    grown = ask(aws, f"us.{SONNET}", [*system[:3], text("grown", 100), POINT])
    # The old end is within twenty blocks of the new one.
    assert figures(grown) == (GO, 2100 + OPENING, 100)


def test_below_the_minimum_nothing_happens_and_nothing_is_said(aws: Account) -> None:
    system = [text("small", 1024 - OPENING - 1), POINT]
    for _ in range(2):
        assert figures(ask(aws, f"us.{SONNET}", system)) == (1023 + GO, 0, 0)
    exact = [text("exact", 1024 - OPENING), POINT]
    assert figures(ask(aws, f"us.{SONNET}", exact)) == (GO, 0, 1024)
    assert figures(ask(aws, f"us.{HAIKU}", [text("haiku", 4000), POINT]))[1:] == (0, 0)


def test_a_changed_word_a_model_and_a_region_have_caches_of_their_own(aws: Account) -> None:
    system = [text("mine", 2000), POINT]
    ask(aws, f"us.{SONNET}", system)
    assert figures(ask(aws, f"us.{SONNET}", [text("nine", 2000), POINT]))[1] == 0
    assert figures(ask(aws, f"us.{SONNET_4}", system))[1] == 0
    # A profile is another way to the same model.
    assert figures(ask(aws, f"global.{SONNET}", system))[1] > 0


def test_a_prefix_longer_ago_than_twenty_blocks_is_not_found(aws: Account) -> None:
    head = text("far", 2000)
    ask(aws, f"us.{SONNET}", [head, POINT])
    near = [head, *(text(f"n{n}", 2) for n in range(19)), POINT]
    far = [head, *(text(f"f{n}", 2) for n in range(20)), POINT]
    assert figures(ask(aws, f"us.{SONNET}", near))[1] == 2000 + OPENING
    assert figures(ask(aws, f"us.{SONNET}", far))[1] == 0


def test_tools_come_first_in_the_prefix(aws: Account) -> None:
    spec = {"name": "f", "description": "d" * 6000, "inputSchema": {"json": {}}}
    tools = {"tools": [{"toolSpec": spec}, POINT]}
    first = ask(aws, f"us.{SONNET}", [{"text": "a"}], toolConfig=tools)
    other = ask(aws, f"us.{SONNET}", [{"text": "b"}], toolConfig=tools)
    assert figures(first)[2] == figures(other)[1] > 1500


def test_kimi_k3_caches_by_itself(aws: Account) -> None:
    system = [text("k3", 2000)]
    assert figures(ask(aws, f"us.{K3}", system)) == (0, 0, 2000 + OPENING + GO)
    again = ask(aws, f"us.{K3}", system, {"text": "go??"})
    assert figures(again) == (0, 2000 + OPENING, GO)


def test_a_write_is_read_by_calls_that_begin_after_it(aws: Account) -> None:
    """Streams too: the prefix lives from the first frame on."""
    client = aws.client("bedrock-runtime")
    asked = {
        "modelId": f"us.{SONNET}",
        "system": [text("stream", 2000), POINT],
        "messages": [{"role": "user", "content": [{"text": "go!!"}]}],
    }
    events = list(client.converse_stream(**asked)["stream"])
    assert figures(events[-1]["metadata"]["usage"]) == (GO, 0, 2000 + OPENING)
    assert figures(client.converse(**asked)["usage"]) == (GO, 2000 + OPENING, 0)


INVALID = (400, "ValidationException")
CACHING = (403, "AccessDeniedException")


@pytest.mark.parametrize(
    ("model", "system", "head", "words"),
    [
        (K25, [text("x", 9), POINT], CACHING, "did not allow prompt caching"),
        (OLD, [text("x", 9), POINT], CACHING, "did not allow prompt caching"),
        (f"us.{K3}", [text("x", 9), POINT], INVALID, "doesn't support the cachePoint field"),
        (f"us.{SONNET_4}", [text("x", 9), HOUR], INVALID, "ttl 1h"),
        (f"us.{SONNET}", [text("x", 9), POINT, text("y", 9), HOUR], INVALID, "longer ttl"),
        (f"us.{SONNET}", [text("x", 9), POINT] * 5, INVALID, "maximum of 4"),
        (SONNET, [], INVALID, "on-demand throughput isn\u2019t supported. Retry"),
        (
            f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}",
            [],
            INVALID,
            "doesn't support on-demand throughput",
        ),
        ("anthropic.claude-none", [], INVALID, "identifier is invalid"),
        (f"eu.{SONNET}", [], INVALID, "identifier is invalid"),
        (f"us.{K25}", [], INVALID, "identifier is invalid"),
        (
            f"arn:aws:bedrock:eu-west-1:111122223333:inference-profile/eu.{SONNET}",
            [],
            INVALID,
            "identifier is invalid",
        ),
    ],
)
def test_refusals(
    aws: Account, model: str, system: list[Any], head: tuple[int, str], words: str
) -> None:
    status, code, message = refusal(lambda: ask(aws, model, system))
    assert (status, code) == head
    assert words in message


def test_nova_takes_points_in_system_but_not_in_tools(aws: Account) -> None:
    tools = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}, POINT]}
    assert figures(ask(aws, NOVA, [text("nova", 2000), POINT]))[2] > 0
    _, _, message = refusal(lambda: ask(aws, NOVA, [{"text": "a"}], toolConfig=tools))
    assert "extraneous key [cachePoint] is not permitted" in message


def test_placement_and_empty_messages(aws: Account) -> None:
    client = aws.client("bedrock-runtime")

    def talk(*content: Any) -> Any:
        history = [
            {"role": "user", "content": [{"text": "a"}]},
            {"role": "assistant", "content": list(content)},
            {"role": "user", "content": [{"text": "b"}]},
        ]
        return client.converse(modelId=f"us.{SONNET}", messages=history)

    thought = {"reasoningContent": {"reasoningText": {"text": "t", "signature": "s"}}}
    assert "after reasoning block" in refusal(lambda: talk(thought, POINT))[2]
    assert "messages.1 is empty" in refusal(talk)[2]


def test_account_settings() -> None:
    policy = Policy(
        denied_models=frozenset({K25}),
        retained_models=frozenset({K3}),
    )
    with account(policy) as aws:
        assert refusal(lambda: aws.converse(K25))[0] == 403
        assert "data retention mode" in refusal(lambda: aws.converse(f"us.{K3}"))[2]
    with account(Policy(denied_actions=frozenset({"InvokeModel"}))) as aws:
        assert "bedrock:InvokeModel" in refusal(lambda: aws.converse(K25))[2]


def test_tokens_are_counted_for_few(aws: Account) -> None:
    client = aws.client("bedrock-runtime")
    prompt = {"converse": {"messages": [{"role": "user", "content": [text("count", 50)]}]}}
    assert client.count_tokens(modelId=OLD, input=prompt)["inputTokens"] == 50 + OPENING
    for model in (f"us.{SONNET}", SONNET, K25):
        status, code, _ = refusal(lambda m=model: client.count_tokens(modelId=m, input=prompt))
        assert (status, code) == INVALID


def test_invoke_model_takes_the_vendors_own_body(aws: Account) -> None:
    import json

    client = aws.client("bedrock-runtime")
    messages = [{"role": "user", "content": "hi"}]
    claude = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": messages}
    said = client.invoke_model(modelId=f"us.{SONNET}", body=json.dumps(claude))["body"].read()
    assert json.loads(said)["content"][0]["text"] == "You said hi."
    said = client.invoke_model(modelId=K25, body=json.dumps({"messages": messages}))["body"].read()
    assert json.loads(said)["choices"][0]["message"]["content"] == "You said hi."


def test_the_invoice_is_the_sum_of_what_was_reported() -> None:
    with account() as aws:
        told = [ask(aws, f"us.{SONNET}", [text(f"i{n % 3}", 1500), POINT]) for n in range(7)]
        refusal(lambda: aws.converse(SONNET))
        billed = aws.bedrock.billed[SONNET]
        assert billed.calls == 7
        assert billed.fresh_tokens == sum(u["inputTokens"] for u in told)
        assert billed.read_tokens == sum(u["cacheReadInputTokens"] for u in told)
        assert sum(billed.written_tokens.values()) == sum(u["cacheWriteInputTokens"] for u in told)
        assert billed.output_tokens == 7 * 7
