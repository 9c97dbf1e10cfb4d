"""The maximal attention logit of each head, exact where it matters and nearly free elsewhere.

``S_max[h] = scale · max q·k`` over the batch and all visible pairs, signed, with the softmax scale
the layer really uses. Fused attention returns each row's log-sum-exp, and

    S_max  ≤  max LSE  ≤  S_max + log T,

so a layer whose largest LSE is at most τ needs no clip and no second look. Only heads above it get
an exact pass, chunked over queries. Where no LSE is to be had, ‖q‖·‖k‖ is the (looser) screen.

Invariants: nothing materialises the attention matrix; a recorded value above τ is exact; a value
at or under τ may be a bound; without a record attached nothing is computed at all.

Shape suffixes: B batch, H query heads, G key heads, T queries, S keys, D head size, V value size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kimiya.errors import ConfigError

CHUNK_ELEMENTS = 1 << 20
"""Most logits held at once by the exact pass."""

_SLACK = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Relative rounding allowed to a kernel's LSE by input type; half types get 1e-2."""

RECORD = "qk_record"
"""The attribute under which a module carries its record while a clip watches it."""


class LogitRecord:
    """The running maximum of one attention module between two clips."""

    def __init__(self, heads: int, threshold: float) -> None:
        self.heads = heads
        self.threshold = threshold
        self.listening = True
        self.maximum_H: Tensor | None = None
        self.exact = False

    def reset(self) -> None:
        """Forget what was seen."""
        self.maximum_H, self.exact = None, False

    def merge(self, value_H: Tensor, *, exact: bool, head_offset: int = 0) -> None:
        """Take in one forward's values (micro-batches and recomputation combine by maximum)."""
        value_H = value_H.detach().to(torch.float32)
        if head_offset or value_H.shape[0] != self.heads:
            full_H = value_H.new_full((self.heads,), -torch.inf)
            full_H[head_offset : head_offset + value_H.shape[0]] = value_H
            value_H = full_H
        if self.maximum_H is None:
            self.maximum_H, self.exact = value_H, exact
        else:
            self.maximum_H = torch.maximum(self.maximum_H, value_H)
            self.exact = self.exact and exact

    def screen(
        self, bound_H: Tensor, look: Callable[[Tensor], Tensor], slack: float, head_offset: int
    ) -> None:
        """Merge ``bound_H``, after replacing what passes the threshold by ``look(heads)``."""
        bound_H = bound_H.detach().to(torch.float32)
        limit = self.threshold * (1.0 - slack)
        over = ~(bound_H <= limit)  # NaN counts as over: the exact pass decides
        heads = over.nonzero().flatten()
        if len(heads):
            bound_H = bound_H.clone()
            bound_H[heads] = look(heads).to(bound_H.dtype)
        self.merge(bound_H, exact=len(heads) == len(bound_H), head_offset=head_offset)


def report_max_logits(module: nn.Module, s_max_H: Tensor, *, head_offset: int = 0) -> None:
    """Report exact maxima an attention module computed itself.

    Args:
        module: the module a :class:`QKClip` knows; without one this is a no-op.
        s_max_H: signed maxima with the softmax scale, one a head this rank holds.
        head_offset: global number of the first head, when heads are sharded.

    Raises:
        ConfigError: not one value a head.
    """
    record = listening_record(module)
    if record is None:
        return
    if s_max_H.ndim != 1 or head_offset + s_max_H.shape[0] > record.heads:
        raise ConfigError(
            f"got maxima of shape {tuple(s_max_H.shape)} at head {head_offset}, want at most "
            f"({record.heads},)",
            key=type(module).__name__,
        )
    record.merge(s_max_H, exact=True, head_offset=head_offset)


def listening_record(module: nn.Module) -> LogitRecord | None:
    """The module's record when it is training and being watched."""
    record: LogitRecord | None = getattr(module, RECORD, None)
    return record if record is not None and record.listening and module.training else None


def attend(
    module: nn.Module,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSV: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    head_offset: int = 0,
) -> Tensor:
    """Scaled dot-product attention that reports its maximal logits when someone listens.

    Args:
        module: the attention module, whose record (if any) is written.
        q_BHTD: queries.
        k_BGSD: keys; H a multiple of G.
        v_BGSV: values; V may be smaller than D (padded where the fused CPU kernel wants equal).
        scale: the softmax scale in use; ``None`` is D^-0.5.
        causal: key j is visible to query i when ``j <= i + S - T``.
        mask: bool (true is visible) or additive, broadcastable to (B, H, T, S); replaces
            ``causal``.
        dropout: on the probabilities.
        head_offset: global number of the first head, when heads are sharded.

    Returns:
        (B, H, T, V).

    Raises:
        ConfigError: heads do not divide, or head sizes differ.
    """
    _check_heads(q_BHTD, k_BGSD)
    if scale is None:
        scale = float(q_BHTD.shape[-1]) ** -0.5
    if mask is None and causal and q_BHTD.shape[-2] != k_BGSD.shape[-2]:
        mask = _bottom_right(q_BHTD, k_BGSD)
    causal = causal and mask is None
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q_BHTD.dtype)
    record = listening_record(module)
    if _fits_cpu_kernel(q_BHTD, k_BGSD, v_BGSV, mask, dropout):
        out, lse_BHT = _attend_cpu(q_BHTD, k_BGSD, v_BGSV, scale, causal, mask)
    elif record is not None and _fits_cuda_kernel(q_BHTD, k_BGSD, v_BGSV, mask):
        out, lse_BHT = _attend_cuda(q_BHTD, k_BGSD, v_BGSV, scale, causal, dropout)
    else:
        grouped = q_BHTD.shape[1] != k_BGSD.shape[1]
        out = functional.scaled_dot_product_attention(
            q_BHTD, k_BGSD, v_BGSV, mask, dropout, causal, scale=scale, enable_gqa=grouped
        )
        lse_BHT = None
    if record is not None:
        observe(
            record, q_BHTD, k_BGSD, scale, causal=causal, mask=mask, lse_BHT=lse_BHT,
            head_offset=head_offset,
        )  # fmt: skip
    return out


@torch.no_grad()
def observe(
    record: LogitRecord,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    scale: float,
    *,
    causal: bool,
    mask: Tensor | None,
    lse_BHT: Tensor | None,
    head_offset: int = 0,
) -> None:
    """Screen one forward's queries and keys into ``record``.

    Args:
        record: where the maxima go.
        q_BHTD: queries as the softmax sees them (rotated).
        k_BGSD: keys, likewise.
        scale: the softmax scale.
        causal: as in :func:`attend`, with T = S.
        mask: as in :func:`attend`.
        lse_BHT: natural log-sum-exp of each row; ``None`` screens by norms. An additive mask may
            lower it under the plain logit, so it is then not used.
        head_offset: global number of the first head.
    """
    if not q_BHTD.numel() or not k_BGSD.numel():
        return
    if lse_BHT is not None and (mask is None or mask.dtype == torch.bool):
        bound_H = lse_BHT.detach()[..., : q_BHTD.shape[-2]].amax(dim=(0, 2))
        slack = _SLACK.get(q_BHTD.dtype, 1e-2)
    else:
        bound_H, slack = norm_bound(q_BHTD, k_BGSD, scale), 1e-5

    def look(heads: Tensor) -> Tensor:
        return exact_max_logits(q_BHTD, k_BGSD, scale=scale, causal=causal, mask=mask, heads=heads)

    record.screen(bound_H, look, slack, head_offset)


def norm_bound(q_BHTD: Tensor, k_BGSD: Tensor, scale: float) -> Tensor:
    """``|scale| · max‖q‖ · max‖k‖`` for each head, per batch row: never below the maximal logit."""
    repeats = q_BHTD.shape[1] // k_BGSD.shape[1]
    q_BH = torch.linalg.vector_norm(q_BHTD.detach().float(), dim=-1).amax(-1)
    k_BG = torch.linalg.vector_norm(k_BGSD.detach().float(), dim=-1).amax(-1)
    return (q_BH * k_BG.repeat_interleave(repeats, dim=1)).amax(0) * abs(scale)


@torch.no_grad()
def exact_max_logits(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    *,
    scale: float,
    causal: bool = True,
    mask: Tensor | None = None,
    heads: Tensor | None = None,
) -> Tensor:
    """The signed maximum of ``scale · q·k`` over visible pairs, for each of ``heads``.

    Chunked over queries: at most ``CHUNK_ELEMENTS`` logits exist at once (one row at least).
    A head that sees nothing gets -inf; NaN in queries or keys gives NaN.

    Raises:
        ConfigError: heads do not divide, or head sizes differ.
    """
    _check_heads(q_BHTD, k_BGSD)
    repeats = q_BHTD.shape[1] // k_BGSD.shape[1]
    if heads is None:
        heads = torch.arange(q_BHTD.shape[1], device=q_BHTD.device)
    T, S = q_BHTD.shape[-2], k_BGSD.shape[-2]
    if causal and T != S and mask is None:
        mask = _bottom_right(q_BHTD, k_BGSD)
    found = [
        _head_maximum(
            q_BHTD[:, head], k_BGSD[:, head // repeats], scale, causal, _mask_of(mask, head)
        )
        for head in heads.tolist()
    ]
    return torch.stack(found) if found else q_BHTD.new_empty(0, dtype=torch.float32)


def _head_maximum(
    q_BTD: Tensor, k_BSD: Tensor, scale: float, causal: bool, visible: Tensor | None
) -> Tensor:
    q_BTD, k_BSD = _at_least_float32(q_BTD), _at_least_float32(k_BSD)
    batch, T = q_BTD.shape[:2]
    each = max(1, CHUNK_ELEMENTS // max(1, batch * k_BSD.shape[1]))
    best = torch.full((), -torch.inf, device=q_BTD.device)
    for start in range(0, T, each):
        stop = min(T, start + each)
        seen = stop if causal and visible is None else k_BSD.shape[1]
        logits = torch.matmul(q_BTD[:, start:stop], k_BSD[:, :seen].mT).mul_(scale)
        if visible is not None:
            logits.masked_fill_(~visible[..., _rows(visible, start, stop), :], -torch.inf)
        elif causal:
            hidden = logits.new_ones((stop - start, stop - start), dtype=torch.bool).triu_(1)
            logits[..., start:stop].masked_fill_(hidden, -torch.inf)
        best = torch.maximum(best, logits.amax().to(best.dtype))
    return best


def _rows(visible: Tensor, start: int, stop: int) -> slice:
    return slice(None) if visible.shape[-2] == 1 else slice(start, stop)


def _at_least_float32(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _mask_of(mask: Tensor | None, head: int) -> Tensor | None:
    """The visibility of one head's pairs, ``(B or 1, T or 1, S)``."""
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        mask = mask > torch.finfo(mask.dtype).min / 2
    while mask.ndim < 4:
        mask = mask[None]
    return mask[:, 0 if mask.shape[1] == 1 else head]


def _bottom_right(q_BHTD: Tensor, k_BGSD: Tensor) -> Tensor:
    T, S = q_BHTD.shape[-2], k_BGSD.shape[-2]
    return torch.ones((T, S), dtype=torch.bool, device=q_BHTD.device).tril(S - T)


def _check_heads(q_BHTD: Tensor, k_BGSD: Tensor) -> None:
    if q_BHTD.ndim != 4 or k_BGSD.ndim != 4 or q_BHTD.shape[-1] != k_BGSD.shape[-1]:
        raise ConfigError(
            f"queries {tuple(q_BHTD.shape)} and keys {tuple(k_BGSD.shape)} do not match",
            remedy="Both are (batch, heads, positions, size) with the same size",
        )
    if q_BHTD.shape[1] % max(1, k_BGSD.shape[1]):
        raise ConfigError(
            f"{q_BHTD.shape[1]} query heads do not divide into {k_BGSD.shape[1]} key heads"
        )


def _fits_cpu_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> bool:
    return (
        q.device.type == "cpu"
        and dropout == 0.0
        and v.shape[-1] <= q.shape[-1]
        and q.dtype == k.dtype == v.dtype
        and q.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        and bool(q.numel())
        and bool(k.numel())
        and (mask is None or not mask.requires_grad)
    )


def _attend_cpu(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The fused CPU kernel. It wants equal head sizes, so values are padded and cut again: about
    2.4 times faster than the unfused path SDPA would fall to."""
    width = v.shape[-1]
    padded = functional.pad(v, (0, q.shape[-1] - width)) if width < q.shape[-1] else v
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros((), dtype=q.dtype).where(mask, -torch.inf)
        mask = mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    out, lse_BHT = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, padded, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out[..., :width], lse_BHT


def _fits_cuda_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    return (
        q.device.type == "cuda"
        and mask is None
        and q.dtype in (torch.bfloat16, torch.float16)
        and v.shape[-1] <= q.shape[-1] <= 256
        and torch.backends.cuda.flash_sdp_enabled()
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )


def _attend_cuda(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, dropout: float
) -> tuple[Tensor, Tensor]:
    """FlashAttention with its LSE; head sizes are padded to a multiple of eight."""
    width, size = v.shape[-1], -(-q.shape[-1] // 8) * 8
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    q, k, v = (functional.pad(t, (0, size - t.shape[-1])) for t in (q, k, v))
    out, lse_BHT, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, dropout, causal, False, scale=scale
    )
    return out[..., :width], lse_BHT
