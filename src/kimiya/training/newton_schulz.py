"""Newton–Schulz: the nearest (semi-)orthogonal matrix, by matrix products alone.

For ``X = U S Vᵀ`` the iteration ``X ← aX + b(XXᵀ)X + c(XXᵀ)²X`` sends every singular value through
one odd polynomial and leaves ``U`` and ``V`` alone, so a few steps bring ``S`` near the identity.

Invariants: works on stacks (``..., n, m``) without ever mixing two matrices; never reads or writes
outside its argument; a zero matrix stays zero; nothing is data-dependent, so nothing synchronises.

Shape suffixes: B matrices in a stack, N the shorter side, M the longer side.
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
"""M/N from which the Gram form wins: 4N²M+34N³ against 20N²M+10N³ flops at five steps, plus slack
for small products running further from peak."""


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
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    flat_BNM = torch.empty(
        (wide.shape[:-2].numel(), *wide.shape[-2:]), dtype=dtype, device=matrices.device
    )
    flat_BNM.view(wide.shape).copy_(wide)
    done = orthogonalize_wide_(flat_BNM, schedule, eps, method).view(wide.shape)
    return done if wide is matrices else done.mT


def orthogonalize_wide_(
    X_BNM: Tensor, schedule: Sequence[Triple], eps: float, method: Method = "auto"
) -> Tensor:
    """Like :func:`orthogonalize` for a contiguous stack with N ≤ M, which it consumes.

    The argument's memory is scratch afterwards; the result may or may not live in it.
    """
    X_BNM.div_(torch.linalg.vector_norm(X_BNM, dim=(-2, -1), keepdim=True).clamp_(min=eps))
    short, long = X_BNM.shape[-2:]
    if method == "gram" or (method == "auto" and long >= _GRAM_ASPECT * short):
        return _iterate_gram(X_BNM, schedule)
    return _iterate_direct(X_BNM, schedule)


def _iterate_direct(X_BNM: Tensor, schedule: Sequence[Triple]) -> Tensor:
    count, short, _ = X_BNM.shape
    gram_BNN = X_BNM.new_empty((count, short, short))
    poly_BNN = torch.empty_like(gram_BNN)
    spare_BNM = torch.empty_like(X_BNM)
    for a, b, c in schedule:
        torch.bmm(X_BNM, X_BNM.mT, out=gram_BNN)
        torch.baddbmm(gram_BNN, gram_BNN, gram_BNN, beta=b, alpha=c, out=poly_BNN)
        torch.baddbmm(X_BNM, poly_BNN, X_BNM, beta=a, out=spare_BNM)
        X_BNM, spare_BNM = spare_BNM, X_BNM
    return X_BNM


def _iterate_gram(X_BNM: Tensor, schedule: Sequence[Triple]) -> Tensor:
    """Iterate on G = XXᵀ, gather the steps' product Q, and multiply X once at the end.

    Every factor is a polynomial in G, so all commute: G_{k+1} = Z G_k Z with Z = aI + bG + cG².
    """
    G_BNN = torch.bmm(X_BNM, X_BNM.mT)
    spare_BNN = torch.empty_like(G_BNN)
    Q_BNN: Tensor | None = None
    last = len(schedule) - 1
    for step, (a, b, c) in enumerate(schedule):
        Z_BNN = torch.baddbmm(G_BNN, G_BNN, G_BNN, beta=b, alpha=c)
        Z_BNN.diagonal(dim1=-2, dim2=-1).add_(a)
        if step != last:
            torch.bmm(G_BNN, Z_BNN, out=spare_BNN)
            torch.bmm(Z_BNN, spare_BNN, out=G_BNN)
        if Q_BNN is None:
            Q_BNN = Z_BNN
        else:
            torch.bmm(Z_BNN, Q_BNN, out=spare_BNN)
            Q_BNN, spare_BNN = spare_BNN, Q_BNN
    return torch.bmm(Q_BNN, X_BNM)
