# ruff: noqa: N803, N806 - tensors carry shape suffixes
"""What MuonClip costs, beside torch.optim.Muon, fused AdamW and public Muon packages.

    python bench/muonclip.py [--quick] [--json]

Measured in one run, in process CPU time (machines are shared), as the least of several rounds in
which the contenders take turns; the spread printed is (median - least) / least.

* dense: a transformer of 5.8M parameters, 4,096 tokens a step. Optimizer step alone, and the whole
  training step against fused AdamW's.
* experts: the tensors of a small mixture model, three layers of 48 experts. torch.optim.Muon
  refuses stacks, so it gets every expert's matrices one by one; MuonClip gets the fused stacks.
* QK-Clip: the dense training step with logits watched and under τ, against the same unwatched;
  ``qk_clip_overhead_clipping`` is the worst case in which every head of every layer is over τ.
* memory: the process's peak resident set over training steps, in a process of its own for each.

Figures (last line with --json): ``step_vs_torch_muon``, ``moe_step_vs_torch_muon``,
``training_step_vs_adamw``, ``qk_clip_overhead``, ``peak_memory_vs_torch_muon``.
"""

import argparse
import gc
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from kimiya.training import GATE_UP, WHOLE, AttentionLayout, MuonClip, QKClip, attend

VOCABULARY, WIDTH, HEADS, LAYERS, BATCH, LENGTH = 4096, 256, 8, 6, 8, 512
MOE_LAYERS, EXPERTS, MOE_WIDTH, EXPERT_WIDTH = 3, 48, 192, 96
BASE = {"lr": 1e-3, "weight_decay": 0.1}


class Block(nn.Module):
    """Pre-norm attention and a gated perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH)
        self.before, self.between = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qk_layout = AttentionLayout.grouped(HEADS, HEADS, WIDTH // HEADS)

    def forward(self, x_BTW: Tensor) -> Tensor:
        h = self.before(x_BTW)
        q, k, v = (
            p(h).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        x_BTW = x_BTW + self.o_proj(attend(self, q, k, v).transpose(1, 2).flatten(2))
        return x_BTW + self.down(functional.gelu(self.up(self.between(x_BTW))))


class Dense(nn.Module):
    """A small language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embedding(tokens_BT)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


Parts = tuple[list[nn.Parameter], list[nn.Parameter]]
"""Matrices, and everything else."""


def dense_parts(model: nn.Module) -> Parts:
    """The dense model's matrices but for embedding and head, and the rest."""
    skip = id(model.embedding.weight)
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) != skip]
    return matrices, [p for p in model.parameters() if p.ndim != 2 or id(p) == skip]


def expert_stacks() -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Plain matrices, fused gate-up stacks and down stacks of a small mixture model."""
    W, E, inner = MOE_WIDTH, EXPERTS, EXPERT_WIDTH
    plain, gate_up, down = [], [], []
    for _ in range(MOE_LAYERS):
        plain += [nn.Parameter(torch.randn(s) * 0.02) for s in ((W, W), (W, 96), (W, W), (96, W))]
        gate_up.append(nn.Parameter(torch.randn(E, 2 * inner, W) * 0.02))
        down.append(nn.Parameter(torch.randn(E, W, inner) * 0.02))
    return plain, gate_up, down


def give_gradients(params: list[nn.Parameter]) -> None:
    """Random gradients, once."""
    for p in params:
        p.grad = torch.randn_like(p)


def torch_muon(parts: Parts) -> list[torch.optim.Optimizer]:
    """What torch's documentation says: two optimizers."""
    return [
        torch.optim.Muon(parts[0], adjust_lr_fn="match_rms_adamw", **BASE),
        torch.optim.AdamW(parts[1], fused=True, **BASE),
    ]


def muonclip(parts: Parts) -> list[torch.optim.Optimizer]:
    """Ours, as it comes."""
    groups = [
        {"params": parts[0], "algorithm": "muon"},
        {"params": parts[1], "algorithm": "adamw"},
    ]
    return [MuonClip(groups, **BASE)]


def muonclip_four_step(parts: Parts) -> list[torch.optim.Optimizer]:
    """Ours with the four-step schedule."""
    groups = [
        {"params": parts[0], "algorithm": "muon", "ns_coefficients": "four_step", "ns_steps": 4},
        {"params": parts[1], "algorithm": "adamw"},
    ]
    return [MuonClip(groups, **BASE)]


def adamw(parts: Parts) -> list[torch.optim.Optimizer]:
    """Everything by fused AdamW."""
    return [torch.optim.AdamW([*parts[0], *parts[1]], fused=True, **BASE)]


def pytorch_optimizer_muon(parts: Parts) -> list[torch.optim.Optimizer]:
    """The public package pytorch-optimizer."""
    from pytorch_optimizer import Muon

    groups = [
        {"params": parts[0], "use_muon": True, **BASE},
        {"params": parts[1], "use_muon": False, **BASE},
    ]
    return [Muon(groups)]


def muonium_muon(parts: Parts) -> list[torch.optim.Optimizer]:
    """The public package muonium."""
    from muonium import Muon

    groups = [
        {"params": parts[0], "algorithm": "muon"},
        {"params": parts[1], "algorithm": "adamw"},
    ]
    return [Muon(groups, **BASE)]


CONTENDERS: dict[str, Callable[[Parts], list[torch.optim.Optimizer]]] = {
    "MuonClip": muonclip,
    "MuonClip, four_step": muonclip_four_step,
    "torch.optim.Muon": torch_muon,
    "AdamW fused": adamw,
}
PACKAGES = {"pytorch_optimizer": pytorch_optimizer_muon, "muonium": muonium_muon}


def cpu_ms(run: Callable[[], None]) -> float:
    """Process CPU time of one call, in milliseconds."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def take_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Each contender once a round, after one round unmeasured."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(cpu_ms(run))
    return times


def table(title: str, times: dict[str, list[float]], against: str) -> dict[str, float]:
    """Print one measurement; returns least times."""
    least = {name: min(values) for name, values in times.items()}
    print(f"\n{title}")
    for name, values in times.items():
        spread = (statistics.median(values) - least[name]) / least[name]
        print(f"  {name:<28} {least[name]:>9.1f} ms   {least[name] / least[against]:>6.3f} of "
              f"{against}   spread {spread:.0%}")  # fmt: skip
    return least


def contenders() -> dict[str, Callable[[Parts], list[torch.optim.Optimizer]]]:
    """Ours, torch's, and the packages that are installed and accept these parameters."""
    found = dict(CONTENDERS)
    for package, build in PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            print(f"  {package}: not installed, left out")
            continue
        trial = (
            [nn.Parameter(torch.zeros(2, 2))],
            [nn.Parameter(torch.zeros(2))],
        )
        give_gradients([*trial[0], *trial[1]])
        try:
            for optimizer in build(trial):
                optimizer.step()
        except Exception as error:  # a foreign package may refuse in any way: say so and go on
            print(f"  {package}: left out, {type(error).__name__}: {str(error)[:80]}")
        else:
            found[package] = build
    return found


def step_of(optimizers: list[torch.optim.Optimizer]) -> Callable[[], None]:
    """A call that steps all of them."""

    def run() -> None:
        for optimizer in optimizers:
            optimizer.step()

    return run


def dense_steps(rounds: int) -> dict[str, float]:
    """Optimizer step alone on the dense model's tensors."""
    runs: dict[str, Callable[[], None]] = {}
    for name, build in contenders().items():
        torch.manual_seed(0)
        parts = dense_parts(Dense())
        give_gradients([*parts[0], *parts[1]])
        runs[name] = step_of(build(parts))
    return table("optimizer step, dense", take_turns(runs, rounds), "torch.optim.Muon")


def expert_steps(rounds: int) -> dict[str, float]:
    """Optimizer step alone on the mixture's tensors."""
    plain, gate_up, down = expert_stacks()
    give_gradients([*plain, *gate_up, *down])
    ours = MuonClip(
        [
            {"params": [*plain, *down], "algorithm": "muon", "view": WHOLE},
            {"params": gate_up, "algorithm": "muon", "view": GATE_UP},
        ],
        **BASE,
    )
    loose = [nn.Parameter(p.detach().clone()) for p in plain]
    for stack in gate_up:
        loose += [nn.Parameter(h.clone()) for expert in stack.detach() for h in expert.chunk(2)]
    for stack in down:
        loose += [nn.Parameter(expert.clone()) for expert in stack.detach()]
    give_gradients(loose)
    looped = torch.optim.Muon(loose, adjust_lr_fn="match_rms_adamw", **BASE)
    runs = {"MuonClip": step_of([ours]), "torch.optim.Muon": step_of([looped])}
    title = f"optimizer step, {MOE_LAYERS} layers of {EXPERTS} experts"
    return table(title, take_turns(runs, rounds), "torch.optim.Muon")


def training(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Callable[[], None]:
    """A call that makes one whole training step."""
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH))

    def run() -> None:
        loss = functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return run


def training_steps(rounds: int, short: bool) -> dict[str, float]:
    """The whole training step of the dense model; fewer contenders when short."""
    runs: dict[str, Callable[[], None]] = {}
    for name in ("MuonClip", "AdamW fused", *(() if short else ("torch.optim.Muon",))):
        torch.manual_seed(0)
        model = Dense()
        runs[name] = training(model, CONTENDERS[name](dense_parts(model)))
    thresholds = {"MuonClip, watched": 1e6, "MuonClip, all heads clipped": 1e-6}
    if short:
        del thresholds["MuonClip, all heads clipped"]
    for name, tau in thresholds.items():
        torch.manual_seed(0)
        model = Dense()
        clip = QKClip(model, tau=tau, rest_after=None)
        optimizers = muonclip(dense_parts(model))
        clip.attach(optimizers[0])
        runs[name] = training(model, optimizers)
    title = f"whole training step, dense, {BATCH * LENGTH} tokens"
    return table(title, take_turns(runs, rounds), "AdamW fused")


def peak_kib(name: str, short: bool) -> int:
    """Peak resident memory over training steps, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, *(["--quick"] if short else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure_memory(name: str, short: bool) -> None:
    """Three steps of few tokens, so that the optimizer and not the activations make the peak."""
    global BATCH, LENGTH
    BATCH, LENGTH = 1, 64
    torch.manual_seed(0)
    model = Dense()
    run = training(model, CONTENDERS[name](dense_parts(model)))
    run()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    for _ in range(2 if short else 5):
        run()
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> None:
    """Measure, print tables, and with --json the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object at the end")
    parser.add_argument("--memory-of", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory_of:
        measure_memory(asked.memory_of, asked.quick)
        return
    rounds = 3 if asked.quick else 12
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; "
          f"torch {torch.__version__}, Python {platform.python_version()}; {rounds} rounds, "
          "process CPU time")  # fmt: skip
    dense, experts = dense_steps(rounds), expert_steps(rounds)
    whole = training_steps(2 if asked.quick else 8, asked.quick)
    repeats = 1 if asked.quick else 3
    peaks = {
        name: min(peak_kib(name, asked.quick) for _ in range(repeats))
        for name in ("MuonClip", "torch.optim.Muon")
    }
    print("\npeak resident memory over training steps (64 tokens)")
    for name, kib in peaks.items():
        print(f"  {name:<28} {kib / 1024:>9.1f} MiB")
    figures = {
        "step_vs_torch_muon": dense["MuonClip"] / dense["torch.optim.Muon"],
        "step_vs_torch_muon_four_step": dense["MuonClip, four_step"] / dense["torch.optim.Muon"],
        "moe_step_vs_torch_muon": experts["MuonClip"] / experts["torch.optim.Muon"],
        "training_step_vs_adamw": whole["MuonClip"] / whole["AdamW fused"],
        "qk_clip_overhead": whole["MuonClip, watched"] / whole["MuonClip"] - 1.0,
        "peak_memory_vs_torch_muon": peaks["MuonClip"] / peaks["torch.optim.Muon"],
    }
    if "MuonClip, all heads clipped" in whole:
        worst = whole["MuonClip, all heads clipped"] / whole["MuonClip"] - 1.0
        figures["qk_clip_overhead_clipping"] = worst
    print()
    for key, value in figures.items():
        print(f"{key:<29} {value:.3f}")
    if asked.json:
        print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
