"""Where each attention head lives in the weights: declared, or read off a module's structure.

QK-Clip scales the rows that make one head's queries and keys. ``AttentionLayout`` says which rows
those are for multi-head, grouped, multi-query, fused and multi-head latent attention.

Invariants: rows of different heads never overlap; a module whose queries or keys are normalised
after the projection is refused, because scaling its rows would change nothing.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kimiya.errors import ConfigError


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Rows of one weight that belong to each head: ``[offset + h·stride, … + size)``."""

    weight: str
    """Parameter name relative to the attention module, e.g. ``q_b_proj.weight``."""

    heads: int
    """How many heads the weight holds."""

    stride: int
    """Rows from one head to the next."""

    size: int
    """Rows of this part in each head."""

    offset: int = 0
    """First row of head 0's part."""

    dim: int = 0
    """The axis the heads lie along: 0 for ``nn.Linear``, 1 for weights stored (in, out)."""

    def factors(self, per_head_H: Tensor, length: int) -> Tensor:
        """One factor a row of the whole weight: the head's inside its part, one elsewhere."""
        rows = torch.ones(length, dtype=torch.float32, device=per_head_H.device)
        starts = self.offset + self.stride * torch.arange(self.heads, device=rows.device)
        inside = torch.arange(self.size, device=rows.device)
        rows[starts[:, None] + inside] = per_head_H[:, None].to(torch.float32)
        return rows

    def check(self, module: nn.Module) -> None:
        """Raise unless the weight is there and long enough.

        Raises:
            ConfigError: the weight is missing or too short.
        """
        weight = parameter_at(module, self.weight)
        if weight is None:
            raise ConfigError(f"{type(module).__name__} has no parameter {self.weight!r}")
        last = self.offset + self.stride * (self.heads - 1) + self.size
        if self.dim >= weight.ndim or last > weight.shape[self.dim]:
            raise ConfigError(
                f"{self.weight} of shape {tuple(weight.shape)} has fewer than {last} rows for "
                f"{self.heads} heads along axis {self.dim}"
            )


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """Where queries and keys of one attention module come from."""

    query: HeadRows
    """The query's rows; with ``query_rotary`` only the part without position (content)."""

    key: HeadRows
    """The key's rows, one block a key head; for latent attention the content part."""

    query_rotary: HeadRows | None = None
    """Latent attention: the query's rotary rows, which carry the whole factor because the rotary
    key is shared by all heads and stays untouched."""

    def __post_init__(self) -> None:
        if self.key.heads < 1 or self.query.heads % self.key.heads:
            raise ConfigError(
                f"{self.query.heads} query heads do not divide into {self.key.heads} key heads"
            )
        if self.query_rotary is not None and self.key.heads != self.query.heads:
            raise ConfigError("latent attention has one key content part a head")

    @property
    def heads(self) -> int:
        """Query heads, which is how many maxima a layer reports."""
        return self.query.heads

    @staticmethod
    def grouped(
        heads: int,
        key_heads: int,
        head_dim: int,
        *,
        query: str = "q_proj",
        key: str = "k_proj",
    ) -> "AttentionLayout":
        """Separate projections: multi-head, grouped-query and multi-query attention."""
        return AttentionLayout(
            HeadRows(f"{query}.weight", heads, head_dim, head_dim),
            HeadRows(f"{key}.weight", key_heads, head_dim, head_dim),
        )

    @staticmethod
    def fused(
        heads: int,
        key_heads: int,
        head_dim: int,
        *,
        weight: str = "qkv_proj.weight",
        dim: int = 0,
        interleaved: bool = False,
    ) -> "AttentionLayout":
        """One projection: all queries, all keys, all values; or q, k, v head by head."""
        if interleaved:
            if heads != key_heads:
                raise ConfigError("an interleaved fused projection has as many keys as queries")
            rows = HeadRows(weight, heads, 3 * head_dim, head_dim, dim=dim)
            return AttentionLayout(rows, replace(rows, offset=head_dim))
        query = HeadRows(weight, heads, head_dim, head_dim, dim=dim)
        key = HeadRows(weight, key_heads, head_dim, head_dim, offset=heads * head_dim, dim=dim)
        return AttentionLayout(query, key)

    @staticmethod
    def mla(
        heads: int,
        content_dim: int,
        rotary_dim: int,
        value_dim: int,
        *,
        query: str = "q_b_proj",
        key_value: str = "kv_b_proj",
    ) -> "AttentionLayout":
        """Multi-head latent attention, rows as in DeepSeek-V3: per head [content; rotary] in the
        query and [content; value] in the key-value projection."""
        stride = content_dim + rotary_dim
        rows = HeadRows(f"{query}.weight", heads, stride, content_dim)
        return AttentionLayout(
            rows,
            HeadRows(f"{key_value}.weight", heads, content_dim + value_dim, content_dim),
            replace(rows, size=rotary_dim, offset=content_dim),
        )

    def parts(self) -> tuple[HeadRows, ...]:
        """Every part that may be scaled."""
        rotary = () if self.query_rotary is None else (self.query_rotary,)
        return (self.query, self.key, *rotary)


def describe_attention(module: nn.Module) -> AttentionLayout | None:
    """The layout a module declares in ``qk_layout``, or one read off its structure.

    Returns:
        ``None`` when the module is no attention this reader knows.

    Raises:
        ConfigError: it is attention, but clipping its rows could not work; the message says why.
    """
    declared = getattr(module, "qk_layout", None)
    if declared is not None:
        if not isinstance(declared, AttentionLayout):
            raise ConfigError(f"qk_layout is {declared!r}, no AttentionLayout")
        return declared
    layout = _latent(module) or _separate(module) or _fused(module)
    if layout is None:
        return None
    for norm in ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_norm", "key_norm"):
        if isinstance(getattr(module, norm, None), nn.Module):
            raise ConfigError(
                f"it normalises after the projection ({norm}): scaling head rows would do nothing",
                remedy="Its logits are bounded by the norm's gain already: leave this layer out",
            )
    return layout


def parameter_at(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter at a dotted path now (sharding may replace it between calls)."""
    *path, last = name.split(".")
    holder: Any = module
    for step in path:
        holder = getattr(holder, step, None)
    found = getattr(holder, last, None)
    return found if isinstance(found, nn.Parameter) else None


def _number(module: nn.Module, *names: str) -> int | None:
    """The first integer found under one of ``names`` on the module or on its config."""
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _counts(module: nn.Module) -> tuple[int | None, int | None]:
    heads = _number(module, "num_heads", "num_attention_heads")
    return heads, _number(module, "num_key_value_heads", "num_kv_heads") or heads


def _latent(module: nn.Module) -> AttentionLayout | None:
    if parameter_at(module, "kv_b_proj.weight") is None:
        return None
    query = "q_proj" if parameter_at(module, "q_b_proj.weight") is None else "q_b_proj"
    heads, _ = _counts(module)
    sizes = [_number(module, f"{n}_head_dim") for n in ("qk_nope", "qk_rope", "v")]
    content, rotary, value = sizes
    if heads is None or content is None or rotary is None or value is None:
        return None
    return AttentionLayout.mla(heads, content, rotary, value, query=query)


def _separate(module: nn.Module) -> AttentionLayout | None:
    query = parameter_at(module, "q_proj.weight")
    if query is None or parameter_at(module, "k_proj.weight") is None:
        return None
    heads, key_heads = _counts(module)
    if heads is None or key_heads is None:
        return None
    size = _number(module, "head_dim") or query.shape[0] // heads
    return AttentionLayout.grouped(heads, key_heads, size)


def _fused(module: nn.Module) -> AttentionLayout | None:
    weight = parameter_at(module, "qkv_proj.weight")
    heads, key_heads = _counts(module)
    if weight is None or heads is None or key_heads is None:
        return None
    size = _number(module, "head_dim") or weight.shape[0] // (heads + 2 * key_heads)
    if weight.shape[0] != (heads + 2 * key_heads) * size:
        return None
    return AttentionLayout.fused(heads, key_heads, size)
