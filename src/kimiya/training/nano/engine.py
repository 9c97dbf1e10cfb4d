"""A trained nano model that answers chats: messages and tools in, raw text out as it is made.

What comes out is what the model says, markers and all, in Kimi's own format; nothing is parsed,
mended or constrained here. Synchronous and single-threaded: a server runs it on a thread and hands
the pieces on. One engine answers one chat at a time; its calls must not overlap.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from kimiya.errors import ConfigError, ContextOverflow
from kimiya.training.k2 import K2Model, stream
from kimiya.training.k2.export import load_model
from kimiya.training.nano.template import render_prompt
from kimiya.training.nano.tokenizer import Tokenizer

__all__ = ["Generation", "NanoEngine"]


@dataclass
class Generation:
    """One answer in the making; iterate it for text, then read how it ended.

    Texts are whole characters, one or none for a token, so joining them gives the answer exactly.
    """

    prompt_tokens: int
    """Tokens of the rendered prompt."""
    _tokens: Iterator[int]
    _tokenizer: Tokenizer
    _max_tokens: int
    _is_cancelled: Callable[[], bool]
    completion_tokens: int = 0
    """Tokens made so far, the final ``<|im_end|>`` left out."""
    finish_reason: Literal["stop", "length", "cancelled"] | None = None
    """``stop`` at ``<|im_end|>``, ``length`` at the limit, None while it goes on."""

    def __iter__(self) -> Iterator[str]:
        """The answer's text, piece by piece."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while not self._is_cancelled():
                if (token := next(self._tokens, None)) is None:
                    break
                self.completion_tokens += 1
                text = decoder.decode(self._tokenizer.decode_bytes([token]))
                if text:
                    yield text
            else:
                self.finish_reason = "cancelled"
            if rest := decoder.decode(b"", final=True):
                yield rest
            is_full = self.completion_tokens >= self._max_tokens
            self.finish_reason = self.finish_reason or ("length" if is_full else "stop")
        finally:
            self.finish_reason = self.finish_reason or "cancelled"


class NanoEngine:
    """A model with its tokenizer, ready to answer.

    >>> engine = NanoEngine.load("runs/nano/model-int4")  # doctest: +SKIP
    >>> "".join(engine.chat([{"role": "user", "content": "Book a table."}]))  # doctest: +SKIP
    'No tool fits.'
    """

    def __init__(self, model: K2Model, tokenizer: Tokenizer) -> None:
        if len(tokenizer) > model.config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {len(tokenizer)} tokens and the model "
                f"{model.config.vocab_size}: they do not belong together"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._stop = frozenset({tokenizer.id_of("<|im_end|>"), tokenizer.id_of("[EOS]")})

    @classmethod
    def load(cls, folder: Path | str) -> NanoEngine:
        """The engine of a folder that training wrote (``model`` or ``model-int4``).

        Raises:
            ConfigError: the folder holds no such model.
        """
        place = Path(folder)
        return cls(load_model(place), Tokenizer.load(place / "tokenizer.json"))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Generation:
        """Answer a chat of the OpenAI shape.

        Args:
            messages: ``role`` and ``content``; ``tool_calls`` and ``tool_call_id`` where due.
            tools: function declarations.
            max_tokens: most tokens to make; cut to what the context leaves.
            temperature: 0 is greedy.
            seed: of sampling; the same seed gives the same answer.
            is_cancelled: asked before each token; True ends the answer there.

        Raises:
            ConfigError: the chat cannot be rendered, or a limit cannot be.
            ContextOverflow: the prompt leaves no room for an answer.
        """
        return self.complete(
            self.tokenizer.encode(render_prompt(messages, tools)),
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            is_cancelled=is_cancelled,
        )

    def complete(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Generation:
        """Go on from these tokens; see `chat`."""
        if max_tokens < 1 or temperature < 0:
            raise ConfigError(
                f"max_tokens {max_tokens} and temperature {temperature} cannot be",
                remedy="At least one token, and a temperature from 0 up",
            )
        room = self.model.config.max_position_embeddings - len(prompt)
        if room < 1:
            raise ContextOverflow(
                f"the prompt has {len(prompt)} tokens and the model reads "
                f"{self.model.config.max_position_embeddings}"
            )
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        limit = min(max_tokens, room)
        tokens = stream(
            self.model,
            prompt,
            max_tokens=limit,
            stop=self._stop,
            temperature=temperature,
            generator=generator,
        )
        return Generation(len(prompt), tokens, self.tokenizer, limit, is_cancelled)
