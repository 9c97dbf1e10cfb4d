"""How many parameters a K2 model has, and how many work on one token.

Counted on the meta device: the published trillion takes no memory and under a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kimiya.training.k2.config import K2Config
from kimiya.training.k2.experts import RoutedExperts
from kimiya.training.k2.model import K2Model

__all__ = ["ParameterCount", "count_parameters"]


@dataclass(frozen=True)
class ParameterCount:
    """The two sizes a sparse model has."""

    total: int
    """Every parameter."""
    active: int
    """Those a single token is multiplied by: no input embedding, and of the experts only its own."""


def count_parameters(config: K2Config) -> ParameterCount:
    """Both sizes of the model ``config`` describes, without allocating it."""
    with torch.device("meta"):
        model = K2Model(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = 0 if config.tie_word_embeddings else model.model.embed_tokens.weight.numel()
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            held = module.gate_up_proj.numel() + module.down_proj.numel()
            idle += held - held * config.num_experts_per_tok // config.n_routed_experts
    return ParameterCount(total=total, active=total - idle)
