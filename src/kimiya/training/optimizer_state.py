"""A saved optimizer state matched to this optimizer's parameters, whoever saved it.

Invariants: nothing is guessed by shape; a state that does not match raises and changes nothing;
restored tensors keep the precision they were saved in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kimiya.errors import ConfigError
from kimiya.training.matrix_view import WHOLE, MatrixView


@dataclass(frozen=True, slots=True)
class GroupStructure:
    """What describes a group's place in the model; known to code, never saved.

    Kept beside ``param_groups``, not in them: checkpoint engines save and demand every entry there.
    """

    view: MatrixView
    """How its parameters are read as matrices."""

    reasons: Mapping[str, str]
    """Why each named parameter is here."""

    positions: Sequence[int]
    """Each parameter's place in ``model.parameters()``; empty where unknown."""

    @staticmethod
    def taken_from(group: dict[str, Any]) -> "GroupStructure":
        """Pop the entries out of a group a caller wrote."""
        return GroupStructure(
            group.pop("view", WHOLE), group.pop("reasons", {}), group.pop("positions", ())
        )


def match(
    state_dict: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    structures: Sequence[GroupStructure],
) -> dict[str, Any]:
    """``state_dict`` rearranged to ``groups``, with foreign states converted.

    Raises:
        ConfigError: it is no optimizer state, or its parameters cannot be told apart.
    """
    try:
        saved_groups = list(state_dict["param_groups"])
        saved = dict(state_dict["state"])
        sizes = [len(group["params"]) for group in saved_groups]
    except (KeyError, TypeError) as cause:
        raise ConfigError(
            "this is no optimizer state: it lacks 'state' or 'param_groups'",
            key="state_dict",
        ) from cause
    if not _same_layout(saved_groups, groups, sizes):
        saved, saved_groups = _regroup(saved, saved_groups, groups, structures)
    for group, saved_group in zip(groups, saved_groups, strict=True):
        for index in saved_group["params"]:
            if index in saved:
                saved[index] = _convert(saved[index], group["algorithm"])
    return {**state_dict, "state": saved, "param_groups": saved_groups}


def restore_exactly(optimizer: torch.optim.Optimizer, matched: Mapping[str, Any]) -> None:
    """Put back the saved precision and own the memory.

    On loading, torch casts state to its parameter's type, and otherwise aliases the tensors it was
    given: two optimizers would then write to one momentum.
    """
    for group, saved_group in zip(optimizer.param_groups, matched["param_groups"], strict=True):
        for parameter, index in zip(group["params"], saved_group["params"], strict=True):
            for key, value in matched["state"].get(index, {}).items():
                held = optimizer.state[parameter].get(key)
                if isinstance(value, Tensor) and isinstance(held, Tensor):
                    source = value if value.dtype != held.dtype else held
                    optimizer.state[parameter][key] = source.to(held.device, copy=True)


def _same_layout(
    saved: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]], sizes: list[int]
) -> bool:
    if sizes != [len(group["params"]) for group in groups]:
        return False
    pairs = zip(saved, groups, strict=True)
    if any(s.get("algorithm", g["algorithm"]) != g["algorithm"] for s, g in pairs):
        return False
    named = all("param_names" in group for group in (*saved, *groups))
    return not named or [g["param_names"] for g in saved] == [g["param_names"] for g in groups]


def _regroup(
    saved: dict[Any, Any],
    saved_groups: list[Any],
    groups: Sequence[Mapping[str, Any]],
    structures: Sequence[GroupStructure],
) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    """Number parameters as ``groups`` do; hyperparameters stay those of ``groups``."""
    keys = _saved_keys(saved_groups, groups, structures)
    fresh: dict[Any, Any] = {}
    regrouped: list[dict[str, Any]] = []
    number = 0
    for group, wanted in zip(groups, keys, strict=True):
        numbers = list(range(number, number + len(wanted)))
        number += len(wanted)
        for index, key in zip(numbers, wanted, strict=True):
            if key in saved:
                fresh[index] = saved[key]
        kept = {k: v for k, v in group.items() if k != "params"}
        regrouped.append({**kept, "params": numbers})
    return fresh, regrouped


def _saved_keys(
    saved_groups: list[Any],
    groups: Sequence[Mapping[str, Any]],
    structures: Sequence[GroupStructure],
) -> list[list[Any]]:
    """For each live parameter, the key it has in the saved state."""
    if all("param_names" in group for group in (*saved_groups, *groups)):
        by_name = {
            name: index
            for group in saved_groups
            for name, index in zip(group["param_names"], group["params"], strict=True)
        }
        missing = [n for g in groups for n in g["param_names"] if n not in by_name]
        if missing:
            raise ConfigError(f"the saved state lacks {missing[:3]}", key="state_dict")
        return [[by_name[name] for name in group["param_names"]] for group in groups]
    flat = [index for group in saved_groups for index in group["params"]]
    total = sum(len(group["params"]) for group in groups)
    if len(saved_groups) == 1 and len(flat) == total and all(s.positions for s in structures):
        return [[flat[position] for position in one.positions] for one in structures]
    raise ConfigError(
        f"the saved state has {len(flat)} parameters in {len(saved_groups)} groups, this optimizer "
        f"{total} in {len(groups)}, and names to match them by are missing",
        key="state_dict",
        remedy="Build both optimizers from named parameters, or with the same groups",
    )


def _convert(state: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """AdamW's first moment is the same average Muon keeps; the reverse cannot be made."""
    if algorithm == "muon":
        kept = {key: state[key] for key in ("momentum_buffer", "master") if key in state}
        if "momentum_buffer" not in kept and "exp_avg" in state:
            kept["momentum_buffer"] = state["exp_avg"]
        return kept
    if "exp_avg" not in state and "momentum_buffer" in state:
        return {}
    return dict(state)
