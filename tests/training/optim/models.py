"""Small models the tests of this room train."""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from kimiya.training import GATE_UP, AttentionLayout, MatrixView, attend


class Experts(nn.Module):
    """A stack of experts with gate and up glued, every expert used."""

    def __init__(self, experts=3, width=8, inner=12):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * inner, width) * 0.2)
        self.down_proj = nn.Parameter(torch.randn(experts, width, inner) * 0.2)

    def forward(self, x):
        gate, up = (x[None] @ self.gate_up_proj.mT).chunk(2, -1)
        return ((functional.silu(gate) * up) @ self.down_proj.mT).mean(0)


class Router(nn.Module):
    """A router whose weight is a bare parameter."""

    def __init__(self, experts=3, width=8):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, width) * 0.2)

    def forward(self, x):
        return functional.linear(x, self.weight).sigmoid().mean(-1, keepdim=True)


class Mixed(nn.Module):
    """One of everything: embedding, fused QKV, experts, router, norm, biases, head."""

    matrix_views: ClassVar = {"qkv.weight": MatrixView(sizes=(8, 8, 8))}
    head_views: ClassVar = {"qkv.weight": MatrixView(sizes=(8, 8, 8), heads=(2,))}

    def __init__(self, vocabulary=11, width=8):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.experts = Experts(width=width)
        self.gate = Router(width=width)
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.lm_head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        x = self.embedding(tokens)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + torch.softmax(q @ k.mT, -1) @ v
        x = x + self.conv(x.mT).mT
        x = x + self.experts(x.flatten(0, 1)).view(x.shape) * self.gate(x)
        return self.lm_head(self.norm(x))


class Grouped(nn.Module):
    """Multi-head, grouped or multi-query attention, by the number of key heads."""

    def __init__(self, heads=4, key_heads=4, size=6, width=10, gain=1.0, bias=False):
        super().__init__()
        self.heads, self.key_heads, self.size = heads, key_heads, size
        self.q_proj = nn.Linear(width, heads * size, bias=bias)
        self.k_proj = nn.Linear(width, key_heads * size, bias=bias)
        self.v_proj = nn.Linear(width, key_heads * size, bias=bias)
        self.o_proj = nn.Linear(heads * size, width)
        self.scale = size**-0.5
        self.qk_layout = AttentionLayout.grouped(heads, key_heads, size)
        with torch.no_grad():
            self.q_proj.weight *= gain
            self.k_proj.weight *= gain

    def queries_and_keys(self, x):
        batch, length = x.shape[:2]
        q = self.q_proj(x).view(batch, length, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.key_heads, self.size).transpose(1, 2)
        return q, k

    def forward(self, x):
        batch, length = x.shape[:2]
        q, k = self.queries_and_keys(x)
        v = self.v_proj(x).view(batch, length, self.key_heads, self.size).transpose(1, 2)
        out = attend(self, q, k, v, scale=self.scale)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class Latent(nn.Module):
    """Multi-head latent attention with a shared rotary key (rotation left out: a fixed mix)."""

    def __init__(self, heads=4, content=6, rotary=4, value=5, width=12, rank=8, gain=1.0):
        super().__init__()
        self.heads, self.content, self.rotary, self.value = heads, content, rotary, value
        self.q_b_proj = nn.Linear(rank, heads * (content + rotary), bias=False)
        self.kv_b_proj = nn.Linear(rank, heads * (content + value), bias=False)
        self.kr_proj = nn.Linear(width, rotary, bias=False)
        self.down = nn.Linear(width, rank, bias=False)
        self.o_proj = nn.Linear(heads * value, width)
        self.scale = (content + rotary) ** -0.5 * 1.3
        self.qk_layout = AttentionLayout.mla(heads, content, rotary, value)
        with torch.no_grad():
            self.q_b_proj.weight *= gain
            self.kv_b_proj.weight *= gain

    def projections(self, x):
        batch, length = x.shape[:2]
        latent = functional.normalize(self.down(x), dim=-1)
        q = self.q_b_proj(latent).view(batch, length, self.heads, -1).transpose(1, 2)
        kv = self.kv_b_proj(latent).view(batch, length, self.heads, -1).transpose(1, 2)
        k_content, v = kv.split([self.content, self.value], -1)
        k_rotary = self.kr_proj(x)[:, None].expand(-1, self.heads, -1, -1)
        return q, torch.cat([k_content, k_rotary], -1), v

    def queries_and_keys(self, x):
        return self.projections(x)[:2]

    def forward(self, x):
        q, k, v = self.projections(x)
        out = attend(self, q, k, v, scale=self.scale)
        return self.o_proj(out.transpose(1, 2).flatten(2))


def naive_logits(module, x):
    """Every visible logit, the plain way: (B, H, T, S), hidden ones -inf."""
    with torch.no_grad():
        q, k = module.queries_and_keys(x)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        logits = q.double() @ k.double().mT * module.scale
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        return logits.masked_fill(hidden, -torch.inf)


def naive_maxima(module, x):
    """The maximal logit of each head."""
    return naive_logits(module, x).amax((0, 2, 3))


__all__ = [
    "GATE_UP",
    "Experts",
    "Grouped",
    "Latent",
    "Mixed",
    "Router",
    "naive_logits",
    "naive_maxima",
]
