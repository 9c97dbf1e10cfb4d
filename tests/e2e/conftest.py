"""One gateway for all clients: ``kimiya serve`` as a process, before two models on this machine.

No client may leave loopback: a proxy that refuses everything stands in its way.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from kimiya.providers import local_model
from tests.e2e.tripwire import Tripwire

HERE = Path(__file__).parent
START_S = 120.0
STOP_S = 60.0
CONFIG = """\
[gateway]
keys_file = "{folder}/keys.json"
log = "warning"

[ledger]
path = "{folder}/ledger.db"
spool = "{folder}/spool"

[providers.sim]
kind = "simulated"
host = "moonshot"
script = "{script}"

[routes.sim]
targets = ["sim:kimi-k2.5"]
retries = 0
"""
LOCAL = """
[providers.local]
kind = "local"
slots = 1
context_tokens = 2048

# Greedy, so that a client that sets no temperature gets the same reply each time.
[[models]]
host = "local"
model_id = "smollm2-135m-instruct"
recommended = { instant = { temperature = 0 } }

[routes.small]
targets = ["local:smollm2-135m-instruct"]
"""


@pytest.fixture(scope="session")
def tripwire() -> Iterator[Tripwire]:
    """The proxy in the way of everything but loopback."""
    with Tripwire() as tripwire:
        yield tripwire


@pytest.fixture(autouse=True)
def _loopback_only(tripwire: Tripwire) -> Iterator[None]:
    before = len(tripwire.tried)
    yield
    assert tripwire.tried[before:] == [], "a client tried to leave loopback"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, tripwire: Tripwire) -> Iterator[str]:
    """The address of a running gateway; it must stop cleanly in the end."""
    folder = tmp_path_factory.mktemp("gateway")
    config = CONFIG.format(folder=folder, script=HERE / "script.txt")
    if local_model.is_installed():
        config += LOCAL
    (folder / "kimiya.toml").write_text(config, encoding="utf-8")
    env = {name: text for name, text in os.environ.items() if not name.startswith("KIMIYA_")}
    env |= tripwire.environment
    command = [sys.executable, "-m", "kimiya", "serve", "--port", "0"]
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--config", str(folder / "kimiya.toml")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield _address(process, folder / "stderr")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
            assert process.stdout is not None
            process.stdout.close()
    said = (folder / "stderr").read_text(encoding="utf-8")
    # uvicorn drains, then lets the signal have its usual effect.
    assert code in (0, -signal.SIGTERM), said
    assert "Traceback" not in said, said


def _address(process: subprocess.Popen[str], errors: Path) -> str:
    """What the gateway says it listens on."""
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    try:
        line = lines.get(timeout=START_S)
    except queue.Empty:
        line = ""
    found = re.search(r"http://\S+", line)
    if found is None:
        pytest.fail(f"the gateway did not start: {line}{errors.read_text(encoding='utf-8')}")
    return found[0]


def _read(stream: IO[str], lines: "queue.Queue[str]") -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed by the fixture
        return
    lines.put("")


@pytest.fixture(scope="session")
def embedded(gateway: str) -> str:
    """The embedded model's name at the gateway."""
    if not local_model.is_installed():
        pytest.skip("the embedded model is missing: kimiya local install")
    return "small"
