"""``kimiya serve`` as a process of its own, for as long as a test needs it."""

import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

START_S = 120.0
STOP_S = 60.0


@contextmanager
def serving(config: str, folder: Path, env: Mapping[str, str]) -> Iterator[str]:
    """The address of a gateway with this ``kimiya.toml``; it must stop cleanly in the end."""
    (folder / "kimiya.toml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "kimiya", "serve", "--port", "0"]
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--config", str(folder / "kimiya.toml")],
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield _address(process, folder / "stderr")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
    said = (folder / "stderr").read_text(encoding="utf-8")
    # uvicorn drains, then lets the signal have its usual effect.
    assert process.returncode in (0, -signal.SIGTERM), said
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
    except ValueError:  # closed by the block's end
        return
    lines.put("")
