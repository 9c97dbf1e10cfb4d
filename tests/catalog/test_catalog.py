"""The shipped rows are well-formed and dated, names resolve, overrides land where they should."""

# ruff: noqa: E501 (a case is one line, or its table cannot be read)

from datetime import date
from decimal import Decimal

import pytest

from kimiya.catalog.catalog import Catalog, unknown_card
from kimiya.catalog.hosts import host_at, host_named, known_hosts
from kimiya.errors import ConfigError, UnknownModel

CATALOG = Catalog.load()
NOV_22 = date(2026, 11, 22)
ROWS = [pytest.param(card, id=f"{card.host}/{card.model_id}") for card in CATALOG.cards]


@pytest.mark.parametrize("card", ROWS)
def test_every_row_is_well_formed(card) -> None:
    assert card.dialects
    assert card.context_tokens
    assert card.max_output_tokens <= card.context_tokens
    assert card.thinking.default in card.thinking.modes
    assert set(card.recommended) <= {"instant", "thinking"}
    for mode in card.thinking.modes:
        if card.sampling and any(rule.rule == "fixed" for rule in card.sampling):
            assert mode in card.recommended, "a fixed setting needs the value it is fixed to"
    for source in (card.source, card.cache.source, *(price.source for price in card.prices)):
        assert source.url.startswith("https://") or source.url == "measured"
        assert date(2025, 1, 1) < source.checked <= date(2027, 1, 1)
    assert (card.cache.max_breakpoints > 0) == (card.cache.kind == "explicit")


@pytest.mark.parametrize("card", ROWS)
def test_every_price_is_exact_and_dated(card) -> None:
    for price in card.prices:
        for field in price.__struct_fields__:
            if field.endswith("_usd_per_mtok") and (value := getattr(price, field)) is not None:
                assert isinstance(value, Decimal)
                assert value >= 0
                assert -value.as_tuple().exponent <= 4, "a float crept in"
        assert price.since <= NOV_22


def test_no_two_rows_are_about_the_same_thing() -> None:
    keys = [(card.host, card.model_id) for card in CATALOG.cards]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("name", "host", "model_id"),
    [
        ("kimi", "moonshot", "kimi-k2.6"),
        ("KIMI", "moonshot", "kimi-k2.6"),
        ("kimi-k2.5", "bedrock", "moonshotai.kimi-k2.5"),
        ("claude", "anthropic", "claude-sonnet-5-5"),
        ("local", "local", "smollm2-135m-instruct"),
        ("embedded", "local", "smollm2-135m-instruct"),
        ("vllm/moonshotai/Kimi-K2.5", "vllm", "moonshotai/Kimi-K2.5"),
        ("claude-haiku-4-5-20251001", "anthropic", "claude-haiku-4-5"),
        ("bedrock/eu.anthropic.claude-sonnet-5", "bedrock", "eu.anthropic.claude-sonnet-5"),
    ],
)
def test_names_resolve_current_first(name: str, host: str, model_id: str) -> None:
    first = CATALOG.named(name)[0]
    assert (first.host, first.model_id) == (host, model_id)


def test_retired_rows_come_last_but_come() -> None:
    found = CATALOG.named("kimi-k2.5")
    assert {card.host for card in found} >= {"bedrock", "vllm", "sglang", "moonshot"}
    assert [card.status for card in found].index("retired") == len(found) - 1


@pytest.mark.parametrize("name", ["kimi-k25", "clade", "", "x" * 10_000, "a/b/c", "bedrock/"])
def test_an_unknown_name_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        CATALOG.named(name)
    if name == "kimi-k25":
        assert "kimi-k2.5" in caught.value.nearest


@pytest.mark.parametrize(
    ("model_id", "input_usd"),
    [
        ("global.anthropic.claude-opus-5-5", "4"),
        ("us.anthropic.claude-opus-5-5", "4.4"),
        ("us-gov.anthropic.claude-opus-5-5", "4.8"),
        ("anthropic.claude-opus-5-5", "4.4"),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/in.moonshotai.kimi-k3", "3.3"),
    ],
)
def test_a_routing_prefix_has_its_own_price(model_id: str, input_usd: str) -> None:
    card = CATALOG.find("bedrock", model_id)
    assert card is not None
    assert card.model_id == model_id
    price = card.price_on(NOV_22)
    assert price is not None
    assert price.input_usd_per_mtok == Decimal(input_usd)


@pytest.mark.parametrize(
    "model_id", ["arn:aws:bedrock:us-east-1:1:application-inference-profile/x1", "us.", "..", ""]
)
def test_what_names_no_model_finds_none(model_id: str) -> None:
    assert CATALOG.find("bedrock", model_id) is None


@pytest.mark.parametrize(
    ("day", "write"), [(date(2026, 10, 14), None), (date(2026, 10, 15), Decimal(3))]
)
def test_a_price_holds_from_its_day_on(day: date, write: Decimal | None) -> None:
    card = CATALOG.find("moonshot", "kimi-k3")
    assert card is not None
    price = card.price_on(day)
    assert price is not None
    assert price.cache_write_5m_usd_per_mtok == write
    assert card.price_on(date(2026, 7, 15)) is None


@pytest.mark.parametrize(("tokens", "usd"), [(100_000, "0.10"), (100_001, "0.50")])
def test_a_tier_begins_past_its_bound(tokens: int, usd: str) -> None:
    card = CATALOG.find("anthropic", "claude-haiku-5-5")
    assert card is not None
    price = card.price_on(NOV_22, tokens)
    assert price is not None
    assert price.input_usd_per_mtok == Decimal(usd)


def test_a_field_of_a_row_is_overridden_and_the_rest_stays() -> None:
    row = {"host": "moonshot", "model_id": "kimi-k2.6", "cache": {"min_tokens": 512}}
    before, after = (
        c.find("moonshot", "kimi-k2.6") for c in (CATALOG, Catalog.load({"models": [row]}))
    )
    assert before is not None
    assert after is not None
    assert after.cache.min_tokens == 512
    assert after.cache.kind == before.cache.kind
    assert after.prices == before.prices
    assert CATALOG.find("moonshot", "kimi-k2.6") is before, "the shipped catalogue is shared"


def test_a_row_like_another_takes_all_but_names_and_foreign_prices() -> None:
    rows = [
        {"host": "vllm", "model_id": "box", "like": "moonshot/kimi-k2.6", "aliases": ["mine"]},
        {"host": "moonshot", "model_id": "mirror", "like": "moonshot/kimi-k2.6"},
    ]
    catalog = Catalog.load({"models": rows})
    box = catalog.named("mine")[0]
    assert (box.name, box.has_video, box.prices, box.retires) == ("kimi-k2.6", True, (), None)
    mirror = catalog.find("moonshot", "mirror")
    assert mirror is not None
    assert len(mirror.prices) == 1
    assert mirror.aliases == ()


@pytest.mark.parametrize(
    ("models", "key", "words"),
    [
        ([{"model_id": "x"}], "models[0].host", "host"),
        ([{"host": "a", "model_id": 3}], "models[0].model_id", "text"),
        ([{"host": "a", "model_id": "x", "contxt_tokens": 3}], "models[0].contxt_tokens", "context_tokens"),
        ([{"host": "a", "model_id": "x", "like": "moonshot/kimi-k26"}], "models[0].like", "kimi-k2.6"),
        ([{"host": "moonshot", "model_id": "kimi-k3", "context_tokens": "big"}], "models[0].context_tokens", "int"),
        ([{"host": "a", "model_id": "x"}], "models[0]", "missing"),
        ([{"host": "moonshot", "model_id": "kimi-k3", "cache": {"kind": "magic"}}], "models[0].cache.kind", "magic"),
        ("rows", "models", "list"),
        ([3], "models", "list"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named(models: object, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Catalog.load({"models": models})
    assert caught.value.key == key
    assert words in caught.value.message


def test_an_unknown_model_is_forbidden_nothing_and_unpriced() -> None:
    card = unknown_card("my-box", "some/model", "openai_chat")
    assert card.price_on(NOV_22) is None
    assert card.has_vision
    assert card.call_format == "kimi_k2", "a label is not the model: replies are tamed"
    assert card.has_video
    assert card.forced_tool_choice == "yes"
    assert card.thinking.form == "native"


def test_an_unknown_model_at_a_known_engine_follows_its_switch() -> None:
    card = unknown_card("vllm", "served-as-this", "openai_chat")
    assert (card.thinking.form, card.reasoning_field) == ("chat_template_kwargs", "reasoning")


def test_hosts_are_told_by_their_address() -> None:
    assert {host.name for host in known_hosts()} >= {"moonshot", "anthropic", "vllm", "sglang"}
    found = host_at("https://api.moonshot.cn/v1")
    assert found is not None
    assert found.name == "moonshot"
    assert host_at("http://localhost:8000/v1") is None
    assert host_at("https://api.moonshot.ai.evil.example/v1") is None
    assert host_named("nobody") is None
