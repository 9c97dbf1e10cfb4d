"""Which parameter follows which rule: matrices to Muon, the rest to AdamW, by rule and override.

The rule looks at what a parameter *is*: the module that owns it, its shape, whether it is tied to
an embedding. Names decide only where modules cannot (a router, an output head of a foreign model),
and every decision carries its reason, so ``MuonClip.explain()`` can show it.

Invariants: each trainable parameter is assigned exactly once (a shared weight under its first
name); frozen parameters are left out and listed; an override that matches nothing is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import nn

from kimiya.errors import ConfigError
from kimiya.training.matrix_view import GATE_UP, WHOLE, MatrixView

Algorithm = Literal["muon", "adamw"]
"""The two update rules a parameter can follow."""

HEAD_NAMES = frozenset({"lm_head", "head", "output", "embed_out", "unembed", "score", "classifier"})
"""Last name component of a module that maps to the vocabulary or to classes."""

ROUTER_NAMES = frozenset({"gate", "router", "gating", "wg"})
"""Last name component of a module that scores experts. ``gate_proj`` is not one."""

EXPERT_VIEWS: dict[str, MatrixView] = {"gate_up_proj": GATE_UP}
"""How stacked expert tensors of known layout are glued: ``gate_up_proj`` of shape (E, 2·I, H), as
in transformers' mixture modules. A module may declare its own in an attribute ``matrix_views``."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one parameter was assigned to, and why."""

    name: str
    """Its first qualified name in the model."""

    parameter: nn.Parameter
    """The tensor itself."""

    algorithm: Algorithm
    """``muon`` or ``adamw``."""

    view: MatrixView
    """How it is read as matrices; ``WHOLE`` for AdamW."""

    reason: str
    """One clause for a person."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the rule knows of one parameter before it decides."""

    name: str
    local: str
    parameter: nn.Parameter
    module: nn.Module
    module_name: str


def assign_parameters(
    model: nn.Module,
    *,
    overrides: Mapping[str, Algorithm] | None = None,
    views: Mapping[str, MatrixView] | None = None,
    per_head: bool = False,
) -> list[Assignment]:
    """Assign each trainable parameter of ``model``, in the model's own order.

    Args:
        model: any module; sharded (DTensor) parameters are welcome.
        overrides: shell pattern of parameter names to algorithm; the last match wins.
        views: shell pattern of parameter names to view; the last match wins and implies Muon
            unless an override says otherwise.
        per_head: use the per-head views a module declares in ``head_views``.

    Raises:
        ConfigError: a pattern matches nothing, names an unknown algorithm, or forces Muon on
            something that holds no matrix; or a view does not fit.
    """
    overrides, views = dict(overrides or {}), dict(views or {})
    _check_patterns(model, overrides, views)
    rule = _Rule(model, per_head)
    return [_override(rule.assign(seen), overrides, views) for seen in _walk(model)]


def param_groups(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    adamw_lr: float | None = None,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    overrides: Mapping[str, Algorithm] | None = None,
    views: Mapping[str, MatrixView] | None = None,
    per_head: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups for :class:`MuonClip`, by the rule of :func:`assign_parameters`.

    Args:
        model: the model to train.
        lr: learning rate of both rules (Muon's update is scaled to AdamW's RMS).
        weight_decay: decoupled decay of everything with two or more dimensions.
        adamw_lr: learning rate of the AdamW groups when it should differ.
        adamw_betas: AdamW's averages.
        overrides: see :func:`assign_parameters`.
        views: see :func:`assign_parameters`.
        per_head: see :func:`assign_parameters`.

    Returns:
        Groups of named parameters; norms and biases are not decayed.

    Raises:
        ConfigError: see :func:`assign_parameters`; also a model with nothing to train.
    """
    assigned = assign_parameters(model, overrides=overrides, views=views, per_head=per_head)
    if not assigned:
        raise ConfigError("the model has no trainable parameter", remedy="Unfreeze some")
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for position, one in enumerate(assigned):
        decays = one.algorithm == "muon" or one.parameter.ndim >= 2
        group = groups.setdefault(
            (one.algorithm, one.view, decays),
            {
                "params": [],
                "algorithm": one.algorithm,
                "view": one.view,
                "reasons": {},
                "positions": [],
                "lr": lr if one.algorithm == "muon" or adamw_lr is None else adamw_lr,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        if one.algorithm == "adamw":
            group["betas"] = adamw_betas
        group["params"].append((one.name, one.parameter))
        group["reasons"][one.name] = one.reason
        group["positions"].append(position)
    return sorted(groups.values(), key=lambda group: group["algorithm"] != "muon")


def _walk(model: nn.Module) -> list[_Seen]:
    met: set[int] = set()
    found: list[_Seen] = []
    for module_name, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) in met or not parameter.requires_grad:
                continue
            met.add(id(parameter))
            name = f"{module_name}.{local}" if module_name else local
            found.append(_Seen(name, local, parameter, module, module_name))
    return found


class _Rule:
    """The rule itself, with what it must know of the whole model."""

    def __init__(self, model: nn.Module, per_head: bool) -> None:
        self.per_head = per_head
        self.modules = dict(model.named_modules())
        self.embeddings = {
            id(module.weight): name or "the model"
            for name, module in model.named_modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        }
        self.output = _output_module(model)

    def assign(self, seen: _Seen) -> Assignment:
        reason = self._adamw_reason(seen)
        if reason is not None:
            return Assignment(seen.name, seen.parameter, "adamw", WHOLE, reason)
        view, reason = self._view(seen)
        _check_view(view, seen.name, seen.parameter)
        return Assignment(seen.name, seen.parameter, "muon", view, reason)

    def _adamw_reason(self, seen: _Seen) -> str | None:
        parameter, module = seen.parameter, seen.module
        last = seen.module_name.rpartition(".")[2]
        kind = type(module).__name__
        if not parameter.is_floating_point():
            return f"{parameter.dtype} is not a real type"
        if id(parameter) in self.embeddings:
            tied = not isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            return "tied to an embedding" if tied else "embedding"
        if parameter.ndim < 2:
            return "bias" if seen.local.endswith("bias") else "norm, bias or scalar (below 2-D)"
        if isinstance(module, nn.modules.conv._ConvNd):
            return "convolution kernel (declare FLATTENED for Muon)"
        if module is self.output or last in HEAD_NAMES:
            return "output head"
        if last in ROUTER_NAMES or kind.endswith(("Router", "Gate")):
            return "router"
        if seen.local.endswith("bias"):
            return "bias"
        if parameter.numel() and min(parameter.shape[-2:]) == 1:
            return "a single row or column"
        return None

    def _view(self, seen: _Seen) -> tuple[MatrixView, str]:
        parent_name, _, child = seen.module_name.rpartition(".")
        declared = self._declared(seen.module, seen.local) or self._declared(
            self.modules.get(parent_name), f"{child}.{seen.local}"
        )
        if declared is not None:
            return declared
        if seen.parameter.ndim == 3 and seen.local in EXPERT_VIEWS:
            return EXPERT_VIEWS[seen.local], "stacked experts, gate and up glued"
        if seen.parameter.ndim > 2:
            return WHOLE, "stack of matrices"
        return WHOLE, "matrix"

    def _declared(self, module: nn.Module | None, key: str) -> tuple[MatrixView, str] | None:
        """A view that a module declares for its own parameter or for ``child.weight``."""
        names = ("head_views", "matrix_views") if self.per_head else ("matrix_views",)
        for attribute in names:
            declared: Mapping[str, MatrixView] = getattr(module, attribute, {})
            if key in declared:
                return declared[key], f"declared by {type(module).__name__}"
        return None


def _output_module(model: nn.Module) -> nn.Module | None:
    """The output head: what ``get_output_embeddings`` names (as transformers' models do), or else
    the model's last linear map when it undoes an embedding's shape."""
    ask = getattr(model, "get_output_embeddings", None)
    if callable(ask):
        named = ask()
        return named if isinstance(named, nn.Module) else None
    last = next((m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear)), None)
    embedded = {
        (m.num_embeddings, m.embedding_dim)
        for m in model.modules()
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag))
    }
    return last if last and (last.out_features, last.in_features) in embedded else None


def _override(
    one: Assignment, overrides: Mapping[str, Algorithm], views: Mapping[str, MatrixView]
) -> Assignment:
    for pattern, view in views.items():
        if fnmatchcase(one.name, pattern):
            one = replace(one, algorithm="muon", view=view, reason=f"view given by {pattern!r}")
    for pattern, algorithm in overrides.items():
        if fnmatchcase(one.name, pattern):
            view = one.view if algorithm == "muon" else WHOLE
            one = replace(one, algorithm=algorithm, view=view, reason=f"override {pattern!r}")
    if one.algorithm == "muon":
        _check_view(one.view, one.name, one.parameter)
    return one


def _check_view(view: MatrixView, name: str, parameter: torch.Tensor) -> None:
    try:
        view.matrices(torch.empty(parameter.shape, device="meta"))
    except ConfigError as cause:
        raise ConfigError(
            f"cannot be read as matrices: {cause}",
            key=name,
            remedy="Give a fitting view in views=, or send it to AdamW with overrides=",
        ) from cause


def _check_patterns(
    model: nn.Module, overrides: Mapping[str, Algorithm], views: Mapping[str, MatrixView]
) -> None:
    names = [seen.name for seen in _walk(model)]
    for key, patterns in (("overrides", overrides), ("views", views)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"{pattern!r} matches no trainable parameter",
                    key=key,
                    remedy="Names are those of model.named_parameters(), first name if shared",
                )
    for pattern, algorithm in overrides.items():
        if algorithm not in get_args(Algorithm):
            raise ConfigError(
                f"{pattern!r} asks for {algorithm!r}",
                key="overrides",
                remedy=f"Use one of {get_args(Algorithm)}",
            )
    for pattern, view in views.items():
        if not isinstance(view, MatrixView):
            raise ConfigError(f"{pattern!r} is given {view!r}, no MatrixView", key="views")
