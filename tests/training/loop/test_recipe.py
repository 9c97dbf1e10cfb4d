"""Recipes: what cannot be is named with its file and key, and schedules do what they say."""

import pytest

pytest.importorskip("torch")

from kimiya.errors import ConfigError
from kimiya.training.recipe import ScheduleRecipe, load_recipe, read_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_reads(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert read_recipe(recipe.to_mapping()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name='x'\nstep=3", "step.*Did you mean steps"),
        ("name='x'\nsteps=3\n[optimizer]\nlearning_rate=1", "optimizer.learning_rate"),
        ("name='x'\nsteps='many'", "'many' is no int"),
        ("name='x'\nsteps=true", "True is no int"),
        ("name='x'\nsteps=0", "0 is not positive"),
        ("name='x'\nsteps=3\n[optimizer]\nalgorithm='sgd'", "'sgd' is none of muonclip, adamw"),
        ("name='x'\nsteps=3\n[data]\ntools=[1]", "no list of 2"),
        ("name='x'\nsteps=3\n[data]\nrows=-2", "data.rows"),
        ("name='x'\nsteps=3\ndata=7", "no table"),
        ("name='x'\nsteps=3\n[schedule]\ndecay_share=2", "schedule"),
        ("steps=3", "missing.*name"),
        ("name=", "no TOML"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.toml.*{message}"):
        load_recipe(path)


def test_a_recipe_that_is_not_there_lists_those_that_are():
    with pytest.raises(ConfigError, match="smoke"):
        load_recipe("nanoo")


def test_overrides_replace_the_files_values():
    assert load_recipe("smoke", seed=5, steps=3).seed == 5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleRecipe(warmup_steps=0, decay_share=0), [1, 1, 1, 1]),
        (ScheduleRecipe(warmup_steps=4, decay_share=0), [0.25, 0.5, 0.75, 1]),
        (ScheduleRecipe(warmup_steps=0, decay_share=1), [1, 0.75, 0.5, 0.25]),
        (ScheduleRecipe(warmup_steps=0, decay_share=1, final=0.5), [1, 0.875, 0.75, 0.625]),
    ],
)
def test_schedules(schedule, expected):
    assert [schedule.factor(step, 4) for step in range(4)] == pytest.approx(expected)
