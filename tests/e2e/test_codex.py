"""Codex CLI through the gateway's Responses front, with its own shell tool."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.npm_client import run_client, script_of
from tests.e2e.tripwire import Tripwire

pytestmark = pytest.mark.npm

# The features that call home are off; the rest is as a user has it.
CONFIG = """\
model = "{model}"
model_provider = "kimiya"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
apps = false
plugins = false
remote_plugin = false
skill_mcp_dependency_install = false
tool_suggest = false

[model_providers.kimiya]
name = "Kimiya"
base_url = "{gateway}/v1"
wire_api = "responses"
env_key = "KIMIYA_KEY"
request_max_retries = 0
stream_max_retries = 0
"""


def codex(
    gateway: str, tripwire: Tripwire, folder: Path, prompt: str, model: str = "sim"
) -> subprocess.CompletedProcess[str]:
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.format(model=model, gateway=gateway))
    command = [*script_of("@openai/codex", "bin/codex.js"), "exec", "--json"]
    command += ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", prompt]
    env = {"CODEX_HOME": str(home), "KIMIYA_KEY": "none", **tripwire.environment}
    return run_client(command, work, home, env)


def test_it_writes_a_file_and_reads_it_back(
    gateway: str, tripwire: Tripwire, tmp_path: Path
) -> None:
    path = tmp_path / "work" / "note.txt"
    done = codex(gateway, tripwire, tmp_path, f"codex: {path}")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert path.read_text() == "made by codex"
    assert [i["exit_code"] for i in items if i["type"] == "command_execution"] == [0, 0]
    (said,) = [item["text"] for item in items if item["type"] == "agent_message"]
    assert "It holds:" in said
    assert "made by codex" in said
    (turn,) = [event for event in events if event["type"] == "turn.completed"]
    assert turn["usage"]["output_tokens"] > 0


def test_an_unknown_model_is_told(gateway: str, tripwire: Tripwire, tmp_path: Path) -> None:
    done = codex(gateway, tripwire, tmp_path, "hello", model="no-such-model")
    assert done.returncode != 0
    assert "no-such-model" in done.stdout + done.stderr


def test_what_does_not_fit_the_embedded_model_is_told(
    gateway: str, tripwire: Tripwire, tmp_path: Path, embedded: str
) -> None:
    """Codex's own prompt and tools are longer than the embedded model's window."""
    done = codex(gateway, tripwire, tmp_path, "hello", model=embedded)
    assert done.returncode != 0
    assert "context" in (done.stdout + done.stderr).lower()
