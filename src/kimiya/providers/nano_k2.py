"""A small model trained here (``kimiya train``), served as it speaks: in Kimi's raw tokens.

The engine is torch's and blocks, so one thread of its own makes one reply at a time and hands text
to the event loop. What it writes goes out as content, markers and all: taming makes calls of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kimiya.catalog.card import ModelCard
from kimiya.core.events import Finish, PartEnd, StreamEvent, StreamStart, TextDelta, UsageReport
from kimiya.core.exchange import FinishReason, Request, Response, Usage
from kimiya.core.fold import Fold
from kimiya.errors import ConfigError, ContextOverflow, InvalidRequest, KimiyaError, ProviderError
from kimiya.wire.dialect import WireOptions
from kimiya.wire.openai_chat import OPENAI_CHAT

if TYPE_CHECKING:
    from kimiya.providers.provider import Provider
    from kimiya.wire.dialect import Dialect

_DEFAULT_MAX_TOKENS = 512
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class Generation(Protocol):
    """One answer in the making: text, then how it ended."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the rendered prompt."""
        ...

    @property
    def completion_tokens(self) -> int:
        """Tokens made."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """``stop``, ``length`` or ``cancelled`` once it has ended."""
        ...

    def __iter__(self) -> Iterator[str]: ...


class Engine(Protocol):
    """What answers; ``training.nano.engine.NanoEngine``."""

    def chat(
        self,
        messages: Any,
        tools: Any = (),
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Generation:
        """Answer a chat of the OpenAI shape."""
        ...


class NanoProvider:
    """A trained folder as a provider.

    Args:
        name: Name in the configuration.
        folder: What ``kimiya train`` wrote (``model`` or ``model-int4``).
        engine: Instead of loading one.
    """

    def __init__(self, name: str, folder: Path, *, engine: Engine | None = None) -> None:
        self._name = name
        self._folder = folder
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kimiya-{name}")
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    def dialect_for(self, card: ModelCard) -> "Dialect | None":
        """No wire is involved."""
        return None

    async def stream(self, request: Request, card: ModelCard) -> AsyncGenerator[StreamEvent, None]:
        """Answer as the model writes."""
        messages, tools = _as_chat(request)
        async with self._turn:
            is_over = False
            pieces: asyncio.Queue[str | Generation | Exception] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def put(item: str | Generation | Exception) -> None:
                loop.call_soon_threadsafe(pieces.put_nowait, item)

            def write() -> None:
                try:
                    answer = self._loaded().chat(
                        messages, tools, **_settings(request), is_cancelled=lambda: is_over
                    )
                    for text in answer:
                        put(text)
                    put(answer)
                except Exception as error:  # noqa: BLE001 (carried over to the caller's thread)
                    put(error)

            writing = loop.run_in_executor(self._thread, write)
            try:
                yield StreamStart(model=card.model_id)
                while isinstance(item := await pieces.get(), str):
                    yield TextDelta(0, item)
                if isinstance(item, Exception):
                    raise _named(item) from item
                yield PartEnd(0)
                usage = Usage(item.prompt_tokens, item.completion_tokens)
                yield UsageReport(usage)
                reason = item.finish_reason or "stop"
                yield Finish(_REASONS.get(reason, "unknown"), reason)
            finally:
                is_over = True
                await asyncio.shield(writing)

    async def complete(self, request: Request, card: ModelCard) -> Response:
        """Answer whole."""
        gathering = Fold()
        async with aclosing(self.stream(request, card)) as events:
            async for event in events:
                gathering.feed(event)
        return gathering.result()

    async def count_tokens(self, request: Request, card: ModelCard) -> int | None:
        """Not counted apart from an answer."""
        return None

    async def aclose(self) -> None:
        """Let the thread end and the model go."""
        await asyncio.to_thread(self._thread.shutdown)
        self._engine = None

    def _loaded(self) -> Engine:
        if self._engine is None:
            from kimiya.training.nano.engine import NanoEngine  # torch: only where it is served

            self._engine = NanoEngine.load(self._folder)
        return self._engine


def _as_chat(request: Request) -> tuple[Any, Any]:
    """Messages and tools in the shape the engine's template takes."""
    wire = OPENAI_CHAT.encode_request(request, WireOptions(reasoning_field="reasoning_content"))
    body: dict[str, Any] = msgspec.json.decode(wire.body)
    return body["messages"], body.get("tools", ())


def _settings(request: Request) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "max_tokens": sampling.max_output_tokens or _DEFAULT_MAX_TOKENS,
        "temperature": sampling.temperature or 0.0,
        "seed": sampling.seed,
    }


def _named(error: Exception) -> KimiyaError:
    match error:
        case ContextOverflow():
            return error
        case ModuleNotFoundError():
            remedy = "pip install 'kimiya[train]'"
            return ConfigError("serving a trained model needs torch", remedy=remedy)
        case KimiyaError():
            return InvalidRequest(error.message)
        case _:
            return ProviderError(f"the model failed: {type(error).__name__}: {error}")


if TYPE_CHECKING:
    _provider: Provider = NanoProvider("nano", Path())
