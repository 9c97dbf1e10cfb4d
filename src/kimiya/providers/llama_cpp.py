"""The embedded model: llama.cpp inside this process, through the binding ``xllamacpp``.

The engine blocks, so each reply runs in a thread of the provider's own pool, one a slot, and hands
its pieces to the event loop, which is never held up. Invariants:

* A reply whose consumer goes away stops at its next token, or its next 256 tokens of prompt.
* Nothing is loaded before the first call, and ``aclose`` leaves no thread and no memory behind.
* Token counts and stop reasons are the engine's own.
* No text of a message is read as a control token (``llama_cpp_control``).

The engine always opens an HTTP port. It is bound to loopback, behind a key made up at each start,
and serves only to count tokens, which the binding itself cannot do.
"""

import asyncio
import http.client
import importlib
import importlib.util
import json
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimiya.catalog.card import ModelCard
from kimiya.core.events import StreamEvent, StreamStart, UsageReport
from kimiya.core.exchange import NamedChoice, Request, RequiredChoice, Response
from kimiya.core.fold import Fold
from kimiya.errors import ConfigError, ProviderError, ProviderUnreachable, RemoteProtocolError
from kimiya.providers import local_model
from kimiya.providers.llama_cpp_chat import (
    Chunk,
    chat_body,
    refusal_of,
    stop_sequence_of,
    usage_of,
)
from kimiya.providers.llama_cpp_control import control_tokens
from kimiya.providers.llama_cpp_prompt import offered_tools
from kimiya.providers.llama_cpp_reply import ReplyReader

if TYPE_CHECKING:
    from kimiya.providers.provider import Provider
    from kimiya.wire.dialect import Dialect

DEFAULT_CONTEXT_TOKENS = 8192
"""The window SmolLM2 was trained with; two slots of it take about 400 MB."""

_PROMPT_BATCH = 256
"""Prompt tokens between two chances to stop."""
_FAILURES = (RuntimeError, ValueError, TypeError, MemoryError, OSError)
"""What the binding raises."""


def default_threads() -> int:
    """Threads of computation: all cores but one, at most four.

    llama.cpp's threads wait for each other by spinning. With one more than there are free cores the
    speed falls tenfold (measured on two cores: 59 tokens/s with one thread beside a busy process, 2
    to 6 with two), and this process has an event loop to run.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    )
    return max(1, min(4, cores - 1))


class LlamaCppProvider:
    """A GGUF model, run here. See the module docstring."""

    def __init__(
        self,
        name: str,
        model_path: str | os.PathLike[str] | None = None,
        slots: int = 2,
        context_tokens: int | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        """Look at the file, load nothing.

        Args:
            name: Name in the configuration.
            model_path: A GGUF file; ``None`` is the embedded model, where it was installed.
            slots: Replies made at once; more wait for their turn.
            context_tokens: Window of each slot.
            threads: Threads of computation; ``None`` is ``default_threads()``.

        Raises:
            ConfigError: The extra is not installed, or the file is missing or no GGUF.
        """
        self._name = name
        self._path = local_model.model_path() if model_path is None else Path(model_path)
        self._slots = slots
        self._context_tokens = context_tokens or DEFAULT_CONTEXT_TOKENS
        self._threads = threads or default_threads()
        _check_installed(self._path)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix=f"llama.cpp-{name}")
        self._loading = asyncio.Lock()
        self._engine: _Engine | None = None
        self._is_closed = False

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    def dialect_for(self, card: ModelCard) -> "Dialect | None":
        """No wire is involved."""
        return None

    async def load(self) -> None:
        """Load the model now rather than at the first call (about a second)."""
        await self._loaded()

    async def stream(self, request: Request, card: ModelCard) -> AsyncGenerator[StreamEvent, None]:
        """Answer as a stream.

        Raises:
            InvalidRequest: The request holds what the model cannot take or be held to.
            ContextOverflow: It does not fit a slot's window.
            ProviderUnreachable: The engine does not load, or was closed.
            RemoteProtocolError: The engine broke off.
        """
        try:
            async with aclosing(self._reply(request, card)) as events:
                async for event in events:
                    yield event
        except ProviderError as error:
            error.provider = self._name
            raise

    async def _reply(self, request: Request, card: ModelCard) -> AsyncGenerator[StreamEvent, None]:
        body = chat_body(request, card)
        may_call = bool(offered_tools(request))
        must_call = isinstance(request.tool_choice, (RequiredChoice, NamedChoice))
        reader = ReplyReader(request.messages, may_call, must_call)
        engine = await self._loaded()
        run = _Run(asyncio.get_running_loop(), lambda: self._is_closed)
        future = self._pool.submit(run.answer, engine, body)
        future.add_done_callback(run.end)
        try:
            async with aclosing(_events(run, reader, card)) as events:
                async for event in events:
                    yield event
        finally:
            run.stop()
            future.cancel()

    async def complete(self, request: Request, card: ModelCard) -> Response:
        """Answer whole."""
        gathering = Fold()
        async for event in self.stream(request, card):
            gathering.feed(event)
        return gathering.result()

    async def count_tokens(self, request: Request, card: ModelCard) -> int | None:
        """Input tokens, counted by the engine with the model's own template."""
        body = {"messages": chat_body(request, card)["messages"]}
        engine = await self._loaded()
        return await asyncio.to_thread(engine.count_tokens, body)

    async def aclose(self) -> None:
        """Stop every reply at its next token and free the model."""
        self._is_closed = True
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        # The destructor joins the engine's own threads, so it runs here and not on the loop.
        self._engine = None

    async def _loaded(self) -> "_Engine":
        async with self._loading:
            if self._is_closed:
                raise ProviderUnreachable("the embedded model was closed", provider=self._name)
            if self._engine is None:
                self._engine = await asyncio.to_thread(self._load)
            return self._engine

    def _load(self) -> "_Engine":
        try:
            return _Engine(self._path, self._slots, self._context_tokens, self._threads)
        except _FAILURES as error:
            raise ProviderUnreachable(
                f"llama.cpp cannot load {self._path}; the file may be damaged or of a newer kind "
                "(`kimiya local install` fetches the embedded model anew)",
                provider=self._name,
            ) from error


class _Engine:
    """The loaded model and its slots. Every method blocks."""

    def __init__(self, path: Path, slots: int, context_tokens: int, threads: int) -> None:
        binding: Any = importlib.import_module("xllamacpp")
        params = binding.CommonParams()
        params.model.path = str(path)
        params.n_parallel = slots
        params.n_ctx = slots * context_tokens
        params.n_batch = params.n_ubatch = _PROMPT_BATCH
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cpuparams.poll = params.cpuparams_batch.poll = 0
        params.verbosity = -1
        params.warmup = params.fit_params = params.ui = False
        params.cache_ram_mib = 0
        self._key = secrets.token_hex(16)
        params.api_keys = [self._key]
        self._server = binding.Server(params)
        self._control = control_tokens(path)

    def answer(self, body: Chunk, on_chunk: Callable[[Chunk], bool]) -> None:
        """Make one reply; ``on_chunk`` gets each piece and stops it by returning ``True``."""
        self._server.handle_chat_completions(self._control.harmless_body(body), on_chunk)

    def count_tokens(self, body: Chunk) -> int:
        """Tokens of the rendered prompt."""
        address = str(self._server.listening_address).removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=60)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            sent = json.dumps(self._control.harmless_body(body))
            connection.request("POST", "/v1/chat/completions/input_tokens", sent, headers)
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ProviderUnreachable("llama.cpp did not count the tokens") from error
        finally:
            connection.close()
        if "error" in answer:
            raise refusal_of(answer)
        return int(answer["input_tokens"])


class _Run:
    """One reply on its way from the engine's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_closed: Callable[[], bool]) -> None:
        self._loop = loop
        self._is_closed = is_closed
        self._is_stopped = False
        self._queue: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()

    def stop(self) -> None:
        """End the reply at its next piece."""
        self._is_stopped = True

    def answer(self, engine: _Engine, body: Chunk) -> None:
        """Run in a thread until the reply ends."""
        try:
            if not (self._is_stopped or self._is_closed()):
                engine.answer(body, self._take)
        except _FAILURES as error:
            self._hand(error)

    def end(self, _: object) -> None:
        """Nothing more comes, whether the reply was made or never got its turn."""
        self._hand(None)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The pieces, as they come."""
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise RemoteProtocolError(f"llama.cpp failed: {item}") from item
            yield item

    def _take(self, chunk: Chunk) -> bool:
        # An exception in here would be lost in the engine, so there is none to raise.
        return self._is_stopped or self._is_closed() or not self._hand(chunk)

    def _hand(self, item: Chunk | Exception | None) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody is waiting any more
            return False
        return True


async def _events(
    run: _Run, reader: ReplyReader, card: ModelCard
) -> AsyncGenerator[StreamEvent, None]:
    started = False
    raw_finish: str | None = None
    stop_sequence: str | None = None
    async for chunk in run.chunks():
        if "error" in chunk:
            raise refusal_of(chunk)
        if not started:
            started = True
            yield StreamStart(str(chunk["id"]), card.model_id, int(chunk["created"]))
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for event in reader.reason(delta.get("reasoning_content") or ""):
                yield event
            for event in reader.feed(delta.get("content") or ""):
                yield event
            raw_finish = choice["finish_reason"] or raw_finish
        stop_sequence = stop_sequence_of(chunk) or stop_sequence
        if "usage" in chunk:
            yield UsageReport(usage_of(chunk))
    if raw_finish is None:
        raise RemoteProtocolError("llama.cpp broke the reply off")
    for event in reader.close(raw_finish, stop_sequence):
        yield event


def _check_installed(path: Path) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(
            "the embedded model needs the package xllamacpp, which is not installed",
            remedy="Run: pip install 'kimiya[local]'",
        )
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ConfigError(
            f"the model file {path} cannot be read ({error.strerror})",
            key="model_path",
            remedy="Run `kimiya local install`, or give the path of a GGUF file",
        ) from error
    if magic != b"GGUF":
        raise ConfigError(
            f"{path} is not a GGUF file",
            key="model_path",
            remedy="Run `kimiya local install`, or give the path of a GGUF file",
        )


if TYPE_CHECKING:
    _conforms: type[Provider] = LlamaCppProvider
