"""How ids are taken apart, and what profiles say of the models behind them."""

import pytest

from kimiya.bedrock.model_id import is_application_profile, name_in, region_in, split_prefix
from kimiya.bedrock.profiles import Profile, ways_to
from tests.bedrock.aws import K3, SONNET

APPLICATION = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/ab12"


@pytest.mark.parametrize(
    ("model_id", "prefix", "base"),
    [
        *((f"{word}.{SONNET}", word, SONNET) for word in
          ("us", "eu", "apac", "jp", "au", "global", "in", "us-gov", "ca", "mx", "newland")),
        (f"in.{K3}", "in", K3),
        (SONNET, "", SONNET),
        ("moonshot.kimi-k2-thinking", "", "moonshot.kimi-k2-thinking"),
        ("moonshotai.kimi-k2.5", "", "moonshotai.kimi-k2.5"),
        ("zai.glm-4.7", "", "zai.glm-4.7"),
        ("deepseek.v3.2", "", "deepseek.v3.2"),
        ("amazon.nova-2.0", "", "amazon.nova-2.0"),
        ("kimi-k2.5", "", "kimi-k2.5"),
        ("toolongaword.anthropic.x", "", "toolongaword.anthropic.x"),
        ("", "", ""),
        (".anthropic.x", "", ".anthropic.x"),
    ],
)  # fmt: skip
def test_prefixes_are_open_and_vendors_are_not(model_id: str, prefix: str, base: str) -> None:
    assert split_prefix(model_id) == (prefix, base)


@pytest.mark.parametrize("text", ["", "arn:", "arn:aws:s3:::b/x", f"{APPLICATION}/more", "x" * 999])
def test_what_is_no_arn_is_left_alone(text: str) -> None:
    assert name_in(text) == text
    assert region_in(text) is None
    assert not is_application_profile(text)


def test_partitions_have_their_own_arns() -> None:
    gov = "arn:aws-us-gov:bedrock:us-gov-west-1:1:application-inference-profile/x"
    assert is_application_profile(gov)
    assert (name_in(gov), region_in(gov)) == ("x", "us-gov-west-1")
    assert region_in(f"arn:aws:bedrock:::foundation-model/{SONNET}") == ""


def profile(profile_id: str, *regions: str, at: str = "us-east-1", base: str = SONNET) -> Profile:
    is_system = split_prefix(profile_id)[0] != ""
    kind = "inference-profile" if is_system else "application-inference-profile"
    return Profile(
        region=at,
        profile_id=profile_id,
        arn=f"arn:aws:bedrock:{at}:111122223333:{kind}/{profile_id}",
        name=profile_id,
        kind="system" if is_system else "application",
        model_arns=tuple(f"arn:aws:bedrock:{r}::foundation-model/{base}" for r in regions),
    )


@pytest.mark.parametrize(
    ("regions", "at", "equivalent", "is_near"),
    [
        (("us-east-1",), "us-east-1", SONNET, True),
        (("us-east-1", "us-west-2"), "us-east-1", f"us.{SONNET}", True),
        (("us-east-1", ""), "us-east-1", f"global.{SONNET}", False),
        (("us-gov-east-1", "us-gov-west-1"), "us-gov-west-1", f"us-gov.{SONNET}", True),
        (("ap-northeast-1", "ap-northeast-3"), "ap-northeast-1", f"apac.{SONNET}", True),
        (("us-east-1", "us-gov-west-1"), "us-east-1", f"us.{SONNET}", False),
        (("ca-central-1", "us-east-1"), "ca-central-1", f"ca.{SONNET}", False),
        ((), "us-east-1", "", True),
    ],
)
def test_an_application_profile_is_like_what_it_was_copied_from(
    regions: tuple[str, ...], at: str, equivalent: str, is_near: bool
) -> None:
    made = profile("ab12", *regions, at=at)
    assert (made.equivalent, made.stays_near) == (equivalent, is_near)
    assert made.callable_id == made.arn


def test_ways_go_from_near_to_global_and_any_later_prefix_is_one() -> None:
    every = [
        profile(f"global.{SONNET}", "ap-northeast-1", "", at="ap-northeast-1"),
        profile(f"apac.{SONNET}", "ap-northeast-1", "ap-south-1", at="ap-northeast-1"),
        profile(f"mx.{SONNET}", "ap-northeast-1", "ap-east-2", "ap-east-1", at="ap-northeast-1"),
        profile(f"far.{SONNET}", "ap-northeast-1", "us-east-1", at="ap-northeast-1"),
        profile(f"jp.{SONNET}", "ap-northeast-1", "ap-northeast-3", at="ap-northeast-1"),
        profile(f"jp.{K3}", "ap-northeast-1", at="ap-northeast-1", base=K3),
    ]

    def ways(*, allows_global: bool) -> list[str]:
        found = ways_to(SONNET, every, "ap-northeast-1", allows_global=allows_global)
        return [way.callable_id.partition(".")[0] for way in found]

    assert ways(allows_global=False) == ["jp", "apac", "mx"]
    assert ways(allows_global=True) == ["jp", "apac", "mx", "global"]
