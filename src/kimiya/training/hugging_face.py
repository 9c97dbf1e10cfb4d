"""QK-Clip for transformers models, through their attention interface and nothing else.

An attention function is registered under ``ATTENTION_NAME``; a model switched to it computes what
``sdpa`` computes and reports its maximal logits. No modelling code is touched.

Invariants: outputs equal ``sdpa``'s; what the fused path does not know (position biases, sinks,
caches, dropout) is handed to transformers' own ``sdpa`` unchanged and screened by norms.
"""

from typing import Any

import torch
from torch import Tensor, nn

from kimiya.errors import ConfigError
from kimiya.training.attention_logits import attend, listening_record, observe
from kimiya.training.qk_clip import QKClip

ATTENTION_NAME = "kimiya_sdpa"
"""The name the attention function is registered under in transformers."""

_FOREIGN = ("position_bias", "cache", "s_aux", "softcap", "output_attentions")


def hugging_face_qk_clip(model: nn.Module, **options: Any) -> QKClip:
    """Switch ``model`` to the reporting attention and watch it.

    Args:
        model: a transformers model.
        **options: those of :class:`QKClip`.

    Returns:
        The clip; attach it to any optimizer, or hand it to :class:`MuonClip`.

    Raises:
        ConfigError: transformers is absent, or the model cannot switch its attention.
    """
    register_attention()
    switch = getattr(model, "set_attn_implementation", None)
    if switch is None:
        raise ConfigError(
            f"{type(model).__name__} has no set_attn_implementation",
            remedy="Use QKClip(model) with attend() or report_max_logits() in its attention",
        )
    switch(ATTENTION_NAME)
    return QKClip(model, **options)


def register_attention() -> None:
    """Make ``attn_implementation="kimiya_sdpa"`` known to transformers; again is harmless.

    Raises:
        ConfigError: transformers is not installed.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    except ImportError as missing:
        raise ConfigError(
            "transformers is not installed", remedy="pip install transformers"
        ) from missing
    AttentionInterface.register(ATTENTION_NAME, reporting_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def reporting_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature: (B, heads, T, D) in, (B, T, heads, D) out."""
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    causal = causal and attention_mask is None and query.shape[2] > 1
    plain = all(kwargs.get(name) is None or kwargs[name] is False for name in _FOREIGN)
    additive = attention_mask is not None and attention_mask.dtype != torch.bool
    if plain and not additive and query.shape[2] == key.shape[2]:
        out = attend(
            module, query, key, value,
            scale=scaling, causal=causal, mask=attention_mask, dropout=dropout,
        )  # fmt: skip
        return out.transpose(1, 2).contiguous(), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    done = sdpa_attention_forward(
        module, query, key, value, attention_mask,
        dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs,
    )  # fmt: skip
    record = listening_record(module)
    if record is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        observe(record, query, key, scale, causal=causal, mask=attention_mask, lse_BHT=None)
    return done
