"""Kimi K2's architecture at any size: latent attention, balanced experts, cached generation."""

from kimiya.training.k2.cache import LatentCache
from kimiya.training.k2.config import K2Config, RopeScaling
from kimiya.training.k2.experts import balance_experts
from kimiya.training.k2.generation import generate, stream
from kimiya.training.k2.model import K2Model

__all__ = [
    "K2Config",
    "K2Model",
    "LatentCache",
    "RopeScaling",
    "balance_experts",
    "generate",
    "stream",
]
