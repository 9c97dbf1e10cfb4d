"""Checkpoints a killed run goes on from, bit for bit.

A checkpoint is written under another name, flushed to the disk, and renamed: whatever kills the
process, the newest complete one is intact. Each file ends in its own SHA-256, so one that was cut
or rotted is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from kimiya.errors import KimiyaError

__all__ = ["CheckpointError", "Checkpoints"]

_NAME = re.compile(r"step-(\d{8})\.ckpt")
_DIGEST_BYTES = 32


class CheckpointError(KimiyaError):
    """A checkpoint cannot be written or read; ``path`` names it."""

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write ``state`` as the checkpoint after ``step`` steps, then drop the oldest.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written. Earlier checkpoints
                are untouched.
        """
        path = self.folder / f"step-{step:08d}.ckpt"
        partial = path.with_suffix(".partial")
        buffer = io.BytesIO()
        torch.save(state, buffer)
        body = buffer.getbuffer()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(body)
                file.write(hashlib.sha256(body).digest())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise CheckpointError(
                f"cannot be written: {error}. Earlier checkpoints are untouched; make room and run "
                "the same command again",
                path=path,
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        for old in self.steps()[: -self.keep]:
            (self.folder / f"step-{old:08d}.ckpt").unlink(missing_ok=True)
        return path

    def steps(self) -> list[int]:
        """Steps there is a file for, oldest first; whether it is whole shows on loading."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def load_newest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest whole checkpoint, with its step; None where there is none at all.

        Raises:
            CheckpointError: there are checkpoints and every one is damaged.
        """
        steps = self.steps()
        damaged: CheckpointError | None = None
        for step in reversed(steps):
            try:
                return step, self.load(step)
            except CheckpointError as error:
                damaged = damaged or error
        if damaged is not None:
            raise damaged
        return None

    def load(self, step: int) -> dict[str, Any]:
        """The checkpoint after ``step`` steps.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        path = self.folder / f"step-{step:08d}.ckpt"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error}", path=path) from error
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise CheckpointError("is damaged; delete it to start from an earlier one", path=path)
        return torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
