"""INT4 weights in groups of 32 with a symmetric scale: what a model trains on and is saved with.

One rule decides everything: ``scale = max|w| / 7`` rounded to ``scale_dtype``, and codes from -7
to 7. It is idempotent: weights that lie on their grid get the same scale and codes again, so what
was trained is what is saved. The other common rule, ``max|w| / 7.5`` over -8 to 7, moves such
weights by several per cent, which is why an export must carry its scales and never find new ones.

In training, `FakeInt4` rounds in the forward pass and lets the gradient through unchanged.

Shapes: leading dimensions as they come, then R rows, C columns, Q = C / 32 groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kimiya.errors import ConfigError

__all__ = ["GROUP_SIZE", "FakeInt4", "Int4Weight", "dequantize", "pack", "quantize", "unpack"]

GROUP_SIZE = 32
"""Columns that share a scale, as in Kimi K2-Thinking and K2.5."""

_LARGEST = 7
_CODES_PER_WORD = 8


@dataclass(frozen=True)
class Int4Weight:
    """A weight on the INT4 grid."""

    codes_RC: Tensor
    """int8, from -7 to 7."""
    scales_RQ: Tensor
    """One per group of columns, in the dtype they are saved in."""


def quantize(weight_RC: Tensor, *, scale_dtype: torch.dtype = torch.bfloat16) -> Int4Weight:
    """The nearest grid of this weight, and the weight on it.

    A group of zeros gets scale 1. Scales are rounded before codes are chosen, so that
    `dequantize` gives what training saw to the last bit.

    Raises:
        ConfigError: the columns do not divide into groups, or a weight is NaN or infinite.
    """
    grouped_RQG = _grouped(weight_RC.detach()).float()
    if not torch.isfinite(grouped_RQG).all():
        raise ConfigError(
            "a weight is NaN or infinite and has no INT4 grid", remedy="Load an earlier checkpoint"
        )
    scales_RQ = _scales(grouped_RQG, scale_dtype)
    codes_RQG = (grouped_RQG / scales_RQ[..., None].float()).round().clamp(-_LARGEST, _LARGEST)
    return Int4Weight(codes_RQG.to(torch.int8).flatten(-2), scales_RQ)


def dequantize(weight: Int4Weight, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight the grid stands for."""
    codes_RQG = _grouped(weight.codes_RC).float()
    return (codes_RQG * weight.scales_RQ[..., None].float()).flatten(-2).to(dtype)


class FakeInt4(nn.Module):
    """Rounds a weight to its grid; the gradient passes as if it had not (straight-through)."""

    def __init__(self, *, scale_dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.scale_dtype = scale_dtype

    def forward(self, weight_RC: Tensor) -> Tensor:
        """The weight on its grid, in its own dtype."""
        with torch.no_grad():
            grouped_RQG = _grouped(weight_RC).float()
            scales_RQ1 = _scales(grouped_RQG, self.scale_dtype)[..., None].float()
            codes_RQG = (grouped_RQG / scales_RQ1).round_().clamp_(-_LARGEST, _LARGEST)
            # Its own expression, not weight + (grid - weight): that would be off by a rounding,
            # and what is saved would not be what was trained.
            grid_RC = (codes_RQG * scales_RQ1).flatten(-2).to(weight_RC.dtype)
        return _StraightThrough.apply(weight_RC, grid_RC)  # pyright: ignore[reportReturnType]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, weight: Tensor, grid: Tensor) -> Tensor:
        return grid

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def pack(codes_RC: Tensor) -> Tensor:
    """Eight codes to an int32, the first in the lowest bits, each stored plus 8."""
    if codes_RC.shape[-1] % _CODES_PER_WORD:
        raise ConfigError(f"{codes_RC.shape[-1]} columns do not divide into words of 8 codes")
    nibbles = (codes_RC.to(torch.int64) + 8).unflatten(-1, (-1, _CODES_PER_WORD))
    shifts = 4 * torch.arange(_CODES_PER_WORD, device=codes_RC.device)
    words = (nibbles << shifts).sum(dim=-1)
    # Words of 2**31 and more are negative as int32; the conversion keeps their bits.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: Tensor) -> Tensor:
    """The codes `pack` stored, as int8."""
    shifts = 4 * torch.arange(_CODES_PER_WORD, device=words.device)
    return (((words[..., None] >> shifts) & 15) - 8).to(torch.int8).flatten(-2)


def _grouped(weight_RC: Tensor) -> Tensor:
    if weight_RC.shape[-1] % GROUP_SIZE:
        raise ConfigError(
            f"{weight_RC.shape[-1]} columns do not divide into groups of {GROUP_SIZE}",
            key="quantization",
            remedy="Choose widths of experts and of the model that are multiples of 32",
        )
    return weight_RC.unflatten(-1, (-1, GROUP_SIZE))


def _scales(grouped_RQG: Tensor, dtype: torch.dtype) -> Tensor:
    scales_RQ = (grouped_RQG.abs().amax(dim=-1) / _LARGEST).to(dtype)
    return torch.where(scales_RQ == 0, torch.ones_like(scales_RQ), scales_RQ)
