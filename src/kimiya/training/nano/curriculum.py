"""What the nano model is shown at each step, and how it is measured: a recipe's data.

The batch of a step depends on the recipe and the step's number alone, so a run can resume at any
step, and ranks share a batch by taking every n-th row of it.

Shapes: B rows, T tokens, N learnt tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kimiya.errors import ConfigError
from kimiya.training.k2 import K2Config, K2Model
from kimiya.training.nano.evaluation import EVALUATIONS, evaluate, evaluation_scenes
from kimiya.training.nano.packing import Batch, pack_scene, stack
from kimiya.training.nano.tasks import TaskMix, draw_repetitions, draw_scene
from kimiya.training.nano.tokenizer import Tokenizer, train_tokenizer
from kimiya.training.recipe import Recipe

__all__ = ["Curriculum", "StepLoss"]


@dataclass(frozen=True)
class StepLoss:
    """What one step's batch gives."""

    loss: Tensor
    """This rank's share of the mean over all learnt tokens of the batch: ranks' shares add up."""
    tokens: int
    """Tokens of the whole batch, over all ranks, padding left out."""


class Curriculum:
    """The data of one recipe."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        data = recipe.data
        self.mix = TaskMix(
            two_calls=data.two_calls, no_call=data.no_call, tools=data.tools, tasks=data.tasks
        )

    @classmethod
    def prepare(cls, recipe: Recipe, folder: Path) -> Curriculum:
        """With the folder's tokenizer, or a new one where it has none.

        Raises:
            ConfigError: the folder's tokenizer cannot be read.
        """
        path = folder / "tokenizer.json"
        if path.exists():
            return cls(recipe, Tokenizer.load(path))
        return cls(recipe, train_tokenizer(merges=recipe.data.vocabulary_merges))

    def build_model(self) -> K2Model:
        """A fresh model of the recipe's shape, for this vocabulary.

        Raises:
            ConfigError: the recipe's shape cannot be.
        """
        given = dict(self.recipe.model)
        vocab_size = given.setdefault("vocab_size", len(self.tokenizer))
        if vocab_size < len(self.tokenizer):
            raise ConfigError(
                f"{vocab_size} is less than the tokenizer's {len(self.tokenizer)}",
                key="model.vocab_size",
                remedy="Leave it out",
            )
        given.setdefault("eos_token_id", self.tokenizer.id_of("<|im_end|>"))
        given.setdefault("pad_token_id", self.tokenizer.id_of("[PAD]"))
        given.setdefault("max_position_embeddings", 4096)
        return K2Model(K2Config.from_mapping(given, file=self.recipe.name))

    def draw(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Batch, float, int]:
        """This rank's rows of a step's batch; the whole batch's weight and computed tokens."""
        data = self.recipe.data
        chance = random.Random(f"{self.recipe.seed}/{step}")
        scenes = [
            draw_repetitions(chance, data.tasks)
            if step < data.repeat_steps
            else draw_scene(chance, self.mix)
            for _ in range(data.rows)
        ]
        rows = [pack_scene(self.tokenizer, scene) for scene in scenes]
        weight = sum(
            sum(target >= 0 for target in row.targets) + (data.decision_weight - 1) * sum(row.opens)
            for row in rows
        )
        return stack(rows[rank::ranks]), weight, sum(len(row.tokens) for row in rows)

    def loss(self, model: K2Model, step: int, rank: int = 0, ranks: int = 1) -> StepLoss:
        """Cross-entropy of the assistant's words at this step."""
        batch, weight, tokens = self.draw(step, rank, ranks)
        device = model.lm_head.weight.device
        logits_NV = _logits(model, batch)
        losses_N = F.cross_entropy(logits_NV, batch.targets_N.to(device), reduction="none")
        more = self.recipe.data.decision_weight - 1
        total = losses_N.sum() + more * losses_N[batch.opens_N.to(device)].sum()
        return StepLoss(total / weight, tokens)

    @torch.no_grad()
    def held_out_loss(self, model: K2Model, *, rows: int = 64) -> float:
        """Mean loss of the assistant's tokens on scenes whose values training never sees."""
        chance = random.Random("held-out loss")
        mix = dataclasses.replace(self.mix, held_out_values=True)
        total, count = 0.0, 0
        was_training = model.training
        model.eval()
        for start in range(0, rows, 16):
            scenes = [draw_scene(chance, mix) for _ in range(min(16, rows - start))]
            batch = stack([pack_scene(self.tokenizer, scene) for scene in scenes])
            device = model.lm_head.weight.device
            logits_NV = _logits(model, batch)
            targets_N = batch.targets_N.to(device)
            total += float(F.cross_entropy(logits_NV, targets_N, reduction="sum"))
            count += len(targets_N)
        model.train(was_training)
        return total / count

    def evaluate(
        self, model: K2Model, tasks: int, sets: Sequence[str] = tuple(EVALUATIONS)
    ) -> dict[str, Any]:
        """Each set's score as plain values."""
        return {
            name: asdict(evaluate(model, self.tokenizer, evaluation_scenes(name, tasks))[0])
            for name in sets
        }


def _logits(model: K2Model, batch: Batch) -> Tensor:
    """Logits at the batch's learnt tokens, on the model's device."""
    device = model.lm_head.weight.device
    return model(
        batch.tokens_BT.to(device),
        positions_BT=batch.positions_BT.to(device),
        segments_BT=batch.segments_BT.to(device),
        keep_BT=batch.learnt_BT.to(device),
    )
