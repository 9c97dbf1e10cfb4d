"""What a written id comes to: learnt once, remembered, forgotten in time, never in the way."""

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from kimiya.bedrock.model_id import name_in
from kimiya.bedrock.profiles import Profile, ProfileKind
from kimiya.bedrock.residency import Residency
from kimiya.bedrock.resolver import FORBIDDEN_S, KNOWN_S, UNREACHABLE_S, ProfileResolver
from kimiya.core.clock import VirtualClock
from kimiya.errors import InvalidRequest, KimiyaError, ProviderUnreachable, Unauthorized
from tests.bedrock.aws import K3, SONNET
from tests.bedrock.test_model_id import APPLICATION, profile

NAMED = name_in(APPLICATION)


class Control:
    """A control plane with what it is given, which counts what it is asked."""

    def __init__(self, *profiles: Profile, region: str = "us-east-1") -> None:
        self.held = list(profiles)
        self.region = region
        self.asked: list[str] = []
        self.error: KimiyaError | None = None
        self.gate: threading.Event | None = None
        self.is_asked = threading.Event()

    def profiles(self, kind: ProfileKind) -> list[Profile]:
        return self._answer(kind, lambda: [p for p in self.held if p.kind == kind])

    def profile(self, identifier: str) -> Profile:
        return self._answer(identifier, lambda: self.held)[0]

    def is_on_demand(self, base_id: str) -> bool:
        raise AssertionError("nobody asks")

    def _answer(self, what: str, found: Callable[[], list[Profile]]) -> list[Profile]:
        self.asked.append(what)
        self.is_asked.set()
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return found()


def resolver(
    control: Control, residency: Residency | None = None, told: str | None = None
) -> tuple[ProfileResolver, VirtualClock]:
    clock = VirtualClock()
    base_models = {APPLICATION: told} if told else {}
    return ProfileResolver("aws", control, base_models, residency, clock=clock), clock


async def test_an_application_profile_is_asked_for_once_and_again_after_an_hour() -> None:
    control = Control(profile(NAMED, "us-east-1", "us-west-2"))
    resolving, clock = resolver(control)
    for _ in range(3):
        settled = await resolving.settle(APPLICATION)
        assert (settled.ask, settled.like) == (APPLICATION, f"us.{SONNET}")
    assert control.asked == [APPLICATION]
    await clock.advance(KNOWN_S)
    await resolving.settle(APPLICATION)
    assert len(control.asked) == 2


async def test_many_at_once_ask_once_and_one_who_leaves_takes_nothing_with_it() -> None:
    control = Control(profile(NAMED, "us-east-1"))
    control.gate = threading.Event()
    resolving, _ = resolver(control)
    asking = [asyncio.ensure_future(resolving.settle(APPLICATION)) for _ in range(9)]
    await asyncio.to_thread(control.is_asked.wait, 30)
    asking[0].cancel()
    await asyncio.sleep(0)
    control.gate.set()
    settled = await asyncio.gather(*asking[1:])
    assert {item.like for item in settled} == {SONNET}
    assert asking[0].cancelled()
    assert control.asked == [APPLICATION]


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (Unauthorized("AccessDeniedException: Allow `bedrock:GetInferenceProfile`"), FORBIDDEN_S),
        (InvalidRequest("ResourceNotFoundException: gone"), FORBIDDEN_S),
        (ProviderUnreachable("no network"), UNREACHABLE_S),
    ],
)
async def test_without_an_answer_calls_go_on_as_written(
    error: KimiyaError, wait_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    control = Control()
    control.error = error
    resolving, clock = resolver(control)
    with caplog.at_level(logging.WARNING, "kimiya.bedrock"):
        for _ in range(3):
            settled = await resolving.settle(APPLICATION)
            assert (settled.ask, settled.like) == (APPLICATION, APPLICATION)
    assert len(control.asked) == len(caplog.records) == 1
    assert "[providers.aws.base_models]" in caplog.text
    assert error.message in caplog.text
    await clock.advance(wait_s - 1)
    await resolving.settle(APPLICATION)
    assert len(control.asked) == 1
    await clock.advance(1)
    control.error, control.held = None, [profile(NAMED, "us-east-1")]
    assert (await resolving.settle(APPLICATION)).like == SONNET


async def test_what_the_user_wrote_wins_and_asks_nobody() -> None:
    control = Control(profile(NAMED, "us-east-1"))
    resolving, _ = resolver(control, told="claude-haiku-4-5")
    assert (await resolving.settle(APPLICATION)).like == "claude-haiku-4-5"
    assert control.asked == []


async def test_another_regions_profile_is_not_asked_for_here() -> None:
    control = Control(region="eu-west-1")
    resolving, _ = resolver(control)
    assert (await resolving.settle(APPLICATION)).like == APPLICATION
    assert control.asked == []


async def test_what_clients_make_up_is_bounded() -> None:
    control = Control()
    control.error = InvalidRequest("no")
    resolving, _ = resolver(control)
    stem = APPLICATION.rpartition("/")[0]
    for number in range(1100):
        await resolving.settle(f"{stem}/made{number}")
    assert len(resolving._lookups._held) == 1024  # pyright: ignore[reportPrivateUsage]


TOKYO = (
    profile(f"global.{SONNET}", "ap-northeast-1", "", at="ap-northeast-1"),
    profile(f"apac.{SONNET}", "ap-northeast-1", "ap-south-1", at="ap-northeast-1"),
    profile(f"jp.{SONNET}", "ap-northeast-1", "ap-northeast-3", at="ap-northeast-1"),
    profile(f"global.{K3}", "ap-northeast-1", "", at="ap-northeast-1", base=K3),
)


@pytest.mark.parametrize(
    ("residency", "written", "asked", "others"),
    [
        (None, SONNET, SONNET, ["jp", "apac"]),
        ("geography", SONNET, SONNET, ["jp", "apac"]),
        ("global", SONNET, SONNET, ["jp", "apac", "global"]),
        ("region", SONNET, SONNET, []),
        (None, f"global.{SONNET}", f"global.{SONNET}", ["jp", "apac"]),
        ("geography", f"global.{SONNET}", f"jp.{SONNET}", ["apac"]),
        ("region", f"global.{SONNET}", SONNET, []),
        ("region", f"jp.{SONNET}", SONNET, []),
        ("geography", f"apac.{SONNET}", f"apac.{SONNET}", []),
        ("global", f"us.{SONNET}", f"us.{SONNET}", []),
        (None, K3, K3, []),
        ("global", K3, K3, ["global"]),
        (
            "geography",
            f"arn:aws:bedrock:ap-northeast-1:1:inference-profile/global.{SONNET}",
            f"jp.{SONNET}",
            ["apac"],
        ),
    ],
)
@pytest.mark.parametrize("may_list", [True, False])
async def test_residency(
    residency: Residency | None, written: str, asked: str, others: list[str], may_list: bool
) -> None:
    control = Control(*TOKYO, region="ap-northeast-1")
    if not may_list:
        # Then the prefixes of the region's geography are tried unseen.
        control.error = Unauthorized("no")
        if written == K3:
            others = ["jp", "apac", *others]
    resolving, _ = resolver(control, residency)
    assert resolving.current(written) == asked
    found = await resolving.alternatives(written)
    assert [model_id.partition(".")[0] for model_id in found] == others


async def test_what_was_accepted_is_remembered_and_forgotten_when_refused() -> None:
    control = Control(*TOKYO, region="ap-northeast-1")
    resolving, clock = resolver(control)
    resolving.accept(SONNET, f"jp.{SONNET}")
    assert (await resolving.settle(SONNET)).ask == f"jp.{SONNET}"
    assert await resolving.alternatives(SONNET) == [f"apac.{SONNET}"]
    assert resolving.current(SONNET) == SONNET
    resolving.accept(SONNET, f"apac.{SONNET}")
    await clock.advance(KNOWN_S)
    assert resolving.current(SONNET) == SONNET


async def test_what_residency_forbids_is_refused_with_the_key() -> None:
    sao_paulo, _ = resolver(Control(region="sa-east-1"), "geography")
    with pytest.raises(InvalidRequest, match=r"providers\.aws\.data_residency"):
        sao_paulo.current(f"global.{SONNET}")
    worldwide, _ = resolver(Control(profile(NAMED, "us-east-1", "")), "geography")
    with pytest.raises(InvalidRequest, match="data_residency"):
        await worldwide.settle(APPLICATION)
    wide, _ = resolver(Control(profile(NAMED, "us-east-1", "us-west-2")), "region")
    with pytest.raises(InvalidRequest, match="data_residency"):
        await wide.settle(APPLICATION)
    here, _ = resolver(Control(profile(NAMED, "us-east-1")), "region")
    assert (await here.settle(APPLICATION)).like == SONNET
