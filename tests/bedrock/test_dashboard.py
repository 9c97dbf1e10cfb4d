"""The dashboard shows both namespaces, and goes to CloudWatch through the real botocore."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from kimiya.bedrock.dashboard import dashboard
from kimiya.bedrock.metrics import METRICS
from kimiya.cli.main import main
from kimiya.errors import ConfigError
from tests.bedrock.aws import NO_KEYS


def metrics_of(body: dict[str, Any]) -> str:
    """Every metric and expression of a dashboard, one to a line."""
    lines: list[str] = []
    for widget in body["widgets"]:
        for metric in widget["properties"].get("metrics", ()):
            lines += [one if isinstance(one, str) else str(one.get("expression")) for one in metric]
    return "\n".join(lines)


def test_every_model_is_searched_for_in_both_namespaces() -> None:
    body = dashboard("eu-west-1", namespace="Team-Kimiya")
    shown = metrics_of(body)
    for name in ("CacheReadInputTokens", "CacheWriteInputTokens", "InputTokenCount", "Invocations"):
        assert f"SEARCH('{{AWS/Bedrock,ModelId}} MetricName=\"{name}\"', 'Sum', 300)" in shown
    assert '{"Team-Kimiya",Provider,Model} MetricName="CostUSD"' in shown
    for widget in body["widgets"]:
        assert widget["x"] + widget["width"] <= 24
        if widget["type"] == "metric":
            assert widget["properties"]["region"] == "eu-west-1"
            ids = [m[-1]["id"] for m in widget["properties"]["metrics"] if isinstance(m[-1], dict)]
            assert len(ids) == len(set(ids))
            assert all(one[0].islower() for one in ids)
    assert len(json.dumps(body)) < 1024 * 1024


def test_what_is_shown_of_ours_is_what_is_written() -> None:
    shown = metrics_of(dashboard("us-east-1"))
    ours = re.findall(r'\{"Kimiya",Provider,Model\} MetricName="(\w+)"', shown)
    assert len(set(ours)) >= 10
    assert set(ours) <= set(METRICS)


def test_widgets_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for w in dashboard("us-east-1")["widgets"]:
        cells = {(x, y) for x in range(w["x"], w["x"] + w["width"])
                 for y in range(w["y"], w["y"] + w["height"])}  # fmt: skip
        assert not cells & taken
        taken |= cells


def test_named_models_are_shown_alone() -> None:
    arn = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/ab12"
    shown = metrics_of(dashboard("us-east-1", models=[arn]))
    assert f"AWS/Bedrock\nInvocationThrottles\nModelId\n{arn}" in shown
    assert f'Model="{arn}"' in shown


@pytest.mark.parametrize("bad", ['a" OR "b', "", "x\ny"])
def test_what_would_break_a_search_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="--model"):
        dashboard("us-east-1", models=[bad])
    with pytest.raises(ConfigError, match="namespace"):
        dashboard("us-east-1", namespace=bad)


DENIED = json.dumps(
    {
        "__type": "AccessDenied",
        "message": "User: arn:aws:iam::1:user/x is not authorized to perform:"
        " cloudwatch:PutDashboard",
    }
).encode()


@contextmanager
def cloudwatch(status: int = 200) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Takes every call, and answers as CloudWatch does."""
    taken: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append((self.headers["x-amz-target"], body))
            said = b"{}" if status == 200 else DENIED
            self.send_response(status)
            self.send_header("content-type", "application/x-amz-json-1.0")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in NO_KEYS.items():
        monkeypatch.setenv(name, value)


def test_without_apply_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bedrock", "dashboard", "--region", "eu-west-1"]) == 0
    assert json.loads(capsys.readouterr().out) == dashboard("eu-west-1")


def test_with_apply_it_is_put(capsys: pytest.CaptureFixture[str]) -> None:
    with cloudwatch() as (url, taken):
        words = ["--region", "eu-west-1", "--endpoint-url", url, "--name", "costs", "--apply"]
        assert main(["bedrock", "dashboard", *words]) == 0
    ((target, body),) = taken
    assert target.endswith(".PutDashboard")
    asked = json.loads(body)
    assert asked["DashboardName"] == "costs"
    assert json.loads(asked["DashboardBody"]) == dashboard("eu-west-1")
    assert "dashboards/dashboard/costs" in capsys.readouterr().out


def test_a_refusal_names_the_action_to_allow(capsys: pytest.CaptureFixture[str]) -> None:
    with cloudwatch(403) as (url, _):
        words = ["--region", "eu-west-1", "--endpoint-url", url, "--apply"]
        assert main(["bedrock", "dashboard", *words]) == 1
    assert "Allow `cloudwatch:PutDashboard`" in capsys.readouterr().err
