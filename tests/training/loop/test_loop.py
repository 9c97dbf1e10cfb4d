"""A run resumes to the identical next step, shares its batch over ranks, and loses nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.multiprocessing as processes  # noqa: E402

from kimiya.errors import ConfigError  # noqa: E402
from kimiya.training.checkpoints import CheckpointError  # noqa: E402
from kimiya.training.k2.export import load_model  # noqa: E402
from kimiya.training.loop import TrainingRun, train  # noqa: E402
from kimiya.training.metrics import read_metrics  # noqa: E402
from kimiya.training.recipe import load_recipe  # noqa: E402

RECIPE = dataclasses.replace(
    load_recipe("smoke"),
    evaluation=dataclasses.replace(load_recipe("smoke").evaluation, final_tasks=0),
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
VARYING = {"tokens_per_s", "seconds_left"}


class Killed(BaseException):
    """Stands for the process's death."""


def die_after(step):
    def on_step(row):
        if row["step"] == step:
            raise Killed

    return on_step


def steady(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in VARYING} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(RECIPE, folder)


def assert_same_run(folder, run, whole):
    expected_folder, expected = whole
    assert steady(folder) == steady(expected_folder)
    for (name, ours), theirs in zip(
        run.model.state_dict().items(), expected.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_two_runs_are_the_same_to_the_last_bit(tmp_path, whole):
    assert_same_run(tmp_path, train(RECIPE, tmp_path), whole)


@pytest.mark.parametrize("step", [1, 4, 5, 9, 11])
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, whole, step):
    with pytest.raises(Killed):
        train(RECIPE, tmp_path, on_step=die_after(step))
    notes = []
    run = train(RECIPE, tmp_path, on_note=notes.append)
    assert_same_run(tmp_path, run, whole)
    assert any("going on after" in note for note in notes) == (step > 4)


def test_kill_9_loses_no_more_than_the_steps_since_the_checkpoint(tmp_path, whole):
    command = [sys.executable, "-m", "kimiya.cli.train", _recipe_file(tmp_path), "--out"]
    folder = tmp_path / "run"
    with subprocess.Popen(
        [*command, str(folder)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        for line in process.stdout:
            if line.startswith("step 6/"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    resumed = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert "going on after step" in resumed.stdout
    assert [row["loss"] for row in steady(folder)] == [row["loss"] for row in steady(whole[0])]


def test_everything_a_run_promises_is_there(whole):
    folder, run = whole
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13))
    layers = {f"model.layers.{layer}.self_attn" for layer in range(2)}
    assert all(row["max_logit"].keys() == row["clips"].keys() == layers for row in rows)
    assert (folder / "curves.png").stat().st_size > 1000
    assert "<svg" in (folder / "index.html").read_text()
    assert json.loads((folder / "recipe.json").read_text())["name"] == "smoke"
    tokens = torch.arange(30)[None]
    run.model.eval()
    with torch.no_grad():
        assert torch.equal(load_model(folder / "model-int4").eval()(tokens), run.model(tokens))


def test_loss_falls(whole):
    losses = [row["loss"] for row in steady(whole[0])]
    assert sum(losses[-3:]) < sum(losses[2:5])


def test_a_finished_run_started_again_takes_no_step(tmp_path, whole):
    train(RECIPE, tmp_path)
    seen = []
    again = train(RECIPE, tmp_path, on_step=seen.append)
    assert not seen
    assert again.step == 12


def test_a_damaged_checkpoint_is_passed_over(tmp_path, whole):
    with pytest.raises(Killed):
        train(RECIPE, tmp_path, on_step=die_after(10))
    newest = tmp_path / "checkpoints" / "step-00000008.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert TrainingRun(RECIPE, tmp_path).step == 4
    assert_same_run(tmp_path, train(RECIPE, tmp_path), whole)


def test_a_full_disk_at_a_checkpoint_is_named_and_nothing_is_lost(tmp_path, whole, monkeypatch):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"step-00000008\.ckpt.*No space.*again"):
        train(RECIPE, tmp_path)
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step-00000004.ckpt"]
    assert_same_run(tmp_path, train(RECIPE, tmp_path), whole)


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    TrainingRun(RECIPE, tmp_path)
    with pytest.raises(ConfigError, match="seed"):
        TrainingRun(dataclasses.replace(RECIPE, seed=1), tmp_path)


def test_a_folder_whose_recipe_is_broken_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ConfigError, match=r"recipe\.json.*cannot be read"):
        TrainingRun(RECIPE, tmp_path)


def test_a_shape_that_cannot_be_is_named_with_its_key(tmp_path):
    model = {**RECIPE.model, "hiden_size": 3}
    with pytest.raises(ConfigError, match=r"model\.hiden_size"):
        TrainingRun(dataclasses.replace(RECIPE, model=model), tmp_path / "a")
    model = {**RECIPE.model, "vocab_size": 3}
    with pytest.raises(ConfigError, match=r"model\.vocab_size"):
        TrainingRun(dataclasses.replace(RECIPE, model=model), tmp_path / "b")


def test_seeds_differ(tmp_path, whole):
    other = train(dataclasses.replace(RECIPE, seed=1, steps=2), tmp_path)
    assert steady(tmp_path)[0]["loss"] != steady(whole[0])[0]["loss"]
    assert other.step == 2


def test_two_processes_take_the_steps_of_one(tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=4)
    train(recipe, tmp_path / "one")
    processes.spawn(_rank, (recipe, tmp_path / "two", tmp_path / "store"), nprocs=2)
    ours, theirs = steady(tmp_path / "two"), steady(tmp_path / "one")
    for mine, single in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(single["loss"], rel=1e-4)
        assert mine["tokens"] == single["tokens"]
        assert mine["load_violation"] == pytest.approx(single["load_violation"], abs=0.02)


def test_more_processes_than_rows_are_refused(tmp_path):
    from kimiya.training.loop import _Ranks

    with pytest.raises(ConfigError, match="2 rows"):
        TrainingRun(RECIPE, tmp_path, _Ranks(0, 3))


def _rank(rank, recipe, folder, store):
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
    torch.distributed.init_process_group("gloo", f"file://{store}", None, 2, rank)
    train(recipe, folder)
    torch.distributed.destroy_process_group()


def _recipe_file(folder: Path) -> str:
    from importlib import resources

    text = (resources.files("kimiya.training") / "recipes" / "smoke.toml").read_text()
    path = folder / "smoke.toml"
    path.write_text(text.replace("final_tasks = 4", "final_tasks = 0"))
    return str(path)
