"""Lines of the embedded metric format are what CloudWatch takes, and say what the ledger says."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.bedrock.metrics import METRICS, EmfFormat, EmfLog
from kimiya.core.exchange import Repair, Usage
from kimiya.errors import ConfigError, LedgerError
from kimiya.ledger.record import LedgerAttempt, LedgerRecord

AT = datetime(2026, 11, 22, 12, 0, 0, 5000, tzinfo=UTC)
PRICED = LedgerAttempt(
    provider="aws",
    model_id="us.anthropic.claude-haiku-4-5-20251001-v1:0",
    profile="us.anthropic.claude-haiku-4-5-20251001-v1:0",
    usage=Usage(1000, 50, cache_read_tokens=600, cache_write_tokens=300, reasoning_tokens=10),
    usd=Decimal("0.0012"),
    saved_by_caching_usd=Decimal("0.0004"),
)
FAILED = LedgerAttempt(provider="aws", model_id="x", error="RateLimited")


def record(**fields: Any) -> LedgerRecord:
    plain: dict[str, Any] = {
        "call_id": "019b76daa800-0000-0badcafe",
        "at": AT,
        "model": "claude-haiku-4-5",
        "attempts": (FAILED, PRICED),
        "duration_s": 1.5,
        "first_event_s": 0.25,
    }
    return LedgerRecord(**{**plain, **fields})


def read(line: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A line as CloudWatch reads it: metrics by name, and everything else."""
    fields = json.loads(line)
    (directive,) = fields.pop("_aws")["CloudWatchMetrics"]
    named = [metric["Name"] for metric in directive["Metrics"]]
    metrics = {name: fields.pop(name) for name in named}
    for dimensions in directive["Dimensions"]:
        assert len(dimensions) <= 30
        for dimension in dimensions:
            value = fields[dimension]
            assert isinstance(value, str)
            assert 0 < len(value) <= 1024
            assert value.isascii()
            assert value.isprintable()
            assert value == value.strip()
    assert len(named) == len(set(named)) <= 100
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert "\n" not in line
    return metrics, {**fields, "directive": directive}


def test_a_line_by_hand() -> None:
    call = record(
        tags={"department": "risk", "colour": "red"},
        key_id="k1",
        conversation="c1",
        repairs=(Repair("r", "d", "name"),),
        saved_by_routing_usd=Decimal("0.5"),
    )
    metrics, rest = read(EmfFormat("Team/Kimiya", ("department", "absent")).line(call))
    assert metrics == {
        "Calls": 1,
        "Failures": 0,
        "Retries": 1,
        "Repairs": 1,
        "UnpricedCalls": 0,
        "InputTokens": 1000,
        "FreshInputTokens": 100,
        "CacheReadTokens": 600,
        "CacheWriteTokens": 300,
        "OutputTokens": 50,
        "ReasoningTokens": 10,
        "CostUSD": 0.0012,
        "SavedByCachingUSD": 0.0004,
        "SavedByRoutingUSD": 0.5,
        "Duration": 1500,
        "TimeToFirstToken": 250,
    }
    assert set(metrics) == set(METRICS)
    directive = rest["directive"]
    assert directive["Namespace"] == "Team/Kimiya"
    assert directive["Dimensions"] == [[], ["Provider"], ["Provider", "Model"], ["department"]]
    assert {"Name": "CostUSD", "Unit": "None"} in directive["Metrics"]
    assert {"Name": "Duration", "Unit": "Milliseconds"} in directive["Metrics"]
    assert (rest["Provider"], rest["Model"], rest["department"]) == ("aws", PRICED.model_id, "risk")
    assert (rest["Conversation"], rest["Key"], rest["Profile"]) == ("c1", "k1", PRICED.profile)
    stamp = json.loads(EmfFormat().line(call))["_aws"]["Timestamp"]
    assert stamp == 1795348800005


def test_what_is_not_known_is_left_out_and_never_zero() -> None:
    unpriced = LedgerAttempt(provider="aws", model_id="m", usage=Usage(10, 1))
    metrics, rest = read(EmfFormat().line(record(attempts=(unpriced,), first_event_s=None)))
    assert metrics["UnpricedCalls"] == 1
    for name in ("CostUSD", "SavedByCachingUSD", "SavedByRoutingUSD", "TimeToFirstToken"):
        assert name not in metrics
    assert "Profile" not in rest
    refused, rest = read(EmfFormat().line(record(attempts=(), error="BudgetExceeded")))
    assert (refused["Calls"], refused["Failures"], refused["Retries"]) == (1, 1, 0)
    assert (rest["Provider"], rest["Model"]) == ("none", "claude-haiku-4-5")


@given(st.text(), st.text(), st.dictionaries(st.text(min_size=1), st.text()))
def test_whatever_callers_write_a_line_is_one_line(
    model: str, tag: str, tags: dict[str, str]
) -> None:
    attempt = LedgerAttempt(provider="aws", model_id=model, error="X")
    call = record(model=model, attempts=(attempt,), tags={**tags, "team": tag}, user=tag)
    read(EmfFormat(tags=("team",)).line(call))


@pytest.mark.parametrize("namespace", ["AWS/Bedrock", "aws/kimiya", "", "with space", "x" * 256])
def test_namespaces_of_aws_and_impossible_ones_are_refused(namespace: str) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        EmfFormat(namespace)


def test_dimensions_are_few() -> None:
    with pytest.raises(ConfigError, match="too many dimensions"):
        EmfFormat(tags=tuple(f"t{n}" for n in range(9)))


def test_lines_are_appended_and_trouble_stands_in_nobodys_way(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "metrics.log"
    for _ in range(2):
        with EmfLog(path) as log:
            assert log.add(record())
    assert [read(line)[0]["Calls"] for line in path.read_text().splitlines()] == [1, 1]
    assert log.add(record()) is False  # it is closed
    with pytest.raises(LedgerError, match="Choose another file"):
        EmfLog(tmp_path / "no" / "where")
    with EmfLog("/dev/full") as full:
        assert full.add(record()) is False
    with EmfLog("-") as out:
        assert out.add(record())
    assert read(capfdbinary.readouterr().out.decode().rstrip("\n"))
