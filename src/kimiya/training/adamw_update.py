"""AdamW's update, by torch's own kernel on local tensors.

Elementwise, so a shard is updated where it lies and nothing is communicated.

Invariants: equal to torch.optim.AdamW step for step; fused where the kernel exists.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def apply_adamw(
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    states: Sequence[Mapping[str, Tensor]],
    group: Mapping[str, Any],
) -> None:
    """One AdamW step of ``weights`` in place.

    Args:
        gradients: one a weight; cast to the weight's type where it differs.
        weights: parameters or their master copies; sharded ones are stepped locally.
        states: ``exp_avg``, ``exp_avg_sq`` and ``step`` of each, updated in place.
        group: ``lr``, ``betas``, ``eps``, ``weight_decay``.
    """
    batches: dict[tuple[torch.device, torch.dtype, bool], list[tuple[Tensor, ...]]] = {}
    for gradient, weight, state in zip(gradients, weights, states, strict=True):
        row = tuple(
            local_part(tensor)
            for tensor in (weight, gradient, state["exp_avg"], state["exp_avg_sq"], state["step"])
        )
        here = row[0]
        if not here.numel():
            state["step"].add_(1)
            continue
        row = (here, row[1].to(here.dtype), *row[2:])
        fused = here.device.type in _FUSED_DEVICES and all(t.is_contiguous() for t in row)
        batches.setdefault((here.device, here.dtype, fused), []).append(row)
    beta1, beta2 = group["betas"]
    for (_, _, fused), rows in batches.items():
        columns = [list(column) for column in zip(*rows, strict=True)]
        params, grads, averages, squares, steps = columns
        adamw(
            params,
            grads,
            averages,
            squares,
            [],
            steps,
            foreach=not fused,
            fused=fused,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a distributed tensor, or the tensor itself; shares its memory."""
    to_local = getattr(tensor, "to_local", None)
    return tensor.detach() if to_local is None else to_local().detach()
