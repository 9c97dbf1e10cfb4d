# ruff: noqa: N803, N806 - tensors carry shape suffixes
"""QK-Clip does what it is for: a small transformer whose logits explode with Muon and not here.

    python bench/qk_clip.py [--quick] [--json] [--plot docs/img/qk-clip.png] [--seeds 5]

A two-layer transformer without query or key norms learns an associative-recall task at a learning
rate far above what is sane, with no weight decay: the recipe under which attention logits grow
without bound. Each seed runs twice from the same weights on the same batches: Muon alone, and Muon
with QK-Clip (MuonClip). Every step's maximal logit is measured exactly, by this file's own naive
computation and not by the product's.

Figures (last line with --json): ``muon_max_logit`` (smallest of the seeds' peaks, so all passed
it), ``muonclip_max_logit`` (largest of any step of any seed), ``tau``, ``loss_muon`` and
``loss_muonclip`` (mean over seeds of the median of the last tenth of steps), the same for the
paper's rule without headroom, and ``clipped_steps_share``.
"""

import argparse
import json
import platform
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kimiya.training import AttentionLayout, MuonClip, QKClip, attend

TAU = 100.0
HEADROOM = 0.35
"""QK-Clip acts on the forward just done, so the next one may stand higher by a step's growth and a
batch's luck: here up to 1.4 times, at a learning rate hundreds of times Kimi K2's. Heads are
therefore clipped to 65. The paper's rule (0) is run too and its overshoot is reported."""
VOCABULARY, WIDTH, HEADS, LAYERS, PAIRS = 64, 64, 4, 2, 16


class Attention(nn.Module):
    """Multi-head causal attention without any norm on queries or keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )
        self.qk_layout = AttentionLayout.grouped(HEADS, HEADS, WIDTH // HEADS)
        self.seen = 0.0

    def forward(self, x_BTW: Tensor) -> Tensor:
        shape = (*x_BTW.shape[:2], HEADS, WIDTH // HEADS)
        q, k, v = (
            p(x_BTW).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        with torch.no_grad():
            logits = (q @ k.mT) * (WIDTH // HEADS) ** -0.5
            visible = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
            self.seen = logits.masked_fill(~visible, -torch.inf).max().item()
        out = attend(self, q, k, v)
        return self.o_proj(out.transpose(1, 2).reshape(x_BTW.shape))


class Block(nn.Module):
    """Pre-norm attention and a two-layer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.before, self.between = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self.attention(self.before(x_BTW))
        return x_BTW + self.down(functional.gelu(self.up(self.between(x_BTW))))


class Recaller(nn.Module):
    """Embeddings, blocks, an output head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(2 * PAIRS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.lm_head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embedding(tokens_BT) + self.positions.weight[: tokens_BT.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


def batch(generator: torch.Generator, size: int = 32) -> tuple[Tensor, Tensor]:
    """Key-value pairs; from the second half on, keys repeat and their value is to be recalled."""
    keys = torch.randint(0, VOCABULARY // 2, (size, PAIRS // 2), generator=generator)
    values = torch.randint(VOCABULARY // 2, VOCABULARY, (size, PAIRS // 2), generator=generator)
    order = torch.stack([torch.randperm(PAIRS // 2, generator=generator) for _ in range(size)])
    keys = torch.cat([keys, keys.gather(1, order)], 1)
    # A key drawn twice in the first half has two values: the later one counts.
    values = torch.cat([values, values.gather(1, order)], 1)
    tokens = torch.stack([keys, values], -1).flatten(1)
    targets = torch.full_like(tokens, -100)
    targets[:, PAIRS::2] = tokens[:, PAIRS + 1 :: 2]
    return tokens, targets


@dataclass(frozen=True)
class Recipe:
    """One arm of one experiment."""

    lr: float
    steps: int
    clipped: bool
    headroom: float = 0.0


def run(seed: int, recipe: Recipe) -> dict[str, list[float]]:
    """One training run; per step the loss, the exact maximal logit and the head clips."""
    torch.manual_seed(seed)
    model = Recaller()
    clip = QKClip(model, tau=TAU, headroom=recipe.headroom) if recipe.clipped else None
    optimizer = MuonClip(model, lr=recipe.lr, weight_decay=0.0, qk_clip=clip)
    generator = torch.Generator().manual_seed(1000 + seed)
    curve: dict[str, list[float]] = {"loss": [], "max_logit": [], "clips": []}
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 20)
        tokens, targets = batch(generator)
        loss = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        before = sum(clip.total_clips.values()) if clip else 0
        optimizer.step()
        curve["loss"].append(loss.item())
        curve["max_logit"].append(max(block.attention.seen for block in model.blocks))
        curve["clips"].append(float(sum(clip.total_clips.values()) - before) if clip else 0.0)
    return curve


def final_loss(curve: dict[str, list[float]]) -> float:
    """The median of the last tenth."""
    return statistics.median(curve["loss"][-max(1, len(curve["loss"]) // 10) :])


def plot(arms: dict[str, list[dict[str, list[float]]]], path: str) -> None:
    """Maximal logit (log scale) and loss over steps, one faint line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (logits, losses) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for (name, curves), colour in zip(
        arms.items(), ("tab:red", "tab:blue", "tab:gray"), strict=True
    ):
        for seed, curve in enumerate(curves):
            label = name if seed == 0 else None
            logits.semilogy(curve["max_logit"], color=colour, alpha=0.6, lw=0.8, label=label)
            smooth = [statistics.median(curve["loss"][max(0, i - 10) : i + 11])
                      for i in range(len(curve["loss"]))]  # fmt: skip
            losses.plot(smooth, color=colour, alpha=0.6, lw=0.8, label=label)
    logits.axhline(TAU, color="black", ls="--", lw=0.8)
    logits.text(2, TAU * 1.08, f"τ = {TAU:g}")
    logits.set(xlabel="step", ylabel="largest attention logit of the batch, exact")
    losses.set(xlabel="step", ylabel="loss (running median of 21)")
    logits.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the arms, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer and larger steps")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object at the end")
    parser.add_argument("--plot", metavar="PNG", help="write the curves")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    lr, steps, seeds = (0.06, 200, 1) if asked.quick else (0.03, 600, asked.seeds)
    recipes = {
        "Muon": Recipe(lr, steps, clipped=False),
        f"MuonClip, headroom {HEADROOM:g}": Recipe(lr, steps, True, HEADROOM),
        "MuonClip, the paper's rule": Recipe(lr, steps, True, 0.0),
    }
    arms: dict[str, list[dict[str, list[float]]]] = {}
    for name, recipe in recipes.items():
        arms[name] = [run(seed, recipe) for seed in range(seeds)]
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; "
          f"torch {torch.__version__}, Python {platform.python_version()}")  # fmt: skip
    print(f"{seeds} seeds, {steps} steps, lr {lr:g}, no weight decay, τ = {TAU:g}")
    print(f"{'arm':<28} {'peak logit: min–max of seeds':>30} {'final loss: mean ± sd':>22} clips")
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for name, curves in arms.items():
        peaks = [max(curve["max_logit"]) for curve in curves]
        losses = [final_loss(curve) for curve in curves]
        rows[name] = peaks, losses
        clips = sum(sum(curve["clips"]) for curve in curves)
        spread = statistics.stdev(losses) if seeds > 1 else 0.0
        print(f"{name:<28} {min(peaks):>14.1f} – {max(peaks):<13.1f} "
              f"{statistics.mean(losses):>14.3f} ± {spread:<5.3f} {clips:.0f}")  # fmt: skip
    if asked.plot:
        plot(arms, asked.plot)
    if asked.json:
        (muon, muon_loss), (clip, clip_loss), (paper, paper_loss) = rows.values()
        acted = [c > 0 for curve in list(arms.values())[1] for c in curve["clips"]]
        print(json.dumps({
            "tau": TAU, "seeds": seeds, "steps": steps,
            "muon_max_logit": min(muon), "muonclip_max_logit": max(clip),
            "paper_rule_max_logit": max(paper),
            "loss_muon": statistics.mean(muon_loss), "loss_muonclip": statistics.mean(clip_loss),
            "loss_paper_rule": statistics.mean(paper_loss),
            "clipped_steps_share": sum(acted) / len(acted),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
