"""A training run as a TOML file: what is trained, on what, how, and what is kept.

`load_recipe` reads a file; a value that cannot be, or a key that does not exist, is named with the
file and the nearest key that does. A recipe says everything a run depends on, so two runs of one
recipe are the same run.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from kimiya.errors import ConfigError

__all__ = [
    "CheckpointRecipe",
    "DataRecipe",
    "EvaluationRecipe",
    "OptimizerRecipe",
    "QKClipRecipe",
    "QuantizationRecipe",
    "Recipe",
    "ScheduleRecipe",
    "load_recipe",
    "read_recipe",
    "shipped_recipes",
]


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """``[data]``: synthetic tool use, drawn anew for every step."""

    rows: int = 4
    """Packed rows in a step's batch, over all ranks."""
    tasks: int = 8
    """Tasks that share a row's declared tools."""
    tools: tuple[int, int] = (1, 4)
    """Fewest and most tools declared."""
    two_calls: float = 0.15
    no_call: float = 0.2
    repeat_steps: int = 0
    """Steps, from the first, that train on repeating names: copying is learnt there soonest."""
    decision_weight: float = 1.0
    """Weight of an answer's first token, which decides to call or not, against the others'."""
    vocabulary_merges: int = 640
    """Byte pairs the tokenizer learns."""

    def __post_init__(self) -> None:
        _positive(self, "data", "rows", "tasks", "decision_weight", "vocabulary_merges")


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """``[optimizer]``: MuonClip, or AdamW for the matrices too."""

    algorithm: Literal["muonclip", "adamw"] = "muonclip"
    lr: float = 5e-3
    """Of the matrices."""
    adamw_lr: float = 3e-3
    """Of embeddings, head, norms and routers, which follow AdamW either way."""
    weight_decay: float = 0.0
    momentum: float = 0.95
    ns_coefficients: str = "jordan"
    ns_steps: int = 5
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 0.0
    """Gradients are scaled down to this norm; 0 leaves them."""

    def __post_init__(self) -> None:
        _positive(self, "optimizer", "lr", "adamw_lr")


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """``[schedule]``: linear warm-up, constant, linear decay to ``final``."""

    warmup_steps: int = 20
    decay_share: float = 0.4
    """Share of all steps, at the end, over which the rate falls."""
    final: float = 0.0
    """What is left of the rate at the end, as a share."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay_share <= 1 or not 0 <= self.final <= 1 or self.warmup_steps < 0:
            raise ConfigError("shares lie from 0 to 1, and steps from 0 up", key="schedule")

    def factor(self, step: int, steps: int) -> float:
        """What the learning rates are multiplied by at ``step`` (from 0) of ``steps``.

        >>> schedule = ScheduleRecipe(warmup_steps=2, decay_share=0.5)
        >>> [round(schedule.factor(step, 8), 2) for step in range(8)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        left = (steps - step) / max(1.0, self.decay_share * steps) if self.decay_share else 1.0
        return rise * (self.final + (1 - self.final) * min(1.0, left))


@dataclass(frozen=True, kw_only=True)
class QKClipRecipe:
    """``[qk_clip]``: bounds on attention logits."""

    enabled: bool = True
    tau: float = 100.0


@dataclass(frozen=True, kw_only=True)
class QuantizationRecipe:
    """``[quantization]``: experts on the INT4 grid."""

    last_steps: int = 0
    """Steps, at the end, that train on the grid; 0 trains without it."""


@dataclass(frozen=True, kw_only=True)
class CheckpointRecipe:
    """``[checkpoint]``: what a killed run goes on from."""

    every_steps: int = 100
    keep: int = 2
    """Newest checkpoints kept."""

    def __post_init__(self) -> None:
        _positive(self, "checkpoint", "every_steps", "keep")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """``[evaluation]``: tool calls on tasks never seen."""

    every_steps: int = 0
    """Steps between evaluations on few tasks; 0 evaluates at the end only."""
    tasks: int = 64
    """Tasks per set then."""
    final_tasks: int = 400
    """Tasks per set at the end; 0 leaves it out."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run."""

    name: str
    steps: int
    seed: int = 0
    threads: int = 0
    """Of torch; 0 leaves its own choice."""
    log_every_steps: int = 1
    balance_rate: float = 1e-3
    """How fast the routers' bias evens out the experts' loads."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """`K2Config` by field; the vocabulary's size comes from the tokenizer."""
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    qk_clip: QKClipRecipe = field(default_factory=QKClipRecipe)
    quantization: QuantizationRecipe = field(default_factory=QuantizationRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    def __post_init__(self) -> None:
        _positive(self, "recipe", "steps", "log_every_steps")

    def to_mapping(self) -> dict[str, Any]:
        """The recipe as plain values, to be kept beside its checkpoints."""
        return dataclasses.asdict(self) | {"model": dict(self.model)}


def load_recipe(path: Path | str, **overrides: Any) -> Recipe:
    """Read a recipe from a file, or a shipped one by name.

    Args:
        path: a TOML file, or one of `shipped_recipes`.
        overrides: top-level values that replace the file's.

    Raises:
        ConfigError: no such file or recipe, broken TOML, an unknown key or an impossible value.
    """
    place = Path(path)
    shipped = _folder().joinpath(f"{path}.toml")
    if not place.exists() and shipped.is_file():
        text, name = shipped.read_text(), f"{path}.toml"
    else:
        try:
            text, name = place.read_text(), str(place)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"no recipe can be read: {error}",
                file=str(path),
                remedy=f"Give a TOML file, or one of: {', '.join(shipped_recipes())}",
            ) from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"this is no TOML: {error}", file=name) from error
    return read_recipe(values | overrides, file=name)


def read_recipe(values: Mapping[str, Any], *, file: str = "recipe") -> Recipe:
    """A recipe from plain values.

    Raises:
        ConfigError: an unknown key or an impossible value; names both.
    """
    return _read(Recipe, values, file, "")


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in _folder().iterdir()
        if entry.name.endswith(".toml")
    )


def _folder() -> Any:
    return resources.files("kimiya.training") / "recipes"


def _read(kind: Any, values: Mapping[str, Any], file: str, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            raise ConfigError(
                "no such key",
                file=file,
                key=prefix + key,
                remedy=f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(hints))}",
            )
    try:
        found = {
            key: _convert(hints[key], value, file, prefix + key) for key, value in values.items()
        }
        return kind(**found)
    except TypeError as error:
        raise ConfigError(f"something is missing: {error}", file=file) from error
    except ConfigError as error:
        if error.file is not None:
            raise
        raise ConfigError(str(error), file=file) from error


def _convert(hint: Any, value: Any, file: str, key: str) -> Any:
    """The value as the field's type, refusing what would have to be guessed."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{value!r} is no table", file=file, key=key)
        return _read(hint, value, file, f"{key}.")
    origin = typing.get_origin(hint)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{value!r} is none of {', '.join(allowed)}", file=file, key=key)
        return value
    if origin is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            raise ConfigError(f"{value!r} is no list of {len(kinds)}", file=file, key=key)
        return tuple(_convert(k, v, file, key) for k, v in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = Mapping if origin is not None and not isinstance(hint, types.UnionType) else hint
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        name = getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{value!r} is no {name}", file=file, key=key)
    return value


def _positive(values: Any, table: str, *names: str) -> None:
    for name in names:
        if not getattr(values, name) > 0:
            raise ConfigError(
                f"{getattr(values, name)} is not positive",
                key=name if table == "recipe" else f"{table}.{name}",
            )
