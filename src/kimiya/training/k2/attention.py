"""Multi-head latent attention (MLA), as in DeepSeek-V3 and Kimi K2.

Queries come from a latent of rank ``q_lora_rank``; keys and values share one of rank
``kv_lora_rank``; one rotary key serves all heads. With many queries the latent is expanded to keys
and values and goes through fused attention, which reports its greatest logits to QK-Clip where one
listens; with few, against a cache, the up-projections
are absorbed into query and output instead, and keys and values are never built. Both give the same
numbers up to rounding.

Shapes: B batch, T queries, S keys, H heads, D query-key width, N content width, R rotary width,
V value width, C latent rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kimiya.training import AttentionLayout, attend
from kimiya.training.k2.cache import LatentCache
from kimiya.training.k2.config import K2Config
from kimiya.training.k2.rotary import rotate

__all__ = ["LatentAttention"]


class LatentAttention(nn.Module):
    """One layer's MLA; parameter names are those of the published checkpoints."""

    def __init__(self, config: K2Config, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.qk_layout = AttentionLayout.mla(
            config.num_attention_heads,
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
            query="q_proj" if config.q_lora_rank is None else "q_b_proj",
        )
        heads, hidden = config.num_attention_heads, config.hidden_size
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
            self.q_a_layernorm = nn.RMSNorm(config.q_lora_rank, eps=1e-6)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(
            hidden, config.kv_lora_rank + config.qk_rope_head_dim, bias=False
        )
        self.kv_a_layernorm = nn.RMSNorm(config.kv_lora_rank, eps=1e-6)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(heads * config.v_head_dim, hidden, bias=False)

    def forward(
        self,
        x_BTE: Tensor,
        rotation: tuple[Tensor, Tensor],
        *,
        allowed_BTS: Tensor | None = None,
        cache: LatentCache | None = None,
    ) -> Tensor:
        """Attend from each token to those ``allowed`` (None: itself and all before it)."""
        query_BHTN, query_BHTR = self._queries(x_BTE, rotation)
        latents_BSC, rotary_BSR = self._latents(x_BTE, rotation)
        if cache is not None:
            latents_BSC, rotary_BSR = cache.extend(self.layer, latents_BSC, rotary_BSR)
        absorbed = x_BTE.shape[1] < latents_BSC.shape[1] and x_BTE.shape[1] <= 8
        attend = self._attend_absorbed if absorbed else self._attend_expanded
        out_BHTV = attend(query_BHTN, query_BHTR, latents_BSC, rotary_BSR, allowed_BTS)
        return self.o_proj(out_BHTV.transpose(1, 2).flatten(2))

    def _queries(self, x_BTE: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self.config.q_lora_rank is None:
            query = self.q_proj(x_BTE)
        else:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTE)))
        query_BHTD = query.unflatten(-1, (-1, self.config.qk_head_dim)).transpose(1, 2)
        content_BHTN, rotary_BHTR = query_BHTD.split(
            [self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], dim=-1
        )
        return content_BHTN, rotate(rotary_BHTR, *rotation)

    def _latents(self, x_BTE: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        latents_BTC, rotary_BTR = self.kv_a_proj_with_mqa(x_BTE).split(
            [self.config.kv_lora_rank, self.config.qk_rope_head_dim], dim=-1
        )
        return self.kv_a_layernorm(latents_BTC), rotate(rotary_BTR[:, None], *rotation)[:, 0]

    def _attend_expanded(
        self,
        query_BHTN: Tensor,
        query_BHTR: Tensor,
        latents_BSC: Tensor,
        rotary_BSR: Tensor,
        allowed_BTS: Tensor | None,
    ) -> Tensor:
        width = [self.config.qk_nope_head_dim, self.config.v_head_dim]
        expanded_BHSX = self.kv_b_proj(latents_BSC).unflatten(-1, (-1, sum(width))).transpose(1, 2)
        key_BHSN, value_BHSV = expanded_BHSX.split(width, dim=-1)
        rotary_BHSR = rotary_BSR[:, None].expand(-1, key_BHSN.shape[1], -1, -1)
        query_BHTD = torch.cat([query_BHTN, query_BHTR], dim=-1)
        key_BHSD = torch.cat([key_BHSN, rotary_BHSR], dim=-1)
        return attend(
            self,
            query_BHTD,
            key_BHSD,
            value_BHSV,
            scale=self.config.softmax_scale,
            mask=None if allowed_BTS is None else allowed_BTS[:, None],
        )

    def _attend_absorbed(
        self,
        query_BHTN: Tensor,
        query_BHTR: Tensor,
        latents_BSC: Tensor,
        rotary_BSR: Tensor,
        allowed_BTS: Tensor | None,
    ) -> Tensor:
        width = [self.config.qk_nope_head_dim, self.config.v_head_dim]
        up_HXC = self.kv_b_proj.weight.unflatten(0, (-1, sum(width)))
        key_up_HNC, value_up_HVC = up_HXC.split(width, dim=1)
        query_BHTC = query_BHTN @ key_up_HNC
        logits_BHTS = query_BHTC @ latents_BSC[:, None].transpose(2, 3)
        logits_BHTS = logits_BHTS + query_BHTR @ rotary_BSR[:, None].transpose(2, 3)
        logits_BHTS = logits_BHTS * self.config.softmax_scale
        if allowed_BTS is not None:
            logits_BHTS = logits_BHTS.masked_fill(~allowed_BTS[:, None], float("-inf"))
        weights_BHTS = logits_BHTS.softmax(dim=-1, dtype=torch.float32).to(query_BHTN.dtype)
        return (weights_BHTS @ latents_BSC[:, None]) @ value_up_HVC.transpose(1, 2)
