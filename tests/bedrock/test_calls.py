"""Calls through the whole pipeline to the simulated account, by every spelling of a model."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from kimiya.assembly import App, assemble
from kimiya.bedrock.control import BotoControlPlane
from kimiya.books import open_accounts
from kimiya.config.settings import CachingConfig, Config, LedgerConfig, ProviderConfig
from kimiya.core.clock import VirtualClock
from kimiya.core.context import NO_CONTEXT, CallContext
from kimiya.core.events import Finish, StreamStart
from kimiya.core.exchange import Request
from kimiya.core.messages import Breakpoint, Message, Text
from kimiya.errors import InvalidRequest, KimiyaError, Unauthorized, UnknownModel
from kimiya.pipeline import Outcome
from kimiya.pipeline.accounts import Accounts
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.bedrock import Policy, SimulatedBedrock
from kimiya.providers.simulated.server import running
from tests.bedrock.aws import K3, K25, NO_KEYS, REPLY, SONNET

LONG = "x" * 4 * 2000


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    for name, value in NO_KEYS.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def kimiya(
    policy: Policy | None = None, region: str = "us-east-1", **settings: object
) -> AsyncIterator[tuple[App, SimulatedBedrock]]:
    clock = VirtualClock(datetime(2026, 11, 22, tzinfo=UTC))
    bedrock = SimulatedBedrock(clock, policy)
    async with running(parse_script(REPLY), clock=clock, aws=bedrock) as host:
        provider = ProviderConfig(
            kind="bedrock",
            host="bedrock",
            region=region,
            endpoint_url=host.base_url,
            **settings,  # pyright: ignore[reportArgumentType]
        )
        # Marks are where the tests put them: no planner.
        config = Config(providers={"aws": provider}, caching=CachingConfig(plan=False))
        app = assemble(config, env={}, clock=clock)
        try:
            yield app, bedrock
        finally:
            await app.aclose()


def asking(model: str, *, marked: bool = False) -> Request:
    system = Message("system", (Text(LONG, cache=Breakpoint() if marked else None),))
    return Request(model, (system, Message("user", (Text("hi"),))))


async def call(app: App, model: str, *, marked: bool = False) -> Outcome:
    return await app.pipeline.complete(asking(model, marked=marked))


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("claude-sonnet-4-5", f"aws:global.{SONNET}"),
        ("kimi-k2.5", f"aws:{K25}"),
        (K25, f"aws:{K25}"),
        (f"us.{SONNET}", f"aws:us.{SONNET}"),
        (
            f"arn:aws:bedrock:us-east-1::foundation-model/{K25}",
            f"aws:arn:aws:bedrock:us-east-1::foundation-model/{K25}",
        ),
        (f"aws:us.{SONNET}", f"aws:us.{SONNET}"),
        (f"aws:global.{K3}", f"aws:global.{K3}"),
        (
            f"aws:arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.{SONNET}",
            f"aws:arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.{SONNET}",
        ),
    ],
)
async def test_what_is_written_is_answered(written: str, target: str) -> None:
    async with kimiya() as (app, _):
        outcome = await call(app, written)
        assert outcome.report.target == target
        assert outcome.report.cost_usd is not None
        streamed = [event async for event in app.pipeline.stream(asking(written))]
        assert streamed


async def test_a_bare_id_goes_through_the_geographys_profile_and_is_remembered() -> None:
    async with kimiya() as (app, bedrock):
        first = await call(app, f"aws:{SONNET}")
        assert first.response.model == f"us.{SONNET}"
        assert bedrock.calls[0] == SONNET
        second = await call(app, f"aws:{SONNET}")
        assert second.report.target == f"aws:us.{SONNET}"
        assert bedrock.calls[-1] == f"us.{SONNET}"
        assert bedrock.calls.count(SONNET) == 1
        listed = [made for made in bedrock.calls if made == "GET /inference-profiles"]
        assert len(listed) == 1
        # A geography's profile costs a tenth more than the list: 2009 in at 3.30, 7 out at 16.50.
        assert second.report.cost_usd == Decimal("0.0067452")


@pytest.mark.parametrize("may_list", [True, False])
async def test_the_globe_only_where_residency_allows(may_list: bool) -> None:
    closed = Policy() if may_list else Policy(frozenset({"ListInferenceProfiles"}))
    async with kimiya(closed, "ap-northeast-1") as (app, bedrock):
        with pytest.raises(InvalidRequest) as caught:
            await call(app, f"aws:{K3}")
        assert f"global.{K3}" not in bedrock.calls
        if may_list:
            assert "write that id, or set providers.aws.data_residency" in caught.value.message
        else:
            assert "kimiya bedrock profiles list" in caught.value.message
    async with kimiya(closed, "ap-northeast-1", data_residency="global") as (app, _):
        assert (await call(app, f"aws:{K3}")).response.model == f"global.{K3}"
    async with kimiya(closed, "ap-northeast-1", data_residency="geography") as (app, bedrock):
        outcome = await call(app, "claude-sonnet-4-5")
        assert outcome.report.target == f"aws:jp.{SONNET}"
        assert bedrock.calls == [f"jp.{SONNET}"]


def made(bedrock_url: str, source: str, tags: Mapping[str, str]) -> str:
    control = BotoControlPlane("us-east-1", bedrock_url)
    return control.create("team", source, tags=tags)


SOURCE = f"arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.{SONNET}"


async def profile_of(app: App) -> str:
    url = app.config.providers["aws"].endpoint_url or ""
    return await asyncio.to_thread(made, url, SOURCE, {"department": "risk", "cost": "42"})


async def test_an_application_profile_has_its_models_caching_price_and_tags() -> None:
    async with kimiya() as (app, bedrock):
        arn = await profile_of(app)
        first = await call(app, f"aws:{arn}", marked=True)
        assert first.report.usage is not None
        assert first.report.usage.cache_write_tokens == 2004
        second = await call(app, f"aws:{arn}", marked=True)
        assert second.report.usage is not None
        assert second.report.usage.cache_read_tokens == 2004
        # 5 fresh at 3.30, 2004 read at 0.33, 7 out at 16.50.
        assert second.report.cost_usd == Decimal("0.00079332")
        (target,) = await app.routes.settled(f"aws:{arn}")
        assert (target.card.name, target.card.model_id) == ("claude-sonnet-4-5", arn)
        assert (target.profile, target.tags) == (arn, {"department": "risk", "cost": "42"})
        gets = [c for c in bedrock.calls if c.startswith("GET /inference-profiles/")]
        assert len(gets) == 1


async def test_without_the_permission_a_profile_still_answers_and_is_unpriced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with kimiya(Policy(frozenset({"GetInferenceProfile"}))) as (app, _):
        arn = await profile_of(app)
        with caplog.at_level(logging.WARNING, "kimiya.bedrock"):
            outcome = await call(app, f"aws:{arn}", marked=True)
        assert outcome.report.cost_usd is None
        assert outcome.report.usage is not None
        assert outcome.report.usage.cache_write_tokens == 0  # no mark where it may be refused
        assert "Allow `bedrock:GetInferenceProfile`" in caplog.text
    async with kimiya(Policy(frozenset({"GetInferenceProfile"}))) as (app, bedrock):
        arn = await profile_of(app)
        provider = ProviderConfig(
            kind="bedrock",
            host="bedrock",
            region="us-east-1",
            endpoint_url=app.config.providers["aws"].endpoint_url,
            base_models={arn: "claude-sonnet-4-5"},
        )
        other = assemble(Config(providers={"aws": provider}), env={})
        try:
            outcome = await call(other, f"aws:{arn}", marked=True)
        finally:
            await other.aclose()
        assert outcome.report.usage is not None
        assert outcome.report.usage.cache_write_tokens == 2004
        assert outcome.report.cost_usd is not None
        assert not [c for c in bedrock.calls if c.startswith("GET /inference-profiles/")]


async def test_the_ledger_knows_profile_and_tags() -> None:
    async with kimiya() as (app, _):
        arn = await profile_of(app)
        accounts = Accounts(VirtualClock())
        outcome = await call(app, f"aws:{arn}")
        targets = await app.routes.settled(f"aws:{arn}")
        entry = await accounts.enter(asking("x"), NO_CONTEXT, targets)
        context = CallContext(tags={"department": "the key's own"})
        record = accounts._record(entry, context, outcome.report, targets)  # pyright: ignore
        assert record.tags == {"department": "the key's own", "cost": "42"}
        assert record.attempts[0].profile == arn


async def test_profiles_closed_to_the_account_say_so() -> None:
    async with kimiya(Policy(denied_models=frozenset({SONNET}))) as (app, _):
        with pytest.raises(Unauthorized, match="Ask for access"):
            await call(app, f"aws:{SONNET}")


@pytest.mark.parametrize(
    ("region", "model", "words"),
    [
        ("us-east-1", f"eu.{SONNET}", "kimiya bedrock profiles list --region us-east-1"),
        ("us-east-1", "anthropic.claude-none", "us-east-1 has no profile of"),
        ("sa-east-1", K3, "Only global.moonshotai.kimi-k3 serves it"),
    ],
)
async def test_ids_that_lead_nowhere_are_told_with_the_remedy(
    region: str, model: str, words: str
) -> None:
    async with kimiya(region=region) as (app, _):
        with pytest.raises(KimiyaError) as caught:
            await call(app, f"aws:{model}")
        assert words in caught.value.message
        assert isinstance(caught.value, InvalidRequest)


async def test_tokens_of_a_profile_are_estimated_where_the_service_counts_none() -> None:
    async with kimiya() as (app, _):
        counted = await app.pipeline.count_tokens(asking(f"aws:us.{SONNET}"))
        assert counted.is_estimate
        old = await app.pipeline.count_tokens(asking("aws:anthropic.claude-3-haiku-20240307-v1:0"))
        assert (old.input_tokens, old.is_estimate) == (2004 + 5, False)
        # The service counts for the model's own id only, so a profile asks by that.
        through = await app.pipeline.count_tokens(
            asking("aws:us.anthropic.claude-3-haiku-20240307-v1:0")
        )
        assert (through.input_tokens, through.is_estimate) == (2004 + 5, False)


async def test_calls_are_told_to_cloudwatch(tmp_path: Path) -> None:
    path = tmp_path / "emf.log"
    async with kimiya() as (app, _):
        arn = await profile_of(app)
        books = LedgerConfig(
            enabled=False, emf=str(path), emf_namespace="Team", emf_tags=("department",)
        )
        app.pipeline.accounts = await open_accounts(Config(ledger=books), app.pipeline.clock, {})
        await call(app, f"aws:{arn}", marked=True)
    (line,) = path.read_text().splitlines()
    fields = json.loads(line)
    assert fields["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Team"
    assert (fields["department"], fields["Model"], fields["Profile"]) == ("risk", arn, arn)
    assert (fields["CacheWriteTokens"], fields["OutputTokens"]) == (2004, 7)


async def test_an_id_of_another_region_is_nobodys() -> None:
    async with kimiya() as (app, bedrock):
        for name in (
            f"arn:aws:bedrock:eu-west-1:111122223333:inference-profile/eu.{SONNET}",
            "arn:aws:s3:::bucket",
            "us.nobody.model",
        ):
            with pytest.raises(UnknownModel):
                await call(app, name)
        assert bedrock.calls == []


async def test_a_stream_of_a_bare_id_goes_through_the_profile() -> None:
    async with kimiya() as (app, _):
        events = [event async for event in app.pipeline.stream(asking(SONNET))]
        assert events[0] == StreamStart("simulated-1", f"us.{SONNET}")
        assert isinstance(events[-1], Finish)


@pytest.mark.parametrize("model", [K25, "kimi-k2-thinking", f"us.{K3}"])
async def test_marks_never_reach_a_model_that_refuses_them(model: str) -> None:
    async with kimiya() as (app, _):
        outcome = await call(app, model, marked=True)
        codes = {adjustment.code for adjustment in outcome.report.adjustments}
        assert any("cache" in code or "breakpoint" in code for code in codes), codes
