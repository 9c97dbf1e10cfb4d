"""``kimiya train``: what is typed wrongly is named before torch is loaded."""

import argparse
import subprocess
import sys

import pytest

from kimiya.cli import train
from kimiya.errors import ConfigError


def parse(*words):
    parser = argparse.ArgumentParser()
    train.add_parser(parser.add_subparsers())
    return parser.parse_args(["train", *words])


def test_shipped_recipes_are_listed(capsys):
    arguments = parse("--list")
    assert arguments.run(arguments) == 0
    assert {"nano", "nano-adamw", "smoke"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"), [([], "no recipe was given.*smoke"), (["nowhere.toml"], "nowhere.toml")]
)
def test_a_missing_recipe_is_named(words, message):
    arguments = parse(*words)
    with pytest.raises(ConfigError, match=message):
        arguments.run(arguments)


def test_a_wrong_recipe_costs_no_import_of_torch(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("name = 'x'\nsteps = 1\nsped = 2\n")
    program = (
        "import sys; from kimiya.cli import train; import argparse\n"
        "parser = argparse.ArgumentParser(); train.add_parser(parser.add_subparsers())\n"
        f"arguments = parser.parse_args(['train', {str(path)!r}])\n"
        "try:\n    arguments.run(arguments)\n"
        "except Exception as error:\n    print(error, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "sped" in done.stdout
    assert done.stdout.rstrip().endswith("False")


def test_progress_is_shown_and_steps_and_seed_can_be_replaced(tmp_path, capsys):
    pytest.importorskip("torch")
    arguments = parse("smoke", "--out", str(tmp_path), "--steps", "2", "--seed", "7")
    assert arguments.run(arguments) == 0
    out = capsys.readouterr().out
    for word in ("step 2/2", "loss", "lr", "tokens/s", "max logit", "clips", "left", "done:"):
        assert word in out
