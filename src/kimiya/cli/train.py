"""``kimiya train``: a recipe in, a trained model with its curves and checkpoints out.

Parsing only; torch is loaded once a recipe has been read, so a typing mistake costs nothing.
Running the same command again goes on where a killed run stopped. Under ``torchrun`` start it as
``torchrun --nproc-per-node=N -m kimiya.cli.train RECIPE``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from kimiya.errors import ConfigError, KimiyaError

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``train`` to the command's subcommands; the parsed arguments carry ``run``."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a TOML recipe",
        description=(
            "Train a model from a TOML recipe, or from a shipped one by name (nano, nano-adamw, "
            "smoke). The same command goes on with a run that was stopped or killed."
        ),
    )
    _add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, printing progress; returns the exit code.

    Raises:
        KimiyaError: torch is missing, the recipe cannot be used, or a checkpoint cannot be kept.
    """
    from kimiya.training.recipe import load_recipe, shipped_recipes

    if args.list:
        print("\n".join(shipped_recipes()))
        return 0
    if args.recipe is None:
        raise ConfigError(
            "no recipe was given",
            remedy=f"Give a TOML file, or one of: {', '.join(shipped_recipes())}",
        )
    overrides = {key: getattr(args, key) for key in ("seed", "steps") if getattr(args, key)}
    recipe = load_recipe(args.recipe, **overrides)
    folder = Path(args.out or f"runs/{recipe.name}")
    try:
        from kimiya.training.loop import train
        from kimiya.training.metrics import describe_step
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigError(
            "training needs torch, which is not installed",
            remedy="Install it with: pip install 'kimiya[train]'",
        ) from error

    def show(row: dict[str, Any]) -> None:
        print(describe_step(row, recipe.steps), flush=True)

    def say(text: str) -> None:
        if os.environ.get("RANK", "0") == "0":  # torchrun starts this on every rank
            print(text, flush=True)

    say(f"{recipe.name}: {recipe.steps} steps in {folder}")
    train(recipe, folder, on_step=show, on_note=say)
    say(f"done: {folder}/model, {folder}/model-int4, {folder}/index.html")
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a TOML file, or the name of a shipped recipe")
    parser.add_argument("--out", metavar="FOLDER", help="where to keep the run (runs/NAME)")
    parser.add_argument("--seed", type=int, help="replaces the recipe's seed")
    parser.add_argument("--steps", type=int, help="replaces the recipe's number of steps")
    parser.add_argument("--list", action="store_true", help="list the shipped recipes")


def _main() -> int:
    parser = argparse.ArgumentParser(prog="kimiya train")
    _add_arguments(parser)
    try:
        return run(parser.parse_args())
    except KimiyaError as error:
        print(f"kimiya train: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(_main())
