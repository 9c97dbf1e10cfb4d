"""Muon's update as functions of tensors: momentum, orthogonalised, scaled, decayed, applied.

Same-shape matrices go through Newton–Schulz in one stack, cut so that scratch
memory stays bounded by the largest single matrix or ``STACK_NUMEL``.

Invariants: a gradient is never written to; a weight is written once; no matrix influences another.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kimiya.errors import ConfigError
from kimiya.training.matrix_view import MatrixView
from kimiya.training.newton_schulz import Method, Triple, default_dtype, last_factor_

STACK_NUMEL = {"cpu": 1 << 17, "cuda": 1 << 26}
"""Elements iterated together by device type: on a CPU the four buffers of a stack then fit a second
level cache of 2 MiB; on a GPU enough to fill it."""

ADJUSTMENTS = (None, "original", "match_rms_adamw")
"""Values of ``adjust_lr_fn``, as torch.optim.Muon names them."""


@dataclass(frozen=True, slots=True)
class MuonRule:
    """The hyperparameters of one Muon group, resolved."""

    lr: float
    """Learning rate before the shape's adjustment."""

    momentum: float
    """Weight of the past in the gradient's moving average (torch's convention)."""

    weight_decay: float
    """Decoupled: each weight is first multiplied by ``1 - lr · weight_decay``."""

    nesterov: bool
    """Whether the current gradient is mixed in once more."""

    schedule: tuple[Triple, ...]
    """Newton–Schulz coefficients, one triple a step."""

    eps: float
    """Floor of the Frobenius norm."""

    adjust_lr_fn: str | None
    """How the step depends on the shape: one of ``ADJUSTMENTS``."""

    ns_dtype: torch.dtype | None
    """Precision of the iteration; ``None`` picks by device."""

    ns_method: Method
    """Form of the iteration."""

    def scale(self, rows: int, columns: int) -> float:
        """The factor on an orthogonalised ``rows × columns`` update.

        ``match_rms_adamw`` is 0.2·√max(n, m): Moonlight (arXiv 2502.16982, §2.2), K2 Algorithm 1.
        """
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1.0, rows / columns))


@dataclass(frozen=True, slots=True)
class Piece:
    """Matrices of one shape out of one parameter: momentum in, weight out."""

    gradient: Tensor
    """``(..., n, m)``; read only."""

    average: Tensor | None
    """The momentum of the same shape, to be mixed into the gradient; ``None``: take as it is."""

    weight: Tensor
    """What is updated in place, of the same shape."""

    replaces: bool = False
    """Write the scaled update over ``weight`` instead of stepping it."""


def advance_momentum(
    gradients: Sequence[Tensor], buffers: Sequence[Tensor], rule: MuonRule
) -> None:
    """``buffer ← momentum · buffer + (1 - momentum) · gradient`` for all, in place.

    Raises:
        ConfigError: never; shapes are the caller's business.
    """
    if not buffers:
        return
    cast = [g.to(b.dtype) for g, b in zip(gradients, buffers, strict=True)]
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        list(buffers), cast, 1.0 - rule.momentum
    )


def apply_muon(pieces: Iterable[Piece], rule: MuonRule) -> None:
    """Orthogonalise every piece and step its weight, equal shapes together."""
    by_shape: dict[tuple[object, ...], list[Piece]] = defaultdict(list)
    for piece in pieces:
        rows, columns = piece.weight.shape[-2:]
        key = (rows, columns, piece.weight.device)
        by_shape[key].append(piece)
    for alike in by_shape.values():
        for stack in _stacks(alike):
            _apply_stack(stack, rule)


def pieces_of(
    view: MatrixView,
    gradient: Tensor,
    average: Tensor | None,
    weight: Tensor,
    *,
    replaces: bool = False,
) -> list[Piece]:
    """The pieces of one parameter; all tensors have its shape."""
    gradients, weights = view.matrices(gradient), view.matrices(weight)
    averages = [None] * len(weights) if average is None else view.matrices(average)
    return [Piece(g, a, w, replaces) for g, a, w in zip(gradients, averages, weights, strict=True)]


def _stacks(pieces: Sequence[Piece]) -> Iterable[list[Piece]]:
    """Gather pieces into stacks of ``STACK_NUMEL`` elements at most, one matrix at least."""
    budget = STACK_NUMEL.get(pieces[0].weight.device.type, STACK_NUMEL["cpu"])
    stack: list[Piece] = []
    held = 0
    for piece in (part for whole in pieces for part in _cut(whole, budget)):
        size = piece.weight.numel()
        if stack and held + size > budget:
            yield stack
            stack, held = [], 0
        stack.append(piece)
        held += size
    if stack:
        yield stack


def _cut(piece: Piece, budget: int) -> Iterable[Piece]:
    weight = piece.weight
    if weight.ndim == 2 or weight.numel() <= budget:
        yield piece
        return
    each = max(1, budget // weight[0].numel())
    for start in range(0, weight.shape[0], each):
        rows = slice(start, start + each)
        average = None if piece.average is None else piece.average[rows]
        part = Piece(piece.gradient[rows], average, weight[rows], piece.replaces)
        yield from _cut(part, budget) if each == 1 and weight.ndim > 3 else (part,)


def _apply_stack(stack: Sequence[Piece], rule: MuonRule) -> None:
    first = stack[0].weight
    rows, columns = first.shape[-2:]
    dtype = rule.ns_dtype or default_dtype(first.device)
    counts = [piece.weight.numel() // (rows * columns) for piece in stack]
    X_BNM = torch.empty((sum(counts), rows, columns), dtype=dtype, device=first.device)
    for piece, slot in zip(stack, X_BNM.split(counts), strict=True):
        _load(piece, slot, rule)
    Z_BSS, X_BNM = last_factor_(X_BNM, rule.schedule, rule.eps, rule.ns_method)
    scale = rule.scale(rows, columns)
    if Z_BSS is None:
        for piece, slot in zip(stack, X_BNM.split(counts), strict=True):
            _store(piece, slot.view(piece.weight.shape), rule, scale)
        return
    left, right = (Z_BSS, X_BNM) if rows <= columns else (X_BNM, Z_BSS)
    for piece, a, b in zip(stack, left.split(counts), right.split(counts), strict=True):
        _store_product(piece, a, b, rule, scale)


def _load(piece: Piece, slot: Tensor, rule: MuonRule) -> None:
    target = slot.view(piece.gradient.shape)
    if piece.average is None:
        target.copy_(piece.gradient)
    elif not rule.nesterov:
        target.copy_(piece.average)
    elif piece.gradient.dtype == piece.average.dtype == target.dtype:
        torch.lerp(piece.gradient, piece.average, rule.momentum, out=target)
    else:
        combined = piece.gradient.to(piece.average.dtype)
        target.copy_(torch.lerp(combined, piece.average, rule.momentum))


def _store(piece: Piece, update: Tensor, rule: MuonRule, scale: float) -> None:
    if piece.replaces:
        piece.weight.copy_(update).mul_(scale)
        return
    piece.weight.mul_(1.0 - rule.lr * rule.weight_decay)
    piece.weight.add_(update, alpha=-rule.lr * scale)


def _store_product(
    piece: Piece, left_B: Tensor, right_B: Tensor, rule: MuonRule, scale: float
) -> None:
    """Like :func:`_store` for ``left @ right``, inside the product where the memory allows it."""
    weight = piece.weight
    keep, along = 1.0 - rule.lr * rule.weight_decay, -rule.lr * scale
    fits = weight.dtype == left_B.dtype and weight.stride(-1) == 1 and weight.ndim <= 3
    if piece.replaces or not fits:
        _store(piece, torch.bmm(left_B, right_B).view(weight.shape), rule, scale)
    elif weight.ndim == 2:
        weight.addmm_(left_B[0], right_B[0], beta=keep, alpha=along)
    else:
        weight.baddbmm_(left_B, right_B, beta=keep, alpha=along)


def check_adjustment(adjust_lr_fn: str | None) -> None:
    """Reject an unknown ``adjust_lr_fn``.

    Raises:
        ConfigError: it is not in ``ADJUSTMENTS``.
    """
    if adjust_lr_fn not in ADJUSTMENTS:
        raise ConfigError(
            f"{adjust_lr_fn!r} is unknown", key="adjust_lr_fn", remedy=f"Use one of {ADJUSTMENTS}"
        )
