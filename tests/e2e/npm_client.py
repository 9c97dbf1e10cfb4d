"""Where the npm clients lie, and how one is run: alone, with a home of its own, on loopback."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

MODULES = Path(__file__).parent / "npm" / "node_modules"
TIMEOUT_S = 120.0


def script_of(package: str, file: str) -> list[str]:
    """The command that starts a client; skips the test, with the reason, where it cannot run."""
    node = shutil.which("node")
    if shutil.which("npm") is None or node is None:
        pytest.skip("npm is not installed, so this client is not either")
    path = MODULES / package / file
    if not path.exists():
        pytest.skip(f"{package} is not installed: make npm-clients")
    return [node, str(path)]


def run_client(
    command: Sequence[str], folder: Path, home: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run to the end in ``folder``; nothing of the user's own environment gets in."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**kept, "HOME": str(home), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, errors = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            # node only starts the client's own binary, which would outlive it.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)
