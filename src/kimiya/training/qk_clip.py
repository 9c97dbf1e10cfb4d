"""QK-Clip: keep each head's attention logits at or under τ by scaling its own weights.

Kimi K2 (arXiv 2507.20534, §2.1, Algorithm 1). After a step, for each head whose maximal logit
S_max in the forward just done passed τ, with γ = τ / S_max:

* latent attention: query content and key content by √γ each (γ^α and γ^(1-α)), the rotary query
  by γ, the rotary key (shared by all heads) untouched;
* ordinary attention: query by γ^α, key by γ^(1-α); a key shared by a group takes only the
  mildest factor of its group, and each query takes the rest.

So every logit of head h is multiplied by exactly γ_h, and no other head's logits move.

Invariants: works after any optimizer; S_max is signed, so a negative one never clips; a non-finite
one never touches a weight and is counted; values and unclipped rows keep their bits.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kimiya.errors import ConfigError
from kimiya.training.attention_layout import (
    AttentionLayout,
    HeadRows,
    describe_attention,
    parameter_at,
)
from kimiya.training.attention_logits import RECORD, LogitRecord
from kimiya.training.sharding import max_over_ranks, scale_rows

_LOG = logging.getLogger(__name__)

MASTER_KEYS = ("master", "master_param", "master_weight", "fp32_param")
"""State entries under which optimizers keep a higher-precision copy of a parameter."""


@dataclass(frozen=True, slots=True)
class LayerLogits:
    """What one layer's logits were, and what was done about them, in one step."""

    name: str
    """The attention module's name; several joined by ``+`` when they share weights."""

    max_logits: tuple[float, ...]
    """Per head. Exact above τ; at or under τ it may be an upper bound. -inf: not seen."""

    exact: bool
    """Whether all of them are exact."""

    gammas: tuple[float, ...]
    """The factor on each head's logits; 1 where nothing was done."""

    @property
    def max_logit(self) -> float:
        """The layer's largest."""
        return max(self.max_logits)

    @property
    def clipped(self) -> tuple[int, ...]:
        """Heads that were scaled."""
        return tuple(head for head, gamma in enumerate(self.gammas) if gamma != 1.0)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Attention modules that make queries and keys from the same weights."""

    name: str
    modules: tuple[nn.Module, ...]
    records: tuple[LogitRecord, ...]
    layout: AttentionLayout


class QKClip:
    """Watches a model's attention and clips it after each optimizer step.

    Args:
        model: modules with a ``qk_layout``, or of a structure :func:`describe_attention` reads.
        tau: the largest logit allowed (K2: 100).
        alpha: the query's share of the correction.
        headroom: fraction of τ kept free for the growth of one step: heads are clipped to
            ``tau · (1 - headroom)``. 0 is the paper's rule, under which the next forward may
            stand above τ by one step's growth.
        layouts: module name to layout, for modules that declare none; these win.
        process_group: ranks to take maxima over; ``None`` is all of them.
        rest_after: steps in a row with every bound at or under ``rest_margin · tau`` after which
            logits are watched only every ``rest_stride`` steps; ``None`` never rests.
        rest_margin: see ``rest_after``.
        rest_stride: see ``rest_after``.
        on_clip: called with the layers clipped in a step, when there are any.
        copies: further tensors holding a copy of a parameter's values, to be scaled with it.

    Raises:
        ConfigError: an argument out of range, or nothing in the model can be clipped.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tau: float = 100.0,
        alpha: float = 0.5,
        headroom: float = 0.0,
        layouts: Mapping[str, AttentionLayout] | None = None,
        process_group: Any = None,
        rest_after: int | None = 1000,
        rest_margin: float = 0.5,
        rest_stride: int = 8,
        on_clip: Callable[[list[LayerLogits]], None] | None = None,
        copies: Callable[[nn.Parameter], Iterable[Tensor]] | None = None,
    ) -> None:
        _check_range("tau", tau, 0.0 < tau < float("inf"), "a positive number")
        _check_range("alpha", alpha, 0.0 <= alpha <= 1.0, "0 to 1")
        _check_range("headroom", headroom, 0.0 <= headroom < 1.0, "0 up to 1")
        _check_range("rest_margin", rest_margin, 0.0 <= rest_margin <= 1.0, "0 to 1")
        _check_range("rest_stride", rest_stride, rest_stride >= 1, "1 or more")
        self.tau, self.alpha, self.headroom = tau, alpha, headroom
        self.process_group = process_group
        self.rest_after, self.rest_margin, self.rest_stride = rest_after, rest_margin, rest_stride
        self.on_clip, self.copies = on_clip, copies
        self.refused: dict[str, str] = {}
        """Attention modules left alone, and why."""
        self.steps = 0
        """Optimizer steps seen."""
        self.nonfinite_maxima = 0
        """Head maxima that were NaN or infinite and were therefore not acted on."""
        self.last: list[LayerLogits] = []
        """The last step's layers."""
        self._calm_steps = 0
        self._layers = self._find(model, dict(layouts or {}))
        self.total_clips = {layer.name: 0 for layer in self._layers}
        """Head clips so far, by layer."""
        self._hooks: list[Any] = []

    @property
    def target(self) -> float:
        """What a clipped head's maximal logit becomes."""
        return self.tau * (1.0 - self.headroom)

    @property
    def resting(self) -> bool:
        """Whether logits have settled far under τ, so that most steps are not watched."""
        return self.rest_after is not None and self._calm_steps >= self.rest_after

    def attach(self, optimizer: torch.optim.Optimizer) -> "QKClip":
        """Clip after every step of ``optimizer`` (any optimizer)."""

        def clip_after_step(stepped: torch.optim.Optimizer, *_: Any) -> None:
            if getattr(stepped, "step_skipped", False):
                self._forget()  # nothing moved, and a poisoned forward measures nothing
            else:
                self.clip(stepped)

        self._hooks.append(optimizer.register_step_post_hook(clip_after_step))
        return self

    def detach(self) -> None:
        """Stop watching and clipping; leaves the modules as they were."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for layer in self._layers:
            for module in layer.modules:
                if hasattr(module, RECORD):
                    delattr(module, RECORD)

    @torch.no_grad()
    def clip(self, optimizer: torch.optim.Optimizer | None = None) -> list[LayerLogits]:
        """Act on what was recorded since the last call, and forget it.

        Args:
            optimizer: its master copies, where it keeps any, are scaled with the weights.

        Returns:
            Every watched layer; empty on a step that was not watched.
        """
        watched = self._layers[0].records[0].listening
        self.steps += 1
        rows: list[LayerLogits] = []
        if watched:
            maxima = self._gather()
            rows = [self._act(*pair, optimizer) for pair in zip(self._layers, maxima, strict=True)]
            self._settle(rows)
        self._forget()
        return rows

    def _forget(self) -> None:
        for record in (record for layer in self._layers for record in layer.records):
            record.reset()
            record.listening = not self.resting or self.steps % self.rest_stride == 0

    def report(self) -> str:
        """The last watched step and the totals, for a person."""
        lines = [
            f"{row.name}: max logit {row.max_logit:.4g}{'' if row.exact else ' (bound)'}, "
            f"clipped heads {list(row.clipped)}, {self.total_clips[row.name]} clips so far"
            for row in self.last
        ]
        lines += [f"{name}: not clipped, {why}" for name, why in self.refused.items()]
        state = "resting: logits settled" if self.resting else "watching every step"
        return "\n".join([*lines, f"{self.steps} steps, {state}"])

    def state_dict(self) -> dict[str, Any]:
        """Counters that decide what the next step does, and totals."""
        return {
            "steps": self.steps,
            "calm_steps": self._calm_steps,
            "nonfinite_maxima": self.nonfinite_maxima,
            "total_clips": dict(self.total_clips),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`.

        Raises:
            ConfigError: it is not one.
        """
        try:
            self.steps = int(state_dict["steps"])
            self._calm_steps = int(state_dict["calm_steps"])
            self.nonfinite_maxima = int(state_dict["nonfinite_maxima"])
            totals = dict(state_dict["total_clips"])
        except (KeyError, TypeError, ValueError) as cause:
            raise ConfigError(f"this is no QK-Clip state: {cause!r}", key="qk_clip") from cause
        self.total_clips = {name: int(totals.get(name, 0)) for name in self.total_clips}
        self._forget()

    def _find(self, model: nn.Module, layouts: dict[str, AttentionLayout]) -> list[_Layer]:
        found: dict[tuple[int, int], list[tuple[str, nn.Module, AttentionLayout]]] = {}
        names = dict(model.named_modules())
        unknown = [name for name in layouts if name not in names]
        if unknown:
            raise ConfigError(f"the model has no module {unknown[0]!r}", key="layouts")
        for name, module in names.items():
            layout = self._layout(name, module, layouts)
            if layout is not None:
                query, key_rows = layout.query.weight, layout.key.weight
                key = id(parameter_at(module, query)), id(parameter_at(module, key_rows))
                found.setdefault(key, []).append((name, module, layout))
        if not found:
            reasons = "".join(f"; {name}: {why}" for name, why in self.refused.items())
            raise ConfigError(
                f"no attention layer can be clipped{reasons}",
                key="model",
                remedy="Declare an AttentionLayout: module.qk_layout = ..., or layouts={name: ...}",
            )
        _check_sharing(found)
        return [self._watch(members) for members in found.values()]

    def _layout(
        self, name: str, module: nn.Module, layouts: dict[str, AttentionLayout]
    ) -> AttentionLayout | None:
        if name in layouts:
            layout: AttentionLayout | None = layouts[name]
        else:
            try:
                layout = describe_attention(module)
            except ConfigError as cause:
                self.refused[name] = str(cause)
                return None
        if layout is None:
            return None
        for part in layout.parts():
            part.check(module)
            weight = parameter_at(module, part.weight)
            if weight is not None and not weight.requires_grad:
                self.refused[name] = f"{part.weight} is frozen"
                return None
        return layout

    def _watch(self, members: list[tuple[str, nn.Module, AttentionLayout]]) -> _Layer:
        records: list[LogitRecord] = []
        layout = members[0][2]
        for _, module, _ in members:
            record = LogitRecord(layout.heads, self.target)
            setattr(module, RECORD, record)
            records.append(record)
        name = "+".join(name or "the model" for name, _, _ in members)
        return _Layer(name, tuple(m for _, m, _ in members), tuple(records), layout)

    def _gather(self) -> list[tuple[Tensor, bool]]:
        """Each layer's maxima over its modules and over all ranks, in one reduction."""
        local: list[Tensor] = []
        for layer in self._layers:
            seen = [r.maximum_H for r in layer.records if r.maximum_H is not None]
            empty = torch.full((layer.layout.heads,), -torch.inf)
            local.append(torch.stack(seen).amax(0) if seen else empty)
        device = next((t.device for t in local if t.device.type != "cpu"), torch.device("cpu"))
        packed = max_over_ranks(torch.cat([t.to(device) for t in local]), self.process_group)
        parts = packed.split([layer.layout.heads for layer in self._layers])
        exact = [all(r.exact for r in layer.records) for layer in self._layers]
        return list(zip(parts, exact, strict=True))

    def _act(
        self, layer: _Layer, seen: tuple[Tensor, bool], optimizer: torch.optim.Optimizer | None
    ) -> LayerLogits:
        s_max_H, exact = seen
        unusable = torch.isnan(s_max_H) | torch.isposinf(s_max_H)
        over = (s_max_H > self.target) & ~unusable
        gamma_H = torch.where(over, self.target / s_max_H, 1.0)
        values, gammas, broken = s_max_H.tolist(), gamma_H.tolist(), int(unusable.sum())
        if broken:
            self.nonfinite_maxima += broken
            _LOG.warning("%s: %d head maxima are not finite, not clipped", layer.name, broken)
        row = LayerLogits(layer.name, tuple(values), exact, tuple(gammas))
        if row.clipped:
            self.total_clips[layer.name] += len(row.clipped)
            for part, factor_H in head_factors(layer.layout, gamma_H, self.alpha):
                self._scale(layer.modules[0], part, factor_H, optimizer)
        return row

    def _scale(
        self,
        module: nn.Module,
        part: HeadRows,
        factor_H: Tensor,
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        for name in (part.weight, part.weight.removesuffix("weight") + "bias"):
            parameter = parameter_at(module, name)
            if parameter is None:
                continue
            dim = part.dim if name == part.weight else 0
            rows = part.factors(factor_H.to(parameter.device), parameter.shape[dim])
            copies = list(self.copies(parameter)) if self.copies else []
            state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
            masters = [state[key] for key in MASTER_KEYS if isinstance(state.get(key), Tensor)]
            for tensor in (*masters, *copies):
                scale_rows(tensor, rows, dim)
            if masters:
                parameter.copy_(masters[0])
            else:
                scale_rows(parameter, rows, dim)

    def _settle(self, rows: list[LayerLogits]) -> None:
        self.last = rows
        clipped = [row for row in rows if row.clipped]
        was_resting = self.resting
        highest = max(row.max_logit for row in rows)
        if highest <= self.rest_margin * self.tau and highest != float("-inf"):
            self._calm_steps += self.rest_stride if was_resting else 1
        else:
            self._calm_steps = 0
        if was_resting != self.resting:
            _LOG.info("QK-Clip %s at step %d", "rests" if self.resting else "wakes", self.steps)
        if clipped:
            heads = sum(len(row.clipped) for row in clipped)
            _LOG.info("QK-Clip scaled %d heads in %d layers", heads, len(clipped))
            if self.on_clip is not None:
                self.on_clip(clipped)


def head_factors(
    layout: AttentionLayout, gamma_H: Tensor, alpha: float
) -> list[tuple[HeadRows, Tensor]]:
    """What each part of the weights is multiplied by, head by head.

    A key head shared by a group moves by the mildest γ of its group only, so no member's logits
    move by more than its own γ and no weight ever grows.
    """
    shared_G = gamma_H.view(layout.key.heads, -1).amax(-1) ** (1.0 - alpha)
    repeats = layout.heads // layout.key.heads
    query_H = gamma_H / shared_G.repeat_interleave(repeats)
    factors = [(layout.query, query_H), (layout.key, shared_G)]
    if layout.query_rotary is not None:
        factors.append((layout.query_rotary, gamma_H))
    return factors


def _check_sharing(found: Mapping[tuple[int, int], list[Any]]) -> None:
    for place in (0, 1):
        weights = [key[place] for key in found]
        if len(set(weights)) != len(weights):
            raise ConfigError(
                "two attention layers share a query or key weight but not both, so clipping one "
                "would move the other",
                key="model",
                remedy="Leave those layers out: freeze them or give layouts for the others only",
            )


def _check_range(key: str, value: float, good: bool, wanted: str) -> None:
    if not good:
        raise ConfigError(f"{value!r} is out of range", key=key, remedy=f"Use {wanted}")
