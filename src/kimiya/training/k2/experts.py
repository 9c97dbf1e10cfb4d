"""Feed-forward layers: one dense, or many experts of which each token takes a few.

Routing is DeepSeek-V3's, without an auxiliary loss: sigmoid scores choose the experts after a bias
is added, and weigh them without it. The bias is no parameter: `ExpertRouter.balance` moves it, once
an optimizer step, towards even loads (arXiv 2408.15664). Loads are counted while training.

Shapes: N tokens, E hidden width, I expert width, X experts, K experts a token, G groups.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kimiya.training.k2.config import K2Config

__all__ = ["ExpertMixture", "ExpertRouter", "FeedForward", "RoutedExperts", "balance_experts"]


class FeedForward(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) · up(x))``."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any leading shape; the last dimension is the hidden width."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ExpertRouter(nn.Module):
    """Which experts each token takes, and with what weight."""

    tokens_per_expert_X: Tensor
    """Tokens routed to each expert while training, since the last `balance`."""

    def __init__(self, config: K2Config) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.register_buffer(
            "tokens_per_expert_X", torch.zeros(config.n_routed_experts), persistent=False
        )

    def forward(self, x_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices of the chosen experts, each of shape (N, K).

        Scores are computed in float32: near-ties decide which expert learns.
        """
        scores_NX = F.linear(x_NE.float(), self.weight.float()).sigmoid()
        chosen_NK = self._choose(scores_NX.detach())
        weights_NK = scores_NX.gather(1, chosen_NK)
        if self.config.norm_topk_prob:
            weights_NK = weights_NK / (weights_NK.sum(dim=-1, keepdim=True) + 1e-20)
        if self.training:
            count_X = torch.bincount(chosen_NK.flatten(), minlength=scores_NX.shape[1])
            self.tokens_per_expert_X += count_X.to(self.tokens_per_expert_X.dtype)
        return weights_NK * self.config.routed_scaling_factor, chosen_NK

    def _choose(self, scores_NX: Tensor) -> Tensor:
        biased_NX = scores_NX + self.e_score_correction_bias
        groups = self.config.n_group
        if groups > 1:
            grouped_NGX = biased_NX.unflatten(1, (groups, -1))
            best_NG = grouped_NGX.topk(min(2, grouped_NGX.shape[-1]), dim=-1).values.sum(dim=-1)
            kept_NG = best_NG.topk(self.config.topk_group, dim=-1, sorted=False).indices
            outside_NG = torch.ones_like(best_NG, dtype=torch.bool).scatter_(1, kept_NG, False)
            biased_NX = grouped_NGX.masked_fill(outside_NG[..., None], float("-inf")).flatten(1)
        return biased_NX.topk(self.config.num_experts_per_tok, dim=-1, sorted=False).indices

    @torch.no_grad()
    def balance(self, rate: float) -> float:
        """Move the bias by ``rate`` towards even loads; return the load's violation.

        The violation is ``max load / mean load - 1``, over all ranks: 0 is perfect balance. With
        no token counted nothing moves.
        """
        load_X = self.tokens_per_expert_X.clone()
        self.tokens_per_expert_X.zero_()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(load_X)
        mean = load_X.mean()
        if mean == 0:
            return 0.0
        self.e_score_correction_bias += rate * torch.sign(mean - load_X)
        return float(load_X.max() / mean - 1)


class RoutedExperts(nn.Module):
    """All experts of a layer, stacked: gate over up in one tensor, down in another."""

    quantize: nn.Module | None
    """What the weights go through before use: the INT4 grid in quantisation-aware training."""

    def __init__(self, config: K2Config) -> None:
        super().__init__()
        experts, hidden, width = (
            config.n_routed_experts,
            config.hidden_size,
            config.moe_intermediate_size,
        )
        # Set here and not on the class, where it would hide the module that replaces it.
        self.quantize = None
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x_NE: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        """The weighted sum of each token's experts.

        Tokens are sorted by expert so that each expert is one pair of dense products.
        """
        order_M = chosen_NK.flatten().argsort(stable=True)
        token_M = order_M // chosen_NK.shape[1]
        loads = torch.bincount(chosen_NK.flatten(), minlength=self.down_proj.shape[0]).tolist()
        gate_up_X2IE, down_XEI = self.gate_up_proj, self.down_proj
        if self.quantize is not None:
            gate_up_X2IE, down_XEI = self.quantize(gate_up_X2IE), self.quantize(down_XEI)
        # Idle experts are skipped only where no gradient is wanted: in training each must get one,
        # if of zeros, on every rank.
        is_learning = torch.is_grad_enabled()
        outputs = [
            F.linear(_swiglu(F.linear(x_ME, gate_up_2IE)), down_EI)
            for x_ME, gate_up_2IE, down_EI in zip(
                x_NE[token_M].split(loads), gate_up_X2IE.unbind(), down_XEI.unbind(), strict=True
            )
            if is_learning or len(x_ME)
        ]
        weight_M1 = weights_NK.flatten()[order_M, None].to(x_NE.dtype)
        return torch.zeros_like(x_NE).index_add(0, token_M, torch.cat(outputs) * weight_M1)


class ExpertMixture(nn.Module):
    """Routed experts, plus the shared one every token goes through."""

    def __init__(self, config: K2Config) -> None:
        super().__init__()
        self.gate = ExpertRouter(config)
        self.experts = RoutedExperts(config)
        self.shared_experts = (
            FeedForward(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)
            if config.n_shared_experts
            else None
        )

    def forward(self, x_BTE: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """The mixture at each token; nothing at padding, where ``real_BT`` is False.

        Padding takes no expert and is counted in no load.
        """
        x_NE = x_BTE.flatten(0, -2) if real_BT is None else x_BTE[real_BT]
        mixed_NE = self.experts(x_NE, *self.gate(x_NE))
        if self.shared_experts is not None:
            mixed_NE = mixed_NE + self.shared_experts(x_NE)
        if real_BT is None:
            return mixed_NE.view_as(x_BTE)
        return torch.zeros_like(x_BTE).index_put((real_BT,), mixed_NE)


def balance_experts(model: nn.Module, *, rate: float = 1e-3) -> dict[str, float]:
    """Balance every router of ``model``; call once after each optimizer step.

    Returns each router's load violation by module name. Every rank must call it.
    """
    return {
        name: module.balance(rate)
        for name, module in model.named_modules()
        if isinstance(module, ExpertRouter)
    }


def _swiglu(gate_up_M2I: Tensor) -> Tensor:
    gate_MI, up_MI = gate_up_M2I.chunk(2, dim=-1)
    return F.silu(gate_MI) * up_MI
