"""Newton–Schulz: the nearest (semi-)orthogonal matrix, by matrix products alone.

For ``X = U S Vᵀ`` the iteration ``X ← aX + b(XXᵀ)X + c(XXᵀ)²X`` sends every singular value through
one odd polynomial and leaves ``U`` and ``V`` alone, so a few steps bring ``S`` near the identity.

Invariants: works on stacks (``..., n, m``) without ever mixing two matrices; never reads or writes
outside its argument; a zero matrix stays zero; nothing is data-dependent, so nothing synchronises.

Shape suffixes: B matrices in a stack, N rows, M columns, S the shorter of the two.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kimiya.errors import ConfigError

Triple = tuple[float, float, float]
"""The odd quintic's coefficients ``(a, b, c)`` of one step."""

Coefficients = str | Triple | Sequence[Triple]
"""A schedule's name, one triple for every step, or one triple a step (the last repeats)."""

Method = Literal["auto", "direct", "gram"]
"""``direct`` iterates on X; ``gram`` on XXᵀ and touches X twice; ``auto`` takes the cheaper."""

_GRAM_ASPECT = 1.75
"""Long over short side from which the Gram form wins: 4S²L+34S³ against 20S²L+10S³ flops at five
steps, plus slack for small products running further from peak."""


def _relax(triples: Sequence[Triple], factor: float) -> tuple[Triple, ...]:
    """The same polynomials on a slightly wider interval: rounding may lift a value above one."""
    return tuple((a / factor, b / factor**3, c / factor**5) for a, b, c in triples)


SCHEDULES: dict[str, tuple[Triple, ...]] = {
    # K. Jordan, "Muon" (2024), https://kellerjordan.github.io/posts/muon/ ; also Moonlight
    # (arXiv 2502.16982) and torch.optim.Muon. Singular values land in about 0.68..1.20.
    "jordan": ((3.4445, -4.7750, 2.0315),),
    # Amsel et al., "The Polar Express" (arXiv 2505.16932), Algorithm 1: minimax-optimal step by
    # step for a smallest singular value of 1e-3; relaxed by 1.01 except for the limit polynomial.
    "polar_express": (
        *_relax(
            (
                (8.28721201814563, -23.595886519098837, 17.300387312530933),
                (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
                (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
            ),
            1.01,
        ),
        (1.875, -1.25, 0.375),
    ),
    # Ours: each step minimax on the interval the one before leaves, from a smallest singular value
    # of 3e-3 of the Frobenius norm (each equioscillates, as a test checks). With ns_steps=4 values
    # land in 0.80..1.20: nearer to one than Jordan's five steps, at four fifths of the cost.
    "four_step": (
        (8.383673612923161, -24.765905857974516, 18.35708189288758),
        (4.043420433700424, -3.0114049938415297, 0.5695121503191817),
        (3.5055706172438916, -2.6266538356180993, 0.5257194048203219),
        (2.490115939444255, -1.8342750827526706, 0.4368347068947254),
    ),
}
"""Named coefficient schedules, each with the source it was taken from."""

DEFAULT_COEFFICIENTS: Triple = SCHEDULES["jordan"][0]
"""What torch.optim.Muon, Moonlight and Kimi K2's published code use."""


def resolve_schedule(coefficients: Coefficients, steps: int) -> tuple[Triple, ...]:
    """The triples of ``steps`` iterations.

    Raises:
        ConfigError: an unknown name, a step count outside 1..99, or something that is no triple.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps < 100:
        raise ConfigError(f"ns_steps is {steps!r}", key="ns_steps", remedy="Use 1 to 99, usually 5")
    if isinstance(coefficients, str):
        if coefficients not in SCHEDULES:
            raise ConfigError(
                f"no Newton–Schulz schedule is named {coefficients!r}",
                key="ns_coefficients",
                remedy=f"Use one of {sorted(SCHEDULES)} or coefficients (a, b, c)",
            )
        triples = SCHEDULES[coefficients]
    else:
        triples = _read_triples(coefficients)
    return tuple(triples[min(step, len(triples) - 1)] for step in range(steps))


def _read_triples(coefficients: Triple | Sequence[Triple]) -> tuple[Triple, ...]:
    listed = list(coefficients)
    rows = [listed] if listed and not isinstance(listed[0], (tuple, list)) else listed
    try:
        triples = tuple((float(a), float(b), float(c)) for a, b, c in rows)  # type: ignore[misc]
    except (TypeError, ValueError) as cause:
        raise ConfigError(
            f"{coefficients!r} is neither (a, b, c) nor a list of such",
            key="ns_coefficients",
        ) from cause
    if not triples or not all(math.isfinite(value) for row in triples for value in row):
        raise ConfigError(f"{coefficients!r} is empty or not finite", key="ns_coefficients")
    return triples


def default_dtype(device: torch.device) -> torch.dtype:
    """The iteration's precision: bfloat16 where tensor cores are, float32 elsewhere.

    Forced bfloat16 is several times slower on a CPU without matrix units (``bench/muonclip.py``).
    """
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def orthogonalize(
    matrices: Tensor,
    *,
    ns_steps: int = 5,
    ns_coefficients: Coefficients = DEFAULT_COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
    method: Method = "auto",
) -> Tensor:
    """Each matrix of a stack with its singular values brought near one.

    Args:
        matrices: ``(..., n, m)``, any float type; left untouched.
        ns_steps: iterations.
        ns_coefficients: a name in ``SCHEDULES``, one triple, or one a step.
        eps: floor of the Frobenius norm each matrix is divided by first.
        dtype: precision of the iteration; ``None`` picks by device.
        method: ``direct``, ``gram`` or the cheaper by aspect ratio.

    Returns:
        A tensor of the same shape in ``dtype``.

    Raises:
        ConfigError: fewer than two dimensions, or a bad schedule.

    >>> import torch
    >>> o = orthogonalize(torch.randn(8, 32), ns_coefficients="polar_express")
    >>> bool(((torch.linalg.svdvals(o) - 1).abs() < 0.2).all())
    True
    """
    if matrices.ndim < 2:
        raise ConfigError(f"a tensor of shape {tuple(matrices.shape)} is no matrix")
    schedule = resolve_schedule(ns_coefficients, ns_steps)
    dtype = dtype or default_dtype(matrices.device)
    if matrices.numel() == 0:
        return matrices.to(dtype)
    shape = matrices.shape
    stack_BNM = torch.empty((shape[:-2].numel(), *shape[-2:]), dtype=dtype, device=matrices.device)
    stack_BNM.view(shape).copy_(matrices)
    return orthogonalize_stack_(stack_BNM, schedule, eps, method).view(shape)


def orthogonalize_stack_(
    X_BNM: Tensor, schedule: Sequence[Triple], eps: float, method: Method = "auto"
) -> Tensor:
    """Like :func:`orthogonalize` for a contiguous stack, which it consumes.

    The argument's memory is scratch afterwards; the result may or may not live in it. Wide
    matrices are multiplied from the left by polynomials in XXᵀ, tall ones from the right by
    polynomials in XᵀX, so nothing is ever transposed in memory.
    """
    Z_BSS, X_BNM = last_factor_(X_BNM, schedule, eps, method)
    return X_BNM if Z_BSS is None else _times(Z_BSS, X_BNM, None)


def last_factor_(
    X_BNM: Tensor, schedule: Sequence[Triple], eps: float, method: Method = "auto"
) -> tuple[Tensor | None, Tensor]:
    """All but the last product: ``(Z, X)`` whose product is the result; Z ``None``: X is.

    Z stands left of X for wide matrices and right of it for tall ones, so a caller may accumulate
    the product straight into a weight. Below float32 the identity's share is kept out of Z (it
    would round the rest away), so the product is made here, and ``auto`` iterates on X only.
    """
    if X_BNM.dtype.itemsize < 4:
        X_BNM.div_(torch.linalg.vector_norm(X_BNM, dim=(-2, -1), keepdim=True).clamp_(min=eps))
        if method == "gram":
            return _collect_factors(_gram(X_BNM, None), schedule), X_BNM
        return None, _iterate_low(X_BNM, schedule)
    gram_BSS = _gram(X_BNM, None)
    # ‖X‖² is the trace of XXᵀ, which is there already; norms over two axes are slow on CPUs.
    square_B = gram_BSS.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].clamp_(min=eps * eps)
    gram_BSS.div_(square_B)
    short, long = sorted(X_BNM.shape[-2:])
    if method == "gram" or (method == "auto" and long >= _GRAM_ASPECT * short):
        return _collect_factors(gram_BSS, schedule).div_(square_B.sqrt_()), X_BNM
    return _iterate(X_BNM.div_(square_B.sqrt_()), gram_BSS, schedule)


def _iterate_low(X_BNM: Tensor, schedule: Sequence[Triple]) -> Tensor:
    """Every step on X itself, as torch.optim.Muon rounds it."""
    spare_BNM = torch.empty_like(X_BNM)
    wide = X_BNM.shape[-2] <= X_BNM.shape[-1]
    for a, b, c in schedule:
        G_BSS = _gram(X_BNM, None)
        P_BSS = torch.baddbmm(G_BSS, G_BSS, G_BSS, beta=b, alpha=c)
        left, right = (P_BSS, X_BNM) if wide else (X_BNM, P_BSS)
        torch.baddbmm(X_BNM, left, right, beta=a, out=spare_BNM)
        X_BNM, spare_BNM = spare_BNM, X_BNM
    return X_BNM


def _gram(X_BNM: Tensor, out: Tensor | None) -> Tensor:
    if X_BNM.shape[-2] <= X_BNM.shape[-1]:
        return torch.bmm(X_BNM, X_BNM.mT, out=out)
    return torch.bmm(X_BNM.mT, X_BNM, out=out)


def _times(Z_BSS: Tensor, X_BNM: Tensor, out: Tensor | None) -> Tensor:
    if X_BNM.shape[-2] <= X_BNM.shape[-1]:
        return torch.bmm(Z_BSS, X_BNM, out=out)
    return torch.bmm(X_BNM, Z_BSS, out=out)


def _polynomial(G_BSS: Tensor, triple: Triple, out: Tensor | None) -> Tensor:
    """``aI + bG + cG²``."""
    a, b, c = triple
    Z_BSS = torch.baddbmm(G_BSS, G_BSS, G_BSS, beta=b, alpha=c, out=out)
    Z_BSS.diagonal(dim1=-2, dim2=-1).add_(a)
    return Z_BSS


def _iterate(X_BNM: Tensor, G_BSS: Tensor, schedule: Sequence[Triple]) -> tuple[Tensor, Tensor]:
    """Apply every step but the last to X; return the last step's factor with it."""
    Z_BSS = torch.empty_like(G_BSS)
    spare_BNM = torch.empty_like(X_BNM) if len(schedule) > 1 else X_BNM
    last = len(schedule) - 1
    for step, triple in enumerate(schedule):
        _polynomial(G_BSS, triple, Z_BSS)
        if step != last:
            _times(Z_BSS, X_BNM, spare_BNM)
            X_BNM, spare_BNM = spare_BNM, X_BNM
            _gram(X_BNM, G_BSS)
    return Z_BSS, X_BNM


def _collect_factors(G_BSS: Tensor, schedule: Sequence[Triple]) -> Tensor:
    """The product of all steps' factors, from the Gram matrix alone.

    Every factor is a polynomial in G, so all commute: G_{k+1} = Z G_k Z with Z = aI + bG + cG².
    """
    spare_BSS = torch.empty_like(G_BSS)
    Q_BSS: Tensor | None = None
    last = len(schedule) - 1
    for step, triple in enumerate(schedule):
        Z_BSS = _polynomial(G_BSS, triple, None)
        if step != last:
            torch.bmm(G_BSS, Z_BSS, out=spare_BSS)
            torch.bmm(Z_BSS, spare_BSS, out=G_BSS)
        if Q_BSS is None:
            Q_BSS = Z_BSS
        else:
            torch.bmm(Z_BSS, Q_BSS, out=spare_BSS)
            Q_BSS, spare_BSS = spare_BSS, Q_BSS
    assert Q_BSS is not None  # a schedule has at least one step
    return Q_BSS
