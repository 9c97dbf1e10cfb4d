"""What ``make run ONCE=1`` shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

from kimiya.providers import local_model
from tests.e2e.tripwire import Tripwire

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_run.py"


def test_the_tour_makes_every_call_and_ends(tripwire: Tripwire, embedded: str) -> None:
    assert local_model.is_installed()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--port", "0"],
        env={**os.environ, **tripwire.environment, "ONCE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout
    assert out.count("The capital of France is Paris.") == 2
    assert len(re.findall(r'calls forecast\(\{"city": "Lisbon", "days": 3\}\)', out)) == 2
    assert len(re.findall(r"\d+ tokens read, \d+ written", out)) == 4
    assert re.search(r"^export OPENAI_BASE_URL=http://127\.0\.0\.1:\d+/v1 ", out, re.M)
    assert re.search(r"^export ANTHROPIC_BASE_URL=http://127\.0\.0\.1:\d+ ", out, re.M)
    assert max(len(line) for line in out.splitlines()) <= 80
