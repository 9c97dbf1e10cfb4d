"""``kimiya bedrock profiles`` and the real AWS CLI, both at the simulated account, as typed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kimiya.cli.main import main
from tests.bedrock.aws import K3, K25, NO_KEYS, SONNET, Account, account

AWS_CLI = Path(sys.executable).parent / "aws"


@pytest.fixture(scope="module")
def served() -> Iterator[Account]:
    with account() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in NO_KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def kimiya(
    served: Account, capsys: pytest.CaptureFixture[str], *words: str, region: str = "us-east-1"
) -> str:
    where = ["--endpoint-url", served.url, *(["--region", region] if region else [])]
    assert main(["bedrock", "profiles", *words, *where]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_profile_from_name_to_grave(served: Account, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["create", "Risk sonnet", "--from", "claude-sonnet-4-5", "--description", "why"]
    tags = ["--tag", "department=risk", "--tag", "project=slides", "--tag", "cost-center=42"]
    arn = kimiya(served, capsys, *words, *tags).strip()
    assert arn.startswith("arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/")
    shown = json.loads(kimiya(served, capsys, "show", arn, "--json", region=""))
    assert shown["tags"] == {"department": "risk", "project": "slides", "cost-center": "42"}
    assert (shown["model"], shown["name"], shown["description"]) == (SONNET, "Risk sonnet", "why")
    assert "everywhere" in shown["answers_in"]  # the catalogue's id of that name is global
    left = kimiya(served, capsys, "tag", arn, "owner=kai", "--remove", "project", region="")
    assert left.strip() == "department=risk, cost-center=42, owner=kai"
    resolved = json.loads(kimiya(served, capsys, "resolve", arn, "--json", region=""))
    assert (resolved["model_id"], resolved["model"]) == (arn, "claude-sonnet-4-5")
    assert resolved["caching"].startswith("explicit, from 1024 tokens, 4 points")
    assert resolved["price"] == "$3 in, $15 out per Mtok"
    assert resolved["tags"]["owner"] == "kai"
    assert arn in kimiya(served, capsys, "list", "--type", "application")
    assert "department=risk" in kimiya(served, capsys, "show", arn, region="")
    assert main(["bedrock", "profiles", "delete", arn, "--endpoint-url", served.url]) == 2
    assert "Say --yes" in capsys.readouterr().err
    assert "is deleted" in kimiya(served, capsys, "delete", arn, "--yes", region="")
    assert kimiya(served, capsys, "list", "--type", "application").strip() == "no such profiles"


def test_many_regions_at_once(served: Account, capsys: pytest.CaptureFixture[str]) -> None:
    regions = ["--region", "eu-north-1", "--region", "sa-east-1", "--json"]
    made = json.loads(kimiya(served, capsys, "create", "two", "--from", K25, *regions, region=""))
    assert [row["source"] for row in made] == [
        f"arn:aws:bedrock:{region}::foundation-model/{K25}"
        for region in ("eu-north-1", "sa-east-1")
    ]
    own = ["list", "--type", "application"]
    rows = json.loads(kimiya(served, capsys, *own, *regions, region=""))
    assert {row["region"] for row in rows} == {"eu-north-1", "sa-east-1"}
    every = json.loads(kimiya(served, capsys, *own, "--all-regions", "--json", region=""))
    assert {row["arn"] for row in every} == {row["arn"] for row in made}
    text = kimiya(served, capsys, "list", "--model", "kimi-k3", "--region", "ap-south-1", region="")
    assert "  in.moonshotai.kimi-k3\n      system, answers in ap-south-1, ap-south-2" in text


@pytest.mark.parametrize(
    ("region", "written", "more", "model_id"),
    [
        ("us-east-1", "claude-sonnet-4-5", (), f"global.{SONNET}"),
        ("us-east-1", "claude-sonnet-4.5", (), f"global.{SONNET}"),
        ("eu-west-1", "claude-sonnet-4-5", ("--residency", "geography"), f"eu.{SONNET}"),
        ("us-gov-west-1", "claude-sonnet-4-5", (), f"us-gov.{SONNET}"),
        ("us-east-1", SONNET, (), f"us.{SONNET}"),
        ("ap-northeast-1", SONNET, (), f"jp.{SONNET}"),
        ("ap-northeast-1", K3, ("--residency", "global"), f"global.{K3}"),
        ("ap-south-1", f"in.{K3}", (), f"in.{K3}"),
        ("us-east-1", "kimi-k2.5", (), K25),
        ("us-east-1", f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}", (), f"us.{SONNET}"),
        (
            "us-east-1",
            f"arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.{SONNET}",
            (),
            f"us.{SONNET}",
        ),
        ("us-east-1", K25, ("--residency", "region"), K25),
    ],
)
def test_what_a_region_accepts(
    served: Account,
    capsys: pytest.CaptureFixture[str],
    region: str,
    written: str,
    more: tuple[str, ...],
    model_id: str,
) -> None:
    out = kimiya(served, capsys, "resolve", written, *more, region=region)
    assert out.splitlines()[0] == model_id
    assert served.converse(model_id, region=region)["stopReason"] == "end_turn"


@pytest.mark.parametrize(
    ("region", "written", "more", "told"),
    [
        ("us-east-1", f"eu.{SONNET}", (), f"only as us.{SONNET}, global.{SONNET}"),
        ("ap-northeast-1", K3, (), 'data_residency = "global"'),
        ("us-east-1", SONNET, ("--residency", "region"), "does not allow"),
        ("us-east-1", "clade-sonnet-4-5", (), "did you mean claude-sonnet-4-5"),
        ("us-east-1", "anthropic.claude-none", (), "Could not resolve the foundation model"),
        ("us-east-1", f"arn:aws:bedrock:eu-west-1:1:inference-profile/eu.{SONNET}", (), "--region"),
        ("us east", "kimi-k2.5", (), "is not an AWS region"),
    ],
)
def test_where_there_is_no_way_the_remedy_is_told(
    served: Account,
    capsys: pytest.CaptureFixture[str],
    region: str,
    written: str,
    more: tuple[str, ...],
    told: str,
) -> None:
    where = ["--region", region, "--endpoint-url", served.url]
    assert main(["bedrock", "profiles", "resolve", written, *more, *where]) in (1, 2)
    assert told in capsys.readouterr().err


def test_the_configuration_says_where(
    served: Account, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arn = "arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/not-there"
    (tmp_path / "kimiya.toml").write_text(
        '[providers.aws]\nkind = "bedrock"\nregion = "eu-west-1"\n'
        f'endpoint_url = "{served.url}"\ndata_residency = "geography"\n'
        f'base_models = {{ "{arn}" = "claude-haiku-4-5" }}\n'
    )
    assert main(["bedrock", "profiles", "resolve", "claude-sonnet-4-5"]) == 0
    assert capsys.readouterr().out.startswith(f"eu.{SONNET}\n")
    assert main(["bedrock", "profiles", "resolve", arn]) == 0
    assert "claude-haiku-4-5" in capsys.readouterr().out
    assert main(["bedrock", "profiles", "list", "--provider", "azure"]) == 2
    assert "Configured: aws" in capsys.readouterr().err


def test_without_a_region_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bedrock", "profiles", "list"]) == 2
    assert "set AWS_REGION" in capsys.readouterr().err


def aws(served: Account, *words: str, region: str = "us-east-1", ok: bool = True) -> Any:
    """The real AWS CLI, as a person types it."""
    ran = subprocess.run(
        [str(AWS_CLI), *words, "--endpoint-url", served.url, "--region", region],
        env={**os.environ, "AWS_PAGER": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ran.returncode == 0) is ok, ran.stderr
    if not ok:
        return ran.stderr
    return json.loads(ran.stdout) if ran.stdout.strip() else None


@pytest.mark.slow
def test_the_aws_cli_works_as_documented(served: Account, tmp_path: Path) -> None:
    listed = aws(served, "bedrock", "list-inference-profiles", "--type-equals", "SYSTEM_DEFINED")
    rows = {row["inferenceProfileId"]: row for row in listed["inferenceProfileSummaries"]}
    source = rows[f"us.{SONNET}"]["inferenceProfileArn"]
    arn = aws(
        served,
        "bedrock",
        "create-inference-profile",
        "--inference-profile-name",
        "typed",
        "--model-source",
        f"copyFrom={source}",
        "--tags",
        "key=department,value=risk",
    )["inferenceProfileArn"]
    got = aws(served, "bedrock", "get-inference-profile", "--inference-profile-identifier", arn)
    assert got["models"] == rows[f"us.{SONNET}"]["models"]
    tags = aws(served, "bedrock", "list-tags-for-resource", "--resource-arn", arn)["tags"]
    assert tags == [{"key": "department", "value": "risk"}]
    talk = ["--messages", '[{"role":"user","content":[{"text":"hello"}]}]']
    said = aws(served, "bedrock-runtime", "converse", "--model-id", arn, *talk)
    assert said["output"]["message"]["content"] == [{"text": "You said hello."}]
    body = tmp_path / "body.json"
    body.write_text(
        '{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,'
        '"messages":[{"role":"user","content":"hello"}]}'
    )
    out = tmp_path / "out.json"
    invoke = ["invoke-model", "--model-id", arn, "--body", f"file://{body}", str(out)]
    aws(served, "bedrock-runtime", *invoke)
    assert json.loads(out.read_text())["content"][0]["text"] == "You said hello."
    told = aws(served, "bedrock-runtime", "converse", "--model-id", SONNET, *talk, ok=False)
    assert "on-demand throughput isn" in told
    aws(served, "bedrock", "delete-inference-profile", "--inference-profile-identifier", arn)
    gone = aws(
        served, "bedrock", "get-inference-profile", "--inference-profile-identifier", arn, ok=False
    )
    assert "ResourceNotFoundException" in gone
