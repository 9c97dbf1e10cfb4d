"""Generation with a cache, for one prompt or a batch of uneven ones.

Prompts of a batch are padded on the left, and padding is seen by nobody, so that a prompt's
continuation does not depend on its neighbours. Greedy at ``temperature`` 0; otherwise sampled from
the generator that is handed in.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kimiya.errors import ConfigError
from kimiya.training.k2.cache import LatentCache
from kimiya.training.k2.model import K2Model

__all__ = ["generate", "stream"]


def stream(
    model: K2Model,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    stop: frozenset[int] = frozenset(),
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Tokens after ``prompt``, one by one; ends before a token of ``stop`` or at ``max_tokens``."""
    for tokens in _steps(model, [prompt], max_tokens, temperature, generator):
        token = int(tokens[0])
        if token in stop:
            return
        yield token


def generate(
    model: K2Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop: frozenset[int] = frozenset(),
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Each prompt's continuation, without the token that stopped it."""
    outputs: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return outputs
    running = set(range(len(prompts)))
    for tokens in _steps(model, prompts, max_tokens, temperature, generator):
        for row in tuple(running):
            token = int(tokens[row])
            if token in stop:
                running.discard(row)
            else:
                outputs[row].append(token)
        if not running:
            break
    return outputs


@torch.no_grad()
def _steps(
    model: K2Model,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> Iterator[list[int]]:
    if any(not prompt for prompt in prompts):
        raise ConfigError("a prompt is empty", key="prompt", remedy="Give at least one token")
    was_training = model.training
    model.eval()
    try:
        device = model.lm_head.weight.device
        longest = max(map(len, prompts))
        tokens_BT = torch.tensor(
            [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device
        )
        lengths_B1 = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
        positions_BT = torch.arange(longest, device=device) - (longest - lengths_B1)
        valid_BT = positions_BT >= 0 if len(set(map(len, prompts))) > 1 else None
        cache = LatentCache()
        for _ in range(max_tokens):
            last_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
            last_BT[:, -1] = True
            logits_BV = model(
                tokens_BT,
                positions_BT=positions_BT.clamp(min=0),
                cache=cache,
                valid_BT=valid_BT,
                keep_BT=last_BT,
            )
            tokens_BT = _pick(logits_BV, temperature, generator)
            yield tokens_BT[:, 0].tolist()
            positions_BT = positions_BT[:, -1:] + 1
            valid_BT = None
    finally:
        model.train(was_training)


def _pick(logits_BV: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature <= 0:
        return logits_BV.argmax(dim=-1, keepdim=True)
    odds_BV = (logits_BV.float() / temperature).softmax(dim=-1)
    return torch.multinomial(odds_BV, 1, generator=generator)
