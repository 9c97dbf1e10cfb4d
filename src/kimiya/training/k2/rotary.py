"""Rotary positions, plain and stretched by YaRN, over interleaved pairs.

Pair ``(2i, 2i + 1)`` of the rotary part turns by ``position · frequency[i]``. Frequencies are kept
in float32 whatever the model computes in: at 128k tokens bfloat16 cannot tell two positions apart.

Shapes: B batch, T tokens, H heads, R rotary width, F = R / 2 frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kimiya.training.k2.config import K2Config, RopeScaling, yarn_mscale

__all__ = ["rotary_frequencies", "rotate", "rotation"]


def rotary_frequencies(config: K2Config, *, device: torch.device | None = None) -> Tensor:
    """The angle in radians each pair turns per token: shape (F,), float32."""
    width = config.qk_rope_head_dim
    powers = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    plain_F = config.rope_theta**-powers
    scaling = config.rope_scaling
    if scaling is None:
        return plain_F
    kept_F = 1.0 - _ramp(config, scaling, device)
    return plain_F / scaling.factor * (1.0 - kept_F) + plain_F * kept_F


def rotation(
    config: K2Config, frequencies_F: Tensor, positions_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosine and sine at each position, shape (B, T, F), with YaRN's factor on both."""
    angles_BTF = positions_BT[..., None].float() * frequencies_F
    factor = 1.0
    if config.rope_scaling is not None:
        stretch = config.rope_scaling
        factor = yarn_mscale(stretch.factor, stretch.mscale)
        factor /= yarn_mscale(stretch.factor, stretch.mscale_all_dim)
    return angles_BTF.cos() * factor, angles_BTF.sin() * factor


def rotate(x_BHTR: Tensor, cos_BTF: Tensor, sin_BTF: Tensor) -> Tensor:
    """Turn each interleaved pair; the result lists first members, then second members.

    The order of the result does not matter to attention as long as queries and keys share it.
    """
    cos_B1TF = cos_BTF.unsqueeze(1).to(x_BHTR.dtype)
    sin_B1TF = sin_BTF.unsqueeze(1).to(x_BHTR.dtype)
    first, second = x_BHTR[..., 0::2], x_BHTR[..., 1::2]
    return torch.cat(
        [first * cos_B1TF - second * sin_B1TF, second * cos_B1TF + first * sin_B1TF], dim=-1
    )


def _ramp(config: K2Config, scaling: RopeScaling, device: torch.device | None) -> Tensor:
    """How far each frequency is interpolated: 0 for the fast ones, 1 for the slow ones."""
    width = config.qk_rope_head_dim

    def pair_turning(rotations: float) -> float:
        context = scaling.original_max_position_embeddings
        return (
            width * math.log(context / (rotations * math.tau)) / (2 * math.log(config.rope_theta))
        )

    low = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_turning(scaling.beta_slow)), width - 1)
    span = max(high - low, 0.001)
    pairs = torch.arange(width // 2, dtype=torch.float32, device=device)
    return ((pairs - low) / span).clamp(0, 1)
