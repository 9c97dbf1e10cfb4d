"""MuonClip: Muon for matrices, AdamW for the rest, one optimizer and one ``state_dict``.

Kimi K2's Algorithm 1 (arXiv 2507.20534, §2.1) in torch's shape: torch.optim.Muon's argument names
and state keys for the matrices, torch's own AdamW kernel for everything else, and QK-Clip after
the step when one is given.

Invariants: gradients are never written to; a step with a NaN or infinite gradient changes nothing
(or raises, by choice); the same inputs give the same bits; ``state_dict`` holds plain values.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kimiya.errors import ConfigError
from kimiya.training import optimizer_state
from kimiya.training.adamw_update import apply_adamw, local_part
from kimiya.training.matrix_view import MatrixView
from kimiya.training.muon_update import MuonRule, check_adjustment
from kimiya.training.newton_schulz import (
    DEFAULT_COEFFICIENTS,
    Coefficients,
    Method,
    resolve_schedule,
)
from kimiya.training.optimizer_state import GroupStructure
from kimiya.training.parameter_groups import param_groups
from kimiya.training.qk_clip import QKClip
from kimiya.training.sharding import any_rank, update_matrices

NonFinite = Literal["skip", "raise", "ignore"]
"""What a NaN or infinite gradient does to a step."""


class NonFiniteGradient(ArithmeticError):
    """A gradient held NaN or infinity and ``nonfinite="raise"`` was asked for; nothing changed."""


class MuonClip(torch.optim.Optimizer):
    """Muon and AdamW in one optimizer, with QK-Clip where wanted.

    Args:
        params: a model (grouped by :func:`param_groups`), groups with ``algorithm`` (or
            ``use_muon``), or bare parameters: two or more dimensions to Muon, the rest to AdamW.
        lr: learning rate of both rules.
        weight_decay: decoupled decay. Groups from a model do not decay norms and biases.
        momentum: Muon's average; state key ``momentum_buffer``, torch.optim.Muon's convention.
        nesterov: mix the gradient in once more before orthogonalising.
        ns_coefficients: schedule name (``jordan``, ``polar_express``), a triple, or one a step.
        eps: floor of the norm in Newton–Schulz.
        ns_steps: iterations.
        adjust_lr_fn: ``match_rms_adamw`` (0.2·√max(n, m), the default) or ``original``.
        adamw_betas: AdamW's averages.
        adamw_eps: AdamW's epsilon.
        ns_dtype: precision of the iteration; ``None``: bfloat16 on CUDA, float32 elsewhere.
        ns_method: ``direct``, ``gram`` or ``auto``.
        nonfinite: ``skip`` (count it and change nothing), ``raise``, or ``ignore`` (no check).
        master_weights: keep float32 copies of parameters of lower precision and step those.
        process_group: ranks holding equal replicas (DDP): each orthogonalises its share.
        qk_clip: attached to this optimizer; clips after each step.

    Raises:
        ConfigError: an argument out of range, or a group that cannot be what it says.

    >>> model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16))
    >>> optimizer = MuonClip(model, lr=2e-3)
    >>> [row["algorithm"] for row in optimizer.assignments()]
    ['muon', 'adamw', 'adamw', 'adamw', 'adamw']
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: Coefficients = DEFAULT_COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        *,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        ns_dtype: torch.dtype | None = None,
        ns_method: Method = "auto",
        nonfinite: NonFinite = "skip",
        master_weights: bool = False,
        process_group: Any = None,
        qk_clip: QKClip | None = None,
    ) -> None:
        if nonfinite not in ("skip", "raise", "ignore"):
            raise ConfigError(f"{nonfinite!r} is unknown", key="nonfinite")
        if ns_method not in ("auto", "direct", "gram"):
            raise ConfigError(f"{ns_method!r} is unknown", key="ns_method")
        self.nonfinite: NonFinite = nonfinite
        self.skipped_steps = 0
        """Steps not taken because a gradient was not finite."""
        self.step_skipped = False
        """Whether the last step was one of them; QK-Clip then does not act either."""
        self.ns_dtype = ns_dtype
        self.ns_method: Method = ns_method
        self.master_weights = master_weights
        self.process_group = process_group
        self.qk_clip = qk_clip
        self._muon_defaults = {
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        self._adamw_defaults = {"betas": adamw_betas, "eps": adamw_eps, "fused": True}
        self.structures: list[GroupStructure] = []
        """One a group: how it is read, and why its members are there."""
        groups = _as_groups(params, lr, weight_decay, adamw_betas)
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        if not any(group["algorithm"] == "muon" for group in self.param_groups):
            warnings.warn(
                "MuonClip: every parameter follows AdamW, none follows Muon. Flattened (FSDP1, "
                "ZeRO-3) parameters lose their matrices; see explain() for each reason",
                stacklevel=2,
            )
        if qk_clip is not None:
            qk_clip.attach(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; ``algorithm`` or ``use_muon`` selects its rule.

        Raises:
            ConfigError: both selectors disagree, none is given, or the group is no matrix group.
        """
        group = dict(param_group)
        algorithm = _algorithm(group)
        group["algorithm"] = algorithm
        own = self._muon_defaults if algorithm == "muon" else self._adamw_defaults
        group = {**own, **group}
        structure = GroupStructure.taken_from(group)
        super().add_param_group(group)
        try:
            _check_group(self.param_groups[-1], structure.view)
        except ConfigError:
            self.param_groups.pop()
            raise
        self.structures.append(structure)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every group.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            The closure's loss, if one was given.

        Raises:
            NonFiniteGradient: by choice; no parameter and no state has changed.
            ConfigError: a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.step_skipped = not self._may_step()
        if self.step_skipped:
            return loss
        for group, structure in zip(self.param_groups, self.structures, strict=True):
            params = [p for p in group["params"] if p.grad is not None]
            if group["algorithm"] == "muon":
                self._step_muon(group, params, structure.view)
            else:
                self._step_adamw(group, params)
        return loss

    def _step_muon(
        self, group: Mapping[str, Any], params: list[nn.Parameter], view: MatrixView
    ) -> None:
        weights = [self._weight(p) for p in params]
        buffers = [
            self._buffer(p, w, "momentum_buffer") for p, w in zip(params, weights, strict=True)
        ]
        rule = self.rule(group)
        update_matrices([p.grad for p in params], buffers, weights, view, rule, self.process_group)
        self._publish(params)

    def _step_adamw(self, group: Mapping[str, Any], params: list[nn.Parameter]) -> None:
        weights = [self._weight(p) for p in params]
        for p, w in zip(params, weights, strict=True):
            self._buffer(p, w, "exp_avg")
            self._buffer(p, w, "exp_avg_sq")
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=w.device)
        gradients = [p.grad for p in params if p.grad is not None]
        apply_adamw(gradients, weights, [self.state[p] for p in params], group)
        self._publish(params)

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        """What is stepped: the parameter, or its float32 master copy."""
        low = parameter.dtype in (torch.bfloat16, torch.float16)
        if not (self.master_weights and low):
            return parameter
        state = self.state[parameter]
        if "master" not in state:
            state["master"] = parameter.detach().to(torch.float32)
        return state["master"]

    def _buffer(self, parameter: nn.Parameter, weight: Tensor, key: str) -> Tensor:
        state = self.state[parameter]
        if key not in state:
            state[key] = torch.zeros_like(weight, memory_format=torch.preserve_format).detach()
        return state[key]

    def _publish(self, params: list[nn.Parameter]) -> None:
        for parameter in params:
            master = self.state[parameter].get("master")
            if master is not None:
                parameter.copy_(master)

    def rule(self, group: Mapping[str, Any]) -> MuonRule:
        """The resolved hyperparameters of a Muon group, read anew each step (schedulers write)."""
        return MuonRule(
            lr=float(group["lr"]),
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            schedule=resolve_schedule(group["ns_coefficients"], group["ns_steps"]),
            eps=group["eps"],
            adjust_lr_fn=group["adjust_lr_fn"],
            ns_dtype=self.ns_dtype,
            ns_method=self.ns_method,
        )

    def _may_step(self) -> bool:
        gradients: list[Tensor] = []
        for name, parameter in self.named_parameters():
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                raise ConfigError(
                    "its gradient is sparse",
                    key=name,
                    remedy="Build the embedding with sparse=False",
                )
            gradients.append(parameter.grad)
        if self.nonfinite == "ignore" or not self._any_nonfinite(gradients):
            return True
        if self.nonfinite == "raise":
            culprits = [n for n, p in self.named_parameters() if _is_nonfinite(p.grad)]
            raise NonFiniteGradient(
                f"NaN or infinity in the gradient of {culprits or 'a parameter on another rank'}; "
                "no parameter was changed"
            )
        self.skipped_steps += 1
        return False

    def _any_nonfinite(self, gradients: list[Tensor]) -> bool:
        sharded = any(hasattr(p, "placements") for g in self.param_groups for p in g["params"])
        distributed = sharded or self.process_group is not None
        group = None if sharded else self.process_group
        return any_rank(_has_nonfinite(gradients), distributed, group)

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Every parameter with its name, or ``group 0, #3`` where none was given."""
        for index, group in enumerate(self.param_groups):
            names = group.get("param_names")
            for place, parameter in enumerate(group["params"]):
                yield (names[place] if names else f"group {index}, #{place}"), parameter

    def assignments(self) -> list[dict[str, str]]:
        """Which parameter follows which rule, and why: ``name``, ``algorithm``, ``matrices``,
        ``reason``."""
        rows: list[dict[str, str]] = []
        names = iter(self.named_parameters())
        for group, structure in zip(self.param_groups, self.structures, strict=True):
            for _ in group["params"]:
                name, parameter = next(names)
                muon = group["algorithm"] == "muon" and parameter.numel() > 0
                shape = tuple(parameter.shape)
                rows.append(
                    {
                        "name": name,
                        "algorithm": group["algorithm"],
                        "matrices": structure.view.describe(shape) if muon else str(shape),
                        "reason": structure.reasons.get(name, "as its group says"),
                    }
                )
        return rows

    def explain(self) -> str:
        """A table for a person, ending in totals and, where due, a warning."""
        rows = self.assignments()
        width = max((len(row["name"]) for row in rows), default=0)
        lines = [
            f"{row['name']:<{width}}  {row['algorithm']:<5}  {row['matrices']}  ({row['reason']})"
            for row in rows
        ]
        totals = {"muon": 0, "adamw": 0}
        for (_, parameter), row in zip(self.named_parameters(), rows, strict=True):
            totals[row["algorithm"]] += parameter.numel()
        lines.append(f"{totals['muon']:,} elements follow Muon, {totals['adamw']:,} follow AdamW")
        if not totals["muon"]:
            lines.append("WARNING: nothing follows Muon")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """torch's format, with QK-Clip's counters under ``qk_clip`` where one is attached.

        torch.distributed.checkpoint keeps ``state`` and ``param_groups`` only.
        """
        saved = super().state_dict()
        if self.qk_clip is not None:
            saved["qk_clip"] = self.qk_clip.state_dict()
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state of MuonClip, torch.optim.Muon or torch.optim.AdamW.

        A state saved with other groups is matched by parameter names, or by the order of
        ``model.parameters()`` when both sides cover the same parameters.

        Raises:
            ConfigError: it cannot be matched, with the remedy; nothing has changed.
        """
        matched = optimizer_state.match(state_dict, self.param_groups, self.structures)
        algorithms = [group["algorithm"] for group in self.param_groups]
        super().load_state_dict(matched)
        for group, algorithm in zip(self.param_groups, algorithms, strict=True):
            own = self._muon_defaults if algorithm == "muon" else self._adamw_defaults
            for key, value in own.items():
                group.setdefault(key, value)
            group["algorithm"] = algorithm
        optimizer_state.restore_exactly(self, matched)
        if self.qk_clip is not None and "qk_clip" in state_dict:
            self.qk_clip.load_state_dict(state_dict["qk_clip"])


def _as_groups(
    params: nn.Module | Iterable[Any],
    lr: float,
    weight_decay: float,
    adamw_betas: tuple[float, float],
) -> list[dict[str, Any]]:
    if isinstance(params, nn.Module):
        return param_groups(params, lr=lr, weight_decay=weight_decay, adamw_betas=adamw_betas)
    listed = list(params)
    if not listed:
        raise ConfigError("no parameters were given", key="params")
    if isinstance(listed[0], Mapping):
        return [dict(group) for group in listed]
    return _split_bare(listed)


def _split_bare(listed: list[Any]) -> list[dict[str, Any]]:
    """Bare parameters, named or not: matrices to Muon, the rest to AdamW."""
    tensors = [item[1] if isinstance(item, tuple) else item for item in listed]
    matrix = [tensor.ndim >= 2 for tensor in tensors]
    if any(matrix) and not all(matrix):
        warnings.warn(
            "MuonClip was given bare parameters: it cannot tell embeddings, heads and routers from "
            "other matrices. Pass the model, or param_groups(model)",
            stacklevel=4,
        )
    groups: list[dict[str, Any]] = []
    for algorithm, wanted in (("muon", True), ("adamw", False)):
        positions = [i for i, is_matrix in enumerate(matrix) if is_matrix is wanted]
        if positions:
            members = [listed[i] for i in positions]
            groups.append({"params": members, "algorithm": algorithm, "positions": positions})
    return groups


def _algorithm(group: dict[str, Any]) -> str:
    use_muon = group.pop("use_muon", None)
    algorithm = group.get("algorithm")
    if algorithm is None and use_muon is None:
        raise ConfigError(
            "the group says neither algorithm nor use_muon",
            key="params",
            remedy='Add algorithm="muon" or "adamw", or build groups with param_groups(model)',
        )
    chosen = algorithm or ("muon" if use_muon else "adamw")
    if chosen not in ("muon", "adamw"):
        raise ConfigError(f"{chosen!r} is unknown", key="algorithm", remedy="Use muon or adamw")
    if use_muon is not None and (chosen == "muon") is not bool(use_muon):
        raise ConfigError(f"algorithm is {algorithm!r} but use_muon is {use_muon}", key="params")
    return chosen


def _check_group(group: Mapping[str, Any], view: MatrixView) -> None:
    for key in ("lr", "weight_decay", "eps"):
        if not 0.0 <= float(group[key]) < float("inf"):
            raise ConfigError(f"{group[key]!r} is not in [0, inf)", key=key)
    for parameter in group["params"]:
        if parameter.is_complex():
            raise ConfigError("complex parameters are not supported", remedy="View them as real")
    if group["algorithm"] == "adamw":
        if group.get("amsgrad") or group.get("maximize"):
            raise ConfigError("amsgrad and maximize are not supported", key="params")
        if not all(0.0 <= beta < 1.0 for beta in group["betas"]):
            raise ConfigError(f"{group['betas']!r} is not in [0, 1)", key="betas")
        return
    if not 0.0 <= group["momentum"] < 1.0:
        raise ConfigError(f"{group['momentum']!r} is not in [0, 1)", key="momentum")
    resolve_schedule(group["ns_coefficients"], group["ns_steps"])
    check_adjustment(group["adjust_lr_fn"])
    _check_matrices(group, view)


def _check_matrices(group: Mapping[str, Any], view: MatrixView) -> None:
    names = group.get("param_names") or [f"#{i}" for i in range(len(group["params"]))]
    for name, parameter in zip(names, group["params"], strict=True):
        if hasattr(parameter, "ds_shape") and not parameter.numel():
            raise ConfigError(
                "ZeRO-3 holds it as an empty placeholder, so its matrix is out of reach",
                key=name,
                remedy="Use FSDP2 (fully_shard), or ZeRO stage 2 and below",
            )
        if parameter.numel():
            try:
                view.matrices(torch.empty(parameter.shape, device="meta"))
            except ConfigError as cause:
                raise ConfigError(
                    f"cannot follow Muon: {cause}", key=name, remedy="Send it to AdamW"
                ) from cause


def _has_nonfinite(gradients: list[Tensor]) -> Tensor | None:
    """A 0-d flag, above zero where any gradient holds NaN or infinity; ``None`` without any.

    A sum is finite only if every term is, and is the cheapest pass there is; a sum that overflowed
    from finite terms is told apart by a second look.
    """
    local = [g for g in map(local_part, gradients) if g.numel()]
    if not local:
        return None
    home = local[0].device
    sums = torch.stack([g.sum(dtype=torch.float32).to(home) for g in local])
    if bool(torch.isfinite(sums).all()):
        return torch.zeros((), device=home)
    suspects = [g for g, total in zip(local, sums.tolist(), strict=True) if not isfinite(total)]
    poisoned = any(not bool(torch.isfinite(g).all()) for g in suspects)
    return torch.full((), float(poisoned), device=home)


def _is_nonfinite(gradient: Tensor | None) -> bool:
    flag = None if gradient is None else _has_nonfinite([gradient])
    return flag is not None and bool(flag)
