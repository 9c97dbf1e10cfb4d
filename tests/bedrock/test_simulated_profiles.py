"""The simulated control plane answers the real boto3 as AWS documents it."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kimiya.providers.simulated.bedrock import Policy
from tests.bedrock.aws import K3, K25, SONNET, Account, account


@pytest.fixture(scope="module")
def aws() -> Iterator[Account]:
    with account() as served:
        yield served


def ids(client: Any, **filters: Any) -> list[str]:
    pages = client.get_paginator("list_inference_profiles").paginate(**filters)
    rows = [row for page in pages for row in page["inferenceProfileSummaries"]]
    return [row["inferenceProfileId"] for row in rows]


def make(client: Any, name: str, source: str, **more: Any) -> str:
    made = client.create_inference_profile(
        inferenceProfileName=name, modelSource={"copyFrom": source}, **more
    )
    assert made["status"] == "ACTIVE"
    return made["inferenceProfileArn"]


def refusal(call: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call()
    told = caught.value.response
    status = told["ResponseMetadata"]["HTTPStatusCode"]
    return status, told["Error"]["Code"], told["Error"]["Message"]


def test_system_profiles_are_those_of_the_region(aws: Account) -> None:
    here, tokyo = aws.client(), aws.client(region="ap-northeast-1")
    assert {f"us.{SONNET}", f"global.{SONNET}", f"us.{K3}"} <= set(ids(here))
    assert f"jp.{SONNET}" not in ids(here)
    assert {f"jp.{SONNET}", f"global.{K3}"} <= set(ids(tokyo))
    assert not any(name.startswith(("us.", "us-gov.")) for name in ids(tokyo))
    gov = ids(aws.client(region="us-gov-west-1"))
    assert gov
    assert all(name.startswith("us-gov.") for name in gov)


def test_pages_join_to_the_whole(aws: Account) -> None:
    client = aws.client()
    whole = ids(client)
    assert len(whole) > 7
    assert ids(client, PaginationConfig={"PageSize": 3}) == whole
    first = client.list_inference_profiles(maxResults=3)
    assert len(first["inferenceProfileSummaries"]) == 3
    status, code, _ = refusal(lambda: client.list_inference_profiles(nextToken="nonsense"))
    assert (status, code) == (400, "ValidationException")


def test_a_profile_lives_and_dies(aws: Account) -> None:
    client = aws.client()
    source = client.get_inference_profile(inferenceProfileIdentifier=f"us.{SONNET}")
    tags = [{"key": "department", "value": "risk"}, {"key": "cost-center", "value": "42"}]
    arn = make(client, "Risk sonnet", source["inferenceProfileArn"], tags=tags, description="why")
    assert ":application-inference-profile/" in arn
    seen = client.get_inference_profile(inferenceProfileIdentifier=arn)
    assert (seen["type"], seen["inferenceProfileName"]) == ("APPLICATION", "Risk sonnet")
    assert seen["models"] == source["models"]
    assert seen["description"] == "why"
    short = client.get_inference_profile(inferenceProfileIdentifier=arn.rpartition("/")[2])
    assert short["inferenceProfileArn"] == arn
    assert client.list_tags_for_resource(resourceARN=arn)["tags"] == tags
    client.tag_resource(resourceARN=arn, tags=[{"key": "project", "value": "x"}])
    client.untag_resource(resourceARN=arn, tagKeys=["department", "never there"])
    left = {tag["key"] for tag in client.list_tags_for_resource(resourceARN=arn)["tags"]}
    assert left == {"cost-center", "project"}
    assert ids(client, typeEquals="APPLICATION") == [seen["inferenceProfileId"]]
    assert ids(aws.client(region="us-west-2"), typeEquals="APPLICATION") == []
    assert aws.converse(arn)["output"]["message"]["content"] == [{"text": "You said hi."}]
    client.delete_inference_profile(inferenceProfileIdentifier=arn)
    assert ids(client, typeEquals="APPLICATION") == []
    status, code, _ = refusal(lambda: client.get_inference_profile(inferenceProfileIdentifier=arn))
    assert (status, code) == (404, "ResourceNotFoundException")
    status, code, message = refusal(lambda: aws.converse(arn))
    assert (status, code) == (400, "ValidationException")
    assert "identifier is invalid" in message


def test_asking_twice_with_one_token_makes_one(aws: Account) -> None:
    client = aws.client(region="eu-north-1")
    source = f"arn:aws:bedrock:eu-north-1::foundation-model/{K25}"
    first = make(client, "once", source, clientRequestToken="t" * 8)
    assert make(client, "once", source, clientRequestToken="t" * 8) == first
    assert len(ids(client, typeEquals="APPLICATION")) == 1
    status, code, _ = refusal(lambda: make(client, "once", source))
    assert (status, code) == (400, "ConflictException")


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}", "ValidationException"),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.nothing", "ValidationException"),
        (f"arn:aws:bedrock:eu-north-1::foundation-model/{K25}", "ResourceNotFoundException"),
        (
            "arn:aws:bedrock:us-east-1:111122223333:inference-profile/eu.nothing",
            "ResourceNotFoundException",
        ),
    ],
)
def test_what_cannot_be_copied(aws: Account, source: str, code: str) -> None:
    assert refusal(lambda: make(aws.client(), "copy", source))[1] == code


def test_tags_have_limits(aws: Account) -> None:
    client = aws.client(region="us-east-2")
    arn = make(client, "full", f"arn:aws:bedrock:us-east-2::foundation-model/{K25}")

    def tag(*names: str) -> None:
        client.tag_resource(resourceARN=arn, tags=[{"key": n, "value": "v"} for n in names])

    assert refusal(lambda: tag("no;semicolons"))[1] == "ValidationException"
    tag(*(f"k{n}" for n in range(200)))
    assert refusal(lambda: tag("one more"))[1] == "TooManyTagsException"
    system = f"arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.{SONNET}"
    delete = aws.client().delete_inference_profile
    assert refusal(lambda: delete(inferenceProfileIdentifier=system))[1] == "ValidationException"


def test_models_are_listed(aws: Account) -> None:
    rows = aws.client().list_foundation_models(byInferenceType="ON_DEMAND")["modelSummaries"]
    assert K25 in {row["modelId"] for row in rows}
    assert SONNET not in {row["modelId"] for row in rows}
    detail = aws.client().get_foundation_model(modelIdentifier=SONNET)["modelDetails"]
    assert detail["inferenceTypesSupported"] == ["INFERENCE_PROFILE"]


def test_what_nobody_allowed_or_signed_is_refused() -> None:
    with account(Policy(denied_actions=frozenset({"ListInferenceProfiles"}))) as aws:
        status, code, message = refusal(lambda: aws.client().list_inference_profiles())
        assert (status, code) == (403, "AccessDeniedException")
        assert "bedrock:ListInferenceProfiles" in message
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{aws.url}/inference-profiles")
        with caught.value as unsigned:
            assert unsigned.code == 403
