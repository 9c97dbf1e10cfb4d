"""``kimiya local`` on the command line."""

from pathlib import Path

import pytest

from kimiya.cli.main import main
from kimiya.providers import local_model


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_path_of_what_is_not_there_names_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["local", "path"]) == 2
    assert "kimiya local install" in capsys.readouterr().err


def test_the_path_is_all_that_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "is_installed", lambda: True)
    assert main(["local", "path"]) == 0
    assert capsys.readouterr().out == f"{local_model.model_path()}\n"


def test_install_says_where_and_shows_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(progress: local_model.Progress) -> Path:
        progress("unpack", 1, 2_000_000)
        progress("unpack", 2_000_000, 2_000_000)
        return Path("/models/x.gguf")

    monkeypatch.setattr(local_model, "install", install)
    assert main(["local", "install"]) == 0
    said = capsys.readouterr()
    assert said.out == "the embedded model is installed: /models/x.gguf\n"
    assert said.err == "unpack (2 MB)\n"


def test_a_failed_install_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(_: local_model.Progress) -> Path:
        raise local_model.InstallError("no space; free some")

    monkeypatch.setattr(local_model, "install", install)
    assert main(["local", "install"]) == 1
    assert capsys.readouterr().err == "kimiya: InstallError: no space; free some\n"


def test_removing_nothing_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["local", "remove"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words", [["--tokens", "0"], ["--model", "/no/such.gguf"], ["--threads", "-1"]]
)
def test_bench_refuses_what_makes_no_sense(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["local", "bench", *words]) == 2
    assert capsys.readouterr().err.startswith("kimiya: ")


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["local"]) == 2
    assert "ACTION" in capsys.readouterr().err
