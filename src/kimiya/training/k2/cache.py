"""What generation remembers of each token: its latent and its rotary key, per layer.

Multi-head latent attention needs ``kv_lora_rank + qk_rope_head_dim`` numbers a token and layer,
whatever the number of heads. Invariant: every layer holds the same tokens once a forward pass ends.

Shapes: B batch, T tokens, C latent rank, R rotary width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["LatentCache"]


@dataclass
class _Layer:
    latents_BTC: Tensor
    rotary_BTR: Tensor
    length: int = 0


@dataclass
class LatentCache:
    """The past of a batch of sequences; hand the same one to each forward pass."""

    layers: dict[int, _Layer] = field(default_factory=dict)
    valid_BT: Tensor | None = None
    """Which cached tokens are real (padding is False); None while all are."""

    @property
    def length(self) -> int:
        """Tokens remembered, padding included."""
        return min((layer.length for layer in self.layers.values()), default=0)

    def extend(self, layer: int, latents_BTC: Tensor, rotary_BTR: Tensor) -> tuple[Tensor, Tensor]:
        """Append these tokens to ``layer`` and return all it remembers, oldest first.

        Room doubles when it runs out, so that n tokens cost O(n) copies and not O(n²).
        """
        held = self.layers.get(layer)
        start = held.length if held else 0
        end = start + latents_BTC.shape[1]
        if held is None or end > held.latents_BTC.shape[1]:
            held = _grown(held, latents_BTC, rotary_BTR, room=max(64, 2 * end))
            self.layers[layer] = held
        held.latents_BTC[:, start:end] = latents_BTC
        held.rotary_BTR[:, start:end] = rotary_BTR
        held.length = end
        return held.latents_BTC[:, :end], held.rotary_BTR[:, :end]

    def keep_rows(self, rows_K: Tensor) -> None:
        """Go on with these sequences only, in this order (the others have ended)."""
        for layer in self.layers.values():
            layer.latents_BTC = layer.latents_BTC[rows_K]
            layer.rotary_BTR = layer.rotary_BTR[rows_K]
        if self.valid_BT is not None:
            self.valid_BT = self.valid_BT[rows_K]


def _grown(held: _Layer | None, latents_BTC: Tensor, rotary_BTR: Tensor, *, room: int) -> _Layer:
    batch = latents_BTC.shape[0]
    grown = _Layer(
        latents_BTC.new_zeros(batch, room, latents_BTC.shape[2]),
        rotary_BTR.new_zeros(batch, room, rotary_BTR.shape[2]),
    )
    if held is not None:
        grown.latents_BTC[:, : held.length] = held.latents_BTC[:, : held.length]
        grown.rotary_BTR[:, : held.length] = held.rotary_BTR[:, : held.length]
        grown.length = held.length
    return grown


def extend_validity(
    valid_BT: Tensor | None, new_BT: Tensor | None, *, past: int, shape: torch.Size
) -> Tensor | None:
    """Validity of past and new tokens together, or None while everything is real."""
    if valid_BT is None and new_BT is None:
        return None
    device = (valid_BT if valid_BT is not None else new_BT).device  # pyright: ignore[reportOptionalMemberAccess]
    past_BT = (
        valid_BT
        if valid_BT is not None
        else torch.ones(shape[0], past, dtype=torch.bool, device=device)
    )
    now_BT = new_BT if new_BT is not None else torch.ones(shape, dtype=torch.bool, device=device)
    return torch.cat([past_BT, now_BT], dim=1)
