"""The training loop: one recipe, one folder, as many kills as you like.

A step's batch, learning rate and quantisation follow from its number; everything else it depends
on is in the checkpoint. So a run that was killed and started again takes the identical next step,
to the last bit on the same machine with as many threads. Under ``torchrun`` each rank takes its
rows of the same batch and gradients are summed, so ranks change the speed and, beyond rounding,
nothing else.

The folder: ``recipe.json``, ``tokenizer.json``, ``metrics.jsonl``, ``checkpoints/``, and in the end
``model/`` (float32), ``model-int4/``, ``evaluation.json``, ``curves.png`` and ``index.html``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kimiya.errors import ConfigError
from kimiya.training import MuonClip, QKClip, param_groups
from kimiya.training.checkpoints import Checkpoints
from kimiya.training.curves import draw_curves
from kimiya.training.k2 import K2Model, balance_experts
from kimiya.training.k2.export import quantize_experts, save_model
from kimiya.training.metrics import MetricsLog, Pace
from kimiya.training.nano.curriculum import Curriculum
from kimiya.training.recipe import Recipe

__all__ = ["TrainingRun", "train"]


@dataclass(frozen=True)
class _Ranks:
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def train(
    recipe: Recipe,
    folder: Path,
    *,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainingRun:
    """Train ``recipe`` in ``folder``, going on from its newest checkpoint, to the end.

    Args:
        recipe: what to train.
        folder: where everything is kept; made where missing.
        on_step: told each logged step's metrics, on the first rank.
        on_note: told what happens besides, as a sentence.

    Raises:
        ConfigError: the folder holds another recipe's run, or the recipe cannot be.
        CheckpointError: a checkpoint cannot be written, or none that is there can be read.
    """
    note = on_note or (lambda _text: None)
    with _process_group() as ranks:
        run = TrainingRun(recipe, folder, ranks)
        if run.step:
            note(f"going on after step {run.step}")
        run.run(on_step or (lambda _row: None), note)
        return run


class TrainingRun:
    """A recipe's model and optimizer at some step; `train` drives it."""

    def __init__(self, recipe: Recipe, folder: Path, ranks: _Ranks = _Ranks()) -> None:
        self.recipe = recipe
        self.folder = folder
        self.ranks = ranks
        self.step = 0
        """Steps done."""
        self.tokens = 0
        """Tokens computed so far, over all ranks."""
        if recipe.data.rows < ranks.count:
            raise ConfigError(
                f"{recipe.data.rows} rows cannot be shared by {ranks.count} processes",
                key="data.rows",
            )
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self._claim_folder()
        self.curriculum = Curriculum.prepare(recipe, folder)
        if ranks.is_first:
            self.curriculum.tokenizer.save(folder / "tokenizer.json")
        torch.manual_seed(recipe.seed)
        self.model = self.curriculum.build_model().to(_device())
        self.optimizer = _optimizer(self.model, recipe)
        self.qk_clip = self._watch_logits()
        self._base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=recipe.checkpoint.keep)
        self._resume()

    def run(self, on_step: Callable[[dict[str, Any]], None], note: Callable[[str], None]) -> None:
        """Every step that is left, then the exports and the evaluation."""
        recipe = self.recipe
        log = MetricsLog(self.folder, step=self.step) if self.ranks.is_first else None
        pace = Pace(recipe.steps)
        try:
            while self.step < recipe.steps:
                row = self.take_step(pace)
                if log and (self.step % recipe.log_every_steps == 0 or self.step == recipe.steps):
                    log.write(row)
                    on_step(row)
                if self.step % recipe.checkpoint.every_steps == 0 or self.step == recipe.steps:
                    self.save()
                self._evaluate_midway(note)
        finally:
            if log:
                log.close()
        self._finish(note)

    def take_step(self, pace: Pace) -> dict[str, Any]:
        """One optimizer step; returns its metrics."""
        recipe = self.recipe
        factor = recipe.schedule.factor(self.step, recipe.steps)
        for group, lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = lr * factor
        grid_from = recipe.steps - recipe.quantization.last_steps
        quantize_experts(self.model, enabled=self.step >= grid_from)
        self.model.train()
        result = self.curriculum.loss(self.model, self.step, self.ranks.rank, self.ranks.count)
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        loss = self._sum_over_ranks(result.loss.detach())
        if recipe.optimizer.max_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer.max_grad_norm)
        self.optimizer.step()
        violations = balance_experts(self.model, rate=recipe.balance_rate)
        self.step += 1
        self.tokens += result.tokens
        return self._metrics(loss, factor, violations, pace.mark(self.step, result.tokens))

    def save(self) -> None:
        """Write a checkpoint of the present step (the first rank does)."""
        if not self.ranks.is_first:
            return
        clip = self.qk_clip.state_dict() if self.qk_clip else {}
        self.checkpoints.save(
            self.step,
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "qk_clip": clip,
                "tokens": self.tokens,
                "random": torch.get_rng_state(),
            },
        )

    def _resume(self) -> None:
        found = self.checkpoints.load_newest()
        if found is None:
            return
        self.step, state = found
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.qk_clip:
            self.qk_clip.load_state_dict(state["qk_clip"])
        self.tokens = state["tokens"]
        torch.set_rng_state(state["random"])

    def _claim_folder(self) -> None:
        """Note the recipe in the folder, or refuse a folder of another one."""
        path = self.folder / "recipe.json"
        mine = json.loads(json.dumps(self.recipe.to_mapping()))
        held = _read_json(path)
        if held is not None:
            changed = sorted(key for key in mine.keys() | held if mine.get(key) != held.get(key))
            if changed:
                raise ConfigError(
                    f"the folder holds a run of another recipe ({', '.join(changed)} differ)",
                    file=str(path),
                    remedy="Give another folder, or delete this one to start afresh",
                )
        elif self.ranks.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(mine, indent=2) + "\n")
            partial.replace(path)

    def _watch_logits(self) -> QKClip | None:
        settings = self.recipe.qk_clip
        if not settings.enabled:
            return None
        return QKClip(self.model, tau=settings.tau).attach(self.optimizer)

    def _sum_over_ranks(self, loss: torch.Tensor) -> float:
        if self.ranks.count > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            flat = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)])
            dist.all_reduce(flat)
            loss, *summed = flat.split([1, *(gradient.numel() for gradient in gradients)])
            for gradient, total in zip(gradients, summed, strict=True):
                gradient.copy_(total.view_as(gradient))
        return float(loss)

    def _metrics(
        self, loss: float, factor: float, violations: dict[str, float], pace: tuple[float, float]
    ) -> dict[str, Any]:
        layers = self.qk_clip.last if self.qk_clip else []
        return {
            "step": self.step,
            "loss": loss,
            "lr": self._base_lrs[0] * factor,
            "tokens": self.tokens,
            "tokens_per_s": round(pace[0], 1),
            "seconds_left": round(pace[1], 1),
            "max_logit": {layer.name: round(layer.max_logit, 4) for layer in layers},
            "clips": {layer.name: len(layer.clipped) for layer in layers},
            "load_violation": round(max(violations.values(), default=0.0), 4),
            "skipped_steps": getattr(self.optimizer, "skipped_steps", 0),
        }

    def _evaluate_midway(self, note: Callable[[str], None]) -> None:
        settings = self.recipe.evaluation
        if (
            settings.every_steps
            and self.ranks.is_first
            and self.step < self.recipe.steps
            and self.step % settings.every_steps == 0
        ):
            scores = self.curriculum.evaluate(self.model, settings.tasks)
            note(_describe_scores(scores))

    def _finish(self, note: Callable[[str], None]) -> None:
        """Export, evaluate and draw, on the first rank."""
        if not self.ranks.is_first:
            return
        on_grid = self.recipe.quantization.last_steps > 0
        quantize_experts(self.model, enabled=False)
        _save_with_tokenizer(self, "model", int4=False)
        _save_with_tokenizer(self, "model-int4", int4=True)
        draw_curves(self.folder, title=self.recipe.name)
        tasks = self.recipe.evaluation.final_tasks
        if tasks:
            # Both are measured, so that what INT4 costs is read off one file. A model trained on
            # the grid is the INT4 one; without it its weights are those before rounding.
            scores: dict[str, Any] = {}
            for name, enabled in (("float32", False), ("int4", True)):
                quantize_experts(self.model, enabled=enabled)
                sets = self.curriculum.evaluate(self.model, tasks)
                scores[name] = {"loss": self.curriculum.held_out_loss(self.model), **sets}
                note(f"{name}: loss {scores[name]['loss']:.4f}; {_describe_scores(sets)}")
            (self.folder / "evaluation.json").write_text(json.dumps(scores, indent=2) + "\n")
        quantize_experts(self.model, enabled=on_grid)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the run's recipe cannot be read: {error}",
            file=str(path),
            remedy="Give another folder, or delete this one to start afresh",
        ) from error


def _save_with_tokenizer(run: TrainingRun, name: str, *, int4: bool) -> None:
    save_model(run.model, run.folder / name, int4=int4)
    run.curriculum.tokenizer.save(run.folder / name / "tokenizer.json")


def _device() -> torch.device:
    """This rank's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _optimizer(model: K2Model, recipe: Recipe) -> torch.optim.Optimizer:
    settings = recipe.optimizer
    groups = param_groups(
        model,
        lr=settings.lr,
        adamw_lr=settings.adamw_lr,
        weight_decay=settings.weight_decay,
        adamw_betas=settings.betas,
    )
    if settings.algorithm == "adamw":
        # The same groups and rates, so that the two differ in the matrices' rule alone.
        plain = [
            {
                "params": [parameter for _, parameter in group["params"]],
                "lr": group["lr"],
                "weight_decay": group["weight_decay"],
            }
            for group in groups
        ]
        return torch.optim.AdamW(plain, lr=settings.lr, betas=settings.betas, fused=True)
    return MuonClip(
        groups,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        ns_coefficients=settings.ns_coefficients,
        ns_steps=settings.ns_steps,
    )


def _describe_scores(scores: dict[str, dict[str, float]]) -> str:
    return "; ".join(
        f"{name} format {score['format']:.1%} schema {score['schema']:.1%} "
        f"exact {score['exact']:.1%}"
        for name, score in scores.items()
    )


@contextmanager
def _process_group() -> Iterator[_Ranks]:
    """The ranks ``torchrun`` started, or this process alone."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield _Ranks()
        return
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield _Ranks(dist.get_rank(), dist.get_world_size())
        dist.barrier()
    finally:
        if started:
            dist.destroy_process_group()
