"""What a run reports of each step: JSON lines, TensorBoard where it is installed, a line to read.

``metrics.jsonl`` holds one object a step, in order of steps and with no step twice: a resumed run
first drops what lies after its checkpoint.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["MetricsLog", "Pace", "describe_step", "read_metrics"]


class MetricsLog:
    """The metrics file of a run, open for appending from ``step`` on."""

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        # Rewritten under another name, so that a kill here loses no line.
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)
        self._file = self.path.open("a")
        self._board = _tensorboard(folder)

    def write(self, row: dict[str, Any]) -> None:
        """Append one step's metrics; flushed, so that another process can follow."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in row.items():
                if isinstance(value, (int, float)) and key != "step":
                    self._board.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class Pace:
    """How fast a run goes and how long it will take; monotonic seconds from ``clock``."""

    def __init__(self, steps: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps = steps
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=50)
        self._done: int = 0

    def mark(self, step: int, tokens: int) -> tuple[float, float]:
        """Tokens a second of late, and seconds left, once ``step`` steps are done."""
        self._done += tokens
        now = self._clock()
        self._marks.append((now, self._done))
        first, before = self._marks[0]
        span = max(now - first, 1e-9)
        seconds_a_step = span / (len(self._marks) - 1)
        return (self._done - before) / span, seconds_a_step * (self.steps - step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file; a last one cut by a kill is left out."""
    return list(_whole_lines(path))


def describe_step(row: dict[str, Any], steps: int) -> str:
    """One step for people."""
    left = int(row["seconds_left"])
    clips = sum(row["clips"].values())
    peak = max(row["max_logit"].values(), default=0.0)
    return (
        f"step {row['step']}/{steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
        f"{row['tokens_per_s']:.0f} tokens/s  max logit {peak:.1f}  clips {clips}  "
        f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
    )


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _tensorboard(folder: Path) -> Any:
    try:
        return import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
    except ImportError:
        return None
