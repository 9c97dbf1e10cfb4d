"""Scenes as packed training sequences: the declared tools once, then every task as a branch.

A branch sees the shared beginning and itself, at the positions it would have alone, so each task
is learnt exactly as if it stood by itself while the declaration is computed once. Only the
assistant's words are learnt.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kimiya.training.nano.tasks import Scene, Task
from kimiya.training.nano.template import Piece, render_answer, render_prompt
from kimiya.training.nano.tokenizer import Tokenizer

__all__ = ["Batch", "PackedScene", "pack_scene", "stack"]


@dataclass(frozen=True)
class Batch:
    """What one forward pass needs; padding has segment -1 and is never learnt."""

    tokens_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    """0 is what all branches of the row share, 1 and up are the branches, -1 padding."""
    learnt_BT: Tensor
    """True where the next token of the same branch is the assistant's."""
    targets_N: Tensor
    """Those next tokens, row by row."""
    opens_N: Tensor
    """True for the first of an answer, where it is decided to call or not, and what."""

    @property
    def tokens(self) -> int:
        """Tokens computed, padding left out."""
        return int((self.segments_BT >= 0).sum())


@dataclass(frozen=True)
class PackedScene:
    """One row before padding."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    targets: list[int]
    """The next token where it is learnt, else -1."""
    opens: list[bool]
    """Where the next token is the first of an answer."""


def pack_scene(tokenizer: Tokenizer, scene: Scene) -> PackedScene:
    """The scene as one row."""
    prompts = [_split_prompt(tokenizer, scene, task) for task in scene.tasks]
    shared = prompts[0][0]
    row = PackedScene(
        list(shared),
        list(range(len(shared))),
        [0] * len(shared),
        [-1] * len(shared),
        [False] * len(shared),
    )
    for branch, (task, (_, asked)) in enumerate(zip(scene.tasks, prompts, strict=True), start=1):
        answer = tokenizer.encode(render_answer(task))
        # The last token of the answer is only ever a target.
        row.tokens.extend([*asked, *answer[:-1]])
        length = len(asked) + len(answer) - 1
        row.positions.extend(range(len(shared), len(shared) + length))
        row.segments.extend([branch] * length)
        row.targets.extend([-1] * (len(asked) - 1) + answer)
        row.opens.extend(position == len(asked) - 1 for position in range(length))
    return row


def stack(rows: Sequence[PackedScene]) -> Batch:
    """Rows padded on the right to one length."""
    longest = max(len(row.tokens) for row in rows)

    def table(name: str, fill: int) -> Tensor:
        lists = [getattr(row, name) for row in rows]
        return torch.tensor([values + [fill] * (longest - len(values)) for values in lists])

    targets_BT = table("targets", -1)
    learnt_BT = targets_BT >= 0
    return Batch(
        table("tokens", 0), table("positions", 0), table("segments", -1),
        learnt_BT, targets_BT[learnt_BT],
        table("opens", 0)[learnt_BT].bool(),
    )  # fmt: skip


def _split_prompt(tokenizer: Tokenizer, scene: Scene, task: Task) -> tuple[list[int], list[int]]:
    """The prompt's ids up to the user's message, and from it on."""
    pieces = render_prompt([{"role": "user", "content": task.request}], scene.tools)
    at = next(i for i, piece in enumerate(pieces) if piece == Piece("<|im_user|>", is_marker=True))
    return tokenizer.encode(pieces[:at]), tokenizer.encode(pieces[at:])
