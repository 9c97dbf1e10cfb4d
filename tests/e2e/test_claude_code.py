"""Claude Code through the gateway, with its own tools in a folder of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.npm_client import run_client, script_of
from tests.e2e.tripwire import Tripwire

pytestmark = pytest.mark.npm


def claude(
    gateway: str, tripwire: Tripwire, folder: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    command = [*script_of("@anthropic-ai/claude-code", "cli-wrapper.cjs"), "-p", *words]
    env = {
        "ANTHROPIC_BASE_URL": gateway,
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "24",
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
        **tripwire.environment,
    }
    return run_client([*command, "--output-format", "json"], work, home, env)


def test_it_writes_a_file_and_reads_it_back(
    gateway: str, tripwire: Tripwire, tmp_path: Path
) -> None:
    path = tmp_path / "work" / "note.txt"
    done = claude(
        gateway,
        tripwire,
        tmp_path,
        f"claude code: {path}",
        "--model",
        "sim",
        "--permission-mode",
        "acceptEdits",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert path.read_text() == "made by claude code\n"
    assert said["num_turns"] == 3
    assert "It holds:" in said["result"]
    assert "made by claude code" in said["result"]
    assert said["permission_denials"] == []


def test_an_unknown_model_is_told(gateway: str, tripwire: Tripwire, tmp_path: Path) -> None:
    done = claude(gateway, tripwire, tmp_path, "hello", "--model", "no-such-model")
    assert done.returncode != 0
    assert "no-such-model" in done.stdout


def test_the_embedded_model_answers(
    gateway: str, tripwire: Tripwire, tmp_path: Path, embedded: str
) -> None:
    """Its window is small, so Claude Code leaves its tools and its own long prompt out.

    What it says is not to be foreseen, for the prompt holds the date; where it has no end, Claude
    Code reports the limit.
    """
    done = claude(
        gateway,
        tripwire,
        tmp_path,
        "What is the capital of France?",
        *("--model", embedded, "--tools", "", "--system-prompt", "You are a helpful assistant."),
    )
    said = json.loads(done.stdout)
    assert said["modelUsage"][embedded]["outputTokens"] > 0
    assert said["result"].strip()
    assert done.returncode == 0 or "24 output token maximum" in said["result"], done.stdout
