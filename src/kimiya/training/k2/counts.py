"""How many parameters a K2 model has, and how many work on one token.

Counted on the meta device: the published trillion takes no memory and under a second.
"""

from __future__ import annotations

import dataclasses
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
    """Those one token is multiplied by: no input embedding, and only its own experts."""


def count_parameters(config: K2Config, *, prediction_layers: int = 0) -> ParameterCount:
    """Both sizes of the model ``config`` describes, without allocating it.

    ``prediction_layers`` adds layers that predict the token after next (MTP): each is an expert
    layer, three norms and a projection from two hidden states to one. The published total of
    1.04T is reached with one; the released weights have none.
    """
    with torch.device("meta"):
        model = K2Model(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = 0 if config.tie_word_embeddings else model.model.embed_tokens.weight.numel()
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            held = module.gate_up_proj.numel() + module.down_proj.numel()
            idle += held - held * config.num_experts_per_tok // config.n_routed_experts
    counted = ParameterCount(total=total, active=total - idle)
    if not prediction_layers:
        return counted
    deeper = dataclasses.replace(config, num_hidden_layers=config.num_hidden_layers + 1)
    more = count_parameters(deeper)
    joint = 2 * config.hidden_size**2 + 3 * config.hidden_size
    return ParameterCount(
        total=total + prediction_layers * (more.total - total + joint),
        active=counted.active + prediction_layers * (more.active - counted.active + joint),
    )
