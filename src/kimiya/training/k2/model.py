"""The K2 language model: embedding, layers, norm and head.

Module and parameter names are those of ``DeepseekV3ForCausalLM``, so that a state dict of either
loads into the other. One forward pass serves training, packed sequences and cached generation; what
differs is only which pairs of tokens may see each other (`visibility`).

Shapes: B batch, T tokens, S keys, E hidden width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kimiya.training.k2.attention import LatentAttention
from kimiya.training.k2.cache import LatentCache, extend_validity
from kimiya.training.k2.config import K2Config
from kimiya.training.k2.experts import ExpertMixture, FeedForward, RoutedExperts
from kimiya.training.k2.rotary import rotary_frequencies, rotation

__all__ = ["K2Model", "visibility"]


class _Layer(nn.Module):
    def __init__(self, config: K2Config, layer: int) -> None:
        super().__init__()
        self.self_attn = LatentAttention(config, layer)
        self.mlp = (
            FeedForward(config.hidden_size, config.intermediate_size)
            if config.is_dense(layer)
            else ExpertMixture(config)
        )
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        x_BTE: Tensor,
        turn: tuple[Tensor, Tensor],
        *,
        allowed_BTS: Tensor | None,
        cache: LatentCache | None,
        real_BT: Tensor | None,
    ) -> Tensor:
        attended_BTE = self.self_attn(
            self.input_layernorm(x_BTE), turn, allowed_BTS=allowed_BTS, cache=cache
        )
        x_BTE = x_BTE + attended_BTE
        normed_BTE = self.post_attention_layernorm(x_BTE)
        if isinstance(self.mlp, ExpertMixture):
            return x_BTE + self.mlp(normed_BTE, real_BT)
        return x_BTE + self.mlp(normed_BTE)


class _Trunk(nn.Module):
    def __init__(self, config: K2Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class K2Model(nn.Module):
    """A causal language model of K2's architecture, at any size.

    >>> config = K2Config(vocab_size=32, hidden_size=16, intermediate_size=32, q_lora_rank=8,
    ...     moe_intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, kv_lora_rank=8,
    ...     qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, n_routed_experts=4,
    ...     num_experts_per_tok=2)
    >>> K2Model(config)(torch.zeros(1, 3, dtype=torch.long)).shape
    torch.Size([1, 3, 32])
    """

    def __init__(self, config: K2Config) -> None:
        super().__init__()
        self.config = config
        self.model = _Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._frequencies_F: Tensor | None = None
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw every matrix from N(0, ``initializer_range``²) with torch's generator."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.normal_(0.0, self.config.initializer_range)
            elif isinstance(module, RoutedExperts):
                module.gate_up_proj.normal_(0.0, self.config.initializer_range)
                module.down_proj.normal_(0.0, self.config.initializer_range)
            elif isinstance(module, ExpertMixture):
                module.gate.weight.normal_(0.0, self.config.initializer_range)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: LatentCache | None = None,
        valid_BT: Tensor | None = None,
        keep_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits of the token after each one, shape (B, T, V).

        Args:
            tokens_BT: token ids.
            positions_BT: rotary positions; by default counted on from the cache's end.
            segments_BT: packed sequences: a token sees its own segment and segment 0, which is
                what all the others share; -1 is padding.
            cache: the past, extended in place by these tokens.
            valid_BT: False for padding, which no token sees; not together with segments.
            keep_BT: where logits are wanted; the result is then (kept, V), row by row.
        """
        past = cache.length if cache is not None else 0
        if positions_BT is None:
            steps = torch.arange(past, past + tokens_BT.shape[1], device=tokens_BT.device)
            positions_BT = steps.expand_as(tokens_BT)
        real_BT = valid_BT if segments_BT is None else segments_BT >= 0
        if real_BT is not None and bool(real_BT.all()):
            real_BT = None
        if cache is not None:
            valid_BT = extend_validity(cache.valid_BT, valid_BT, past=past, shape=tokens_BT.shape)
            cache.valid_BT = valid_BT
        allowed_BTS = visibility(
            tokens_BT.shape[1],
            past=past,
            segments_BT=segments_BT,
            valid_BS=valid_BT,
            device=tokens_BT.device,
        )
        turn = rotation(self.config, self._frequencies(tokens_BT.device), positions_BT)
        x_BTE = self.model.embed_tokens(tokens_BT)
        for layer in self.model.layers:
            x_BTE = layer(x_BTE, turn, allowed_BTS=allowed_BTS, cache=cache, real_BT=real_BT)
        x = x_BTE if keep_BT is None else x_BTE[keep_BT]
        return self.lm_head(self.model.norm(x))

    def _frequencies(self, device: torch.device) -> Tensor:
        # No buffer: it would enter the state dict, or be left behind on the meta device.
        if self._frequencies_F is None or self._frequencies_F.device != device:
            self._frequencies_F = rotary_frequencies(self.config, device=device)
        return self._frequencies_F


def visibility(
    queries: int,
    *,
    past: int = 0,
    segments_BT: Tensor | None = None,
    valid_BS: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor | None:
    """Which key each query may see, shape (B, T, S), or None where plain causality says it.

    Every query sees itself even where it is padding, so that no softmax is over nothing.
    """
    if segments_BT is None and valid_BS is None and (past == 0 or queries == 1):
        # A single query against a cache sees everything; None there means the same.
        return None
    seen = past + torch.arange(queries, device=device)
    keys = torch.arange(past + queries, device=device)
    causal_TS = keys[None, :] <= seen[:, None]
    own_TS = keys[None, :] == seen[:, None]
    if segments_BT is not None:
        same_BTS = segments_BT[:, None, :] == segments_BT[:, :, None]
        shared_BTS = segments_BT[:, None, :] == 0
        return (causal_TS & (same_BTS | shared_BTS)) | own_TS
    if valid_BS is not None:
        return (causal_TS & valid_BS[:, None, :]) | own_TS
    return causal_TS[None]
