"""The embedded engine's chat endpoint: the body it takes, and what its chunks say beside text."""

from typing import Any, cast

from kimiya.catalog.card import ModelCard
from kimiya.core.exchange import Request, Sampling, Usage
from kimiya.core.messages import JsonValue
from kimiya.errors import ContextOverflow, InvalidRequest, Overloaded, ProviderError
from kimiya.providers.llama_cpp_prompt import chat_lines, grammar_for, offered_tools

Chunk = dict[str, Any]
"""One piece of a reply, as the engine says it: a chat completion chunk, or ``{"error": ...}``."""

_SETTINGS = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
"""Settings of ``Sampling`` that the engine calls the same."""


def chat_body(request: Request, card: ModelCard) -> Chunk:
    """The request as the engine's chat endpoint takes it.

    Raises:
        InvalidRequest: It holds what the model cannot take or be held to.
    """
    if request.sampling.n not in (None, 1):
        raise InvalidRequest("n: the embedded model gives one reply a request")
    tools = offered_tools(request)
    lines = [{"role": x.role, "content": x.content} for x in chat_lines(request, tools)]
    body: Chunk = {
        "messages": lines,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        **_sampling(request.sampling, card),
    }
    if request.sampling.stop:
        # Only the verbose form of the last chunk says which sequence was met.
        body |= {"stop": list(request.sampling.stop), "verbose": True}
    grammar = grammar_for(request, tools)
    if grammar is not None:
        body["grammar"] = grammar
    return body


def _sampling(asked: Sampling, card: ModelCard) -> dict[str, JsonValue]:
    """What was asked; where nothing was, what the card recommends."""
    usual = card.recommended.get("instant", Sampling())
    settings: dict[str, JsonValue] = {}
    for setting in _SETTINGS:
        value = getattr(asked, setting)
        settings[setting] = getattr(usual, setting) if value is None else value
    settings["max_tokens"] = asked.max_output_tokens or card.max_output_tokens
    if asked.seed is not None:
        settings["seed"] = asked.seed & 0xFFFFFFFF  # the engine's own width
    return {key: value for key, value in settings.items() if value is not None}


def usage_of(chunk: Chunk) -> Usage:
    """The engine's own counts, from the chunk that carries them."""
    raw = _map(chunk["usage"])
    return Usage(
        input_tokens=int(raw["prompt_tokens"]),
        output_tokens=int(raw["completion_tokens"]),
        cache_read_tokens=int(_map(raw.get("prompt_tokens_details")).get("cached_tokens", 0)),
    )


def stop_sequence_of(chunk: Chunk) -> str | None:
    """The stop sequence this chunk says was met."""
    details = _map(chunk.get("__verbose"))
    return str(details["stopping_word"]) if details.get("stop_type") == "word" else None


def refusal_of(chunk: Chunk) -> ProviderError:
    """The engine's own error, named for what happened."""
    error = _map(chunk["error"])
    message = f"llama.cpp: {error.get('message', 'no reason given')}"
    status, code = int(error.get("code", 500)), str(error.get("type", ""))
    if code == "exceed_context_size_error":
        return ContextOverflow(message, status=status, code=code)
    kind = InvalidRequest if status < 500 else Overloaded
    return kind(message, status=status, code=code)


def _map(value: JsonValue) -> Chunk:
    return cast("Chunk", value) if isinstance(value, dict) else {}
