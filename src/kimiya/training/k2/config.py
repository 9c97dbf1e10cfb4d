"""The shape of a K2 model, from the published trillion parameters down to a few million.

`K2Config` names every field as the published ``config.json`` does, so that a file from a hub and a
config of ours are the same thing read twice. Two invariants hold for every instance: all sizes are
positive and fit each other (checked at construction), and nothing about the model is decided
anywhere else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kimiya.errors import ConfigError

__all__ = ["K2Config", "RopeScaling"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """YaRN: how rotary positions reach past the context of pre-training (arXiv 2309.00071)."""

    factor: float
    """Times the original context, e.g. 32 for 128k."""
    original_max_position_embeddings: int = 4096
    """Context of pre-training, in tokens."""
    beta_fast: float = 1.0
    """Rotations over the original context above which a frequency is left alone (K2 1, K2.5 32)."""
    beta_slow: float = 1.0
    """Rotations below which a frequency is fully interpolated."""
    mscale: float = 1.0
    """Numerator's coefficient of the factor on cos and sin."""
    mscale_all_dim: float = 1.0
    """Coefficient of the factor on the softmax scale, squared there; 0 leaves it out."""

    def __post_init__(self) -> None:
        if self.factor < 1 or self.original_max_position_embeddings < 1:
            raise ConfigError(
                f"YaRN cannot stretch {self.original_max_position_embeddings} tokens "
                f"{self.factor} times",
                key="rope_scaling",
                remedy="Both must be at least 1",
            )


@dataclass(frozen=True, kw_only=True)
class K2Config:
    """Every size of a K2 model; defaults are Kimi K2's own (`Kimi-K2-Instruct`, config.json)."""

    vocab_size: int = 163_840
    hidden_size: int = 7168
    intermediate_size: int = 18_432
    """Width of the dense layers' feed-forward."""
    moe_intermediate_size: int = 2048
    """Width of one expert, and of the shared one per ``n_shared_experts``."""
    num_hidden_layers: int = 61
    first_k_dense_replace: int = 1
    """How many layers, from the first, are dense."""
    num_attention_heads: int = 64
    q_lora_rank: int | None = 1536
    """Rank of the query's latent; None projects queries directly."""
    kv_lora_rank: int = 512
    """Rank of the latent that keys and values share: what the cache holds of a token."""
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    n_routed_experts: int = 384
    num_experts_per_tok: int = 8
    n_shared_experts: int = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    """Whether the chosen experts' weights are made to sum to one before scaling."""
    routed_scaling_factor: float = 2.827
    rms_norm_eps: float = 1e-6
    """Of the layers' norms (K2 1e-6, K2-Thinking and K2.5 1e-5); the latents' norms keep 1e-6."""
    rope_theta: float = 50_000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: int = 131_072
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                _check_size(field.name, value)
        self._check_fit()

    def _check_fit(self) -> None:
        problems = {
            "qk_rope_head_dim": self.qk_rope_head_dim % 2
            and "must be even: it is rotated in pairs",
            "num_experts_per_tok": self.num_experts_per_tok > self.n_routed_experts
            and f"is more than the {self.n_routed_experts} experts there are",
            "first_k_dense_replace": self.first_k_dense_replace > self.num_hidden_layers
            and f"is more than the {self.num_hidden_layers} layers there are",
            "n_group": self.n_routed_experts % self.n_group
            and f"does not divide the {self.n_routed_experts} experts",
            "topk_group": self.topk_group > self.n_group
            and f"is more than the {self.n_group} groups there are",
        }
        for key, problem in problems.items():
            if problem:
                raise ConfigError(f"{getattr(self, key)} {problem}", key=key)

    @property
    def qk_head_dim(self) -> int:
        """Width of one head's query and key: the content part, then the rotary part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        """What logits are multiplied by: ``qk_head_dim ** -0.5``, times YaRN's factor squared."""
        scale = self.qk_head_dim**-0.5
        if self.rope_scaling is not None and self.rope_scaling.mscale_all_dim:
            scale *= yarn_mscale(self.rope_scaling.factor, self.rope_scaling.mscale_all_dim) ** 2
        return scale

    def is_dense(self, layer: int) -> bool:
        """Whether this layer (from 0) has one plain feed-forward instead of experts."""
        return layer < self.first_k_dense_replace

    @classmethod
    def published(cls) -> K2Config:
        """Kimi K2 as released: 1.04T parameters, 32.6B of them active for a token."""
        return cls(
            rope_scaling=RopeScaling(factor=32.0),
            bos_token_id=163_584,
            eos_token_id=163_585,
            pad_token_id=163_839,
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, file: str | None = None) -> K2Config:
        """Read a ``config.json`` (or a recipe's ``[model]`` table) of this architecture.

        Both spellings of rotary settings are understood: ``rope_theta`` with ``rope_scaling``, and
        ``rope_parameters``. Keys that say nothing about the model's shape are passed over only when
        ``file`` is None, i.e. for a hub's file; a recipe's unknown key is an error.

        Raises:
            ConfigError: a value does not fit, or (with ``file``) a key is unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        found = {key: value for key, value in values.items() if key in known}
        unknown = set(values) - known - {"rope_parameters"}
        if file is not None and unknown:
            raise ConfigError(
                "no such setting of a K2 model",
                file=file,
                key=f"model.{min(unknown)}",
                remedy=f"Known: {', '.join(sorted(known))}",
            )
        parameters = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
        found["rope_scaling"] = _rope_scaling(parameters)
        if "rope_theta" in parameters:
            found["rope_theta"] = float(parameters["rope_theta"])
        if isinstance(found.get("eos_token_id"), list):
            found["eos_token_id"] = found["eos_token_id"][0]
        try:
            return cls(**found)
        except TypeError as error:
            raise ConfigError(f"the model's settings cannot be read: {error}", file=file) from error

    def to_mapping(self) -> dict[str, Any]:
        """The ``config.json`` of this model, as ``transformers`` reads it for `deepseek_v3`."""
        values = dataclasses.asdict(self)
        scaling = values.pop("rope_scaling")
        theta = values.pop("rope_theta")
        rope = {"rope_type": "default", "rope_theta": theta}
        if scaling is not None:
            rope |= {"rope_type": "yarn", **scaling}
        return values | {
            "model_type": "deepseek_v3",
            "architectures": ["DeepseekV3ForCausalLM"],
            "rope_parameters": rope,
            "rope_interleave": True,
            "num_key_value_heads": self.num_attention_heads,
            "num_nextn_predict_layers": 0,
            "hidden_act": "silu",
            "attention_bias": False,
        }


def yarn_mscale(factor: float, coefficient: float) -> float:
    """YaRN's temperature: ``0.1 · coefficient · ln(factor) + 1``; 1 without stretching."""
    return 1.0 if factor <= 1 else 0.1 * coefficient * math.log(factor) + 1.0


def _rope_scaling(parameters: Mapping[str, Any]) -> RopeScaling | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if not parameters or kind == "default":
        return None
    if kind != "yarn":
        raise ConfigError(f"rotary scaling {kind!r} is not K2's", key="rope_scaling.type")
    fields = {field.name for field in dataclasses.fields(RopeScaling)}
    return RopeScaling(**{key: value for key, value in parameters.items() if key in fields})


def _check_size(name: str, value: float) -> None:
    may_be_zero = name.endswith("_token_id") or name in {
        "first_k_dense_replace",
        "n_shared_experts",
        "initializer_range",
    }
    if value < 0 or (value == 0 and not may_be_zero) or not math.isfinite(value):
        raise ConfigError(f"{value} cannot be", key=name, remedy="It must be positive")
