"""Strands Agents over Kimiya's pipeline, inside the process: no gateway, and nothing lost.

Strands' own OpenAI model leaves reasoning out of the history, which Kimi needs back within a tool
loop, and runs whatever call the host's parser makes of a reply. ``KimiyaModel`` keeps reasoning as
content blocks of the history, sends it back in the host's own field, and passes only tamed calls.

Strands speaks Bedrock's shapes, so requests are read by the Bedrock Converse dialect; what a host
cannot take (a cache point, say) is adapted and said in ``last_report``.

Strands runs every invocation of an agent on an event loop of its own. Connections belong to one
loop, so each model has one in a thread, from its first call until ``close``.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, cast

import msgspec
from strands.event_loop.streaming import process_stream
from strands.models import Model
from strands.models.model import BaseModelConfig
from strands.tools.structured_output import convert_pydantic_to_tool_spec
from strands.types.content import Messages, SystemContentBlock
from strands.types.exceptions import ContextWindowOverflowException, ModelThrottledException
from strands.types.streaming import StreamEvent as Chunk
from strands.types.tools import ToolChoice, ToolSpec
from typing_extensions import Unpack, override

from kimiya.assembly import App, assemble
from kimiya.config import Config, ProviderConfig, RouteConfig, effective_config, load_config
from kimiya.core.context import CallContext
from kimiya.core.events import (
    Finish,
    PartEnd,
    ReasoningDelta,
    StreamEvent,
    StreamStart,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from kimiya.core.exchange import Request, Sampling, Thinking
from kimiya.errors import ConfigError, ContextOverflow, Overloaded, RateLimited
from kimiya.pipeline import Report
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE
from kimiya.wire.bedrock_converse_replies import stop_reason, write_usage

if TYPE_CHECKING:
    from pydantic import BaseModel
    from strands.agent.agent_metadata import AgentMetadata

    T = TypeVar("T", bound=BaseModel)

_log = logging.getLogger(__name__)
_Item: TypeAlias = StreamEvent | Report


class Settings(BaseModelConfig, total=False):
    """What can be set on a model, beside its name."""

    max_tokens: int | None
    """Reasoning included."""
    temperature: float | None
    top_p: float | None
    stop: tuple[str, ...]
    thinking: bool | None
    """``None`` leaves it to the host."""


class NamedSettings(Settings, total=False):
    """The same, and which model."""

    model_id: str
    """A route, alias or ``provider:model``, as in ``kimiya.toml``."""


class KimiyaModel(Model):
    """A model for ``strands.Agent`` whose replies are tamed and whose reasoning stays.

    Args:
        model_id: A route, alias or ``provider:model`` of the configuration.
        config: A configuration, the path of one, or ``None`` for the usual places.
        prose: By tool name, how its argument looks when the model types it into the chat instead
            of calling; added to the configuration's ``[taming.prose]``.
        settings: See ``Settings``.

    Raises:
        ConfigError: The configuration or a setting cannot be used.
    """

    def __init__(
        self,
        model_id: str,
        config: Config | str | Path | None = None,
        *,
        prose: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        if not isinstance(config, Config):
            config = load_config(config)
        taming = config.taming
        if prose:
            taming = msgspec.structs.replace(taming, prose={**taming.prose, **prose})
        config = effective_config(msgspec.structs.replace(config, taming=taming))
        self._settings: NamedSettings = {"model_id": model_id}
        self._engine = _Engine(config)
        self.last_report: Report | None = None
        """What was done for the newest call: adjustments, verdict and repairs, attempts, cost."""
        self.update_config(**settings)

    @classmethod
    def at(
        cls,
        base_url: str,
        model_id: str,
        *,
        host: str = "vllm",
        api_key_env: str | None = None,
        **settings: Unpack[Settings],
    ) -> "KimiyaModel":
        """A model at an address that speaks OpenAI's chat completions.

        Args:
            base_url: With or without ``/v1``.
            model_id: As that host calls it.
            host: Whose rows of the catalogue hold there (``vllm``, ``sglang``, ``moonshot``).
            api_key_env: The environment variable that holds the key, where one is wanted.
            settings: See ``Settings``.
        """
        provider = ProviderConfig(
            kind="openai", host=host, base_url=base_url, api_key_env=api_key_env
        )
        route = RouteConfig(targets=(f"host:{model_id}",))
        config = Config(providers={"host": provider}, routes={model_id: route})
        return cls(model_id, config, **settings)

    @override
    def update_config(self, **model_config: Unpack[NamedSettings]) -> None:
        """Change settings.

        Raises:
            ConfigError: There is no such setting.
        """
        known = NamedSettings.__optional_keys__
        for name in model_config:
            if name not in known:
                remedy = f"Known: {', '.join(sorted(known))}"
                raise ConfigError("there is no such setting", key=name, remedy=remedy)
        self._settings.update(model_config)

    @override
    def get_config(self) -> NamedSettings:
        """The settings."""
        return self._settings

    def close(self) -> None:
        """Close every connection and end the thread; a later call opens them anew."""
        self._engine.close()

    @override
    async def stream(
        self,
        messages: Messages,
        tool_specs: list[ToolSpec] | None = None,
        system_prompt: str | None = None,
        *,
        tool_choice: ToolChoice | None = None,
        system_prompt_content: list[SystemContentBlock] | None = None,
        cancel_signal: threading.Event | None = None,
        agent_metadata: "AgentMetadata | None" = None,
        **kwargs: Any,
    ) -> AsyncGenerator[Chunk, None]:
        """One call of the model, as the chunks Strands puts messages together from.

        Raises:
            ContextWindowOverflowException: The conversation does not fit the model's window.
            ModelThrottledException: Every target refuses for now; Strands waits and asks again.
            KimiyaError: Anything else that no target could do.
        """
        if system_prompt_content is None and system_prompt:
            system_prompt_content = [{"text": system_prompt}]
        body = _body(messages, tool_specs, system_prompt_content, tool_choice)
        request = self._with_settings(
            BEDROCK_CONVERSE.decode_request(
                msgspec.json.encode(body), model=self._settings.get("model_id", ""), stream=True
            )
        )
        session = agent_metadata.session_id if agent_metadata is not None else None
        chunks = _Chunks()
        try:
            call = self._engine.call(request, CallContext(conversation=session))
            async with aclosing(call) as items:
                async for item in items:
                    if cancel_signal is not None and cancel_signal.is_set():
                        return
                    if isinstance(item, Report):
                        self._report(item)
                        continue
                    for chunk in chunks.of(item):
                        yield chunk
        except ContextOverflow as error:
            raise ContextWindowOverflowException(error.message) from error
        except (RateLimited, Overloaded) as error:
            raise ModelThrottledException(error.message) from error

    @override
    async def structured_output(
        self,
        output_model: "type[T]",
        prompt: Messages,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> "AsyncGenerator[dict[str, T | Any], None]":
        """The reply as a value of ``output_model``, asked for as the call of a tool of that shape.

        Raises:
            ValueError: The model answered without it.
        """
        tool = convert_pydantic_to_tool_spec(output_model)
        chunks = self.stream(prompt, [tool], system_prompt, tool_choice={"any": {}}, **kwargs)
        event: Any = {}
        async for event in process_stream(cast("AsyncIterable[Chunk]", chunks)):
            yield cast("dict[str, Any]", event)
        for block in event["stop"][1]["content"]:
            if (call := block.get("toolUse")) and call["name"] == tool["name"]:
                yield {"output": output_model(**call["input"])}
                return
        stopped = event["stop"][0]
        raise ValueError(f"the model gave no {output_model.__name__}; it stopped with {stopped!r}")

    def _with_settings(self, request: Request) -> Request:
        settings = self._settings
        sampling = Sampling(
            temperature=settings.get("temperature"),
            top_p=settings.get("top_p"),
            max_output_tokens=settings.get("max_tokens"),
            stop=tuple(settings.get("stop", ())),
        )
        thinking = Thinking(enabled=settings.get("thinking"))
        return msgspec.structs.replace(request, sampling=sampling, thinking=thinking)

    def _report(self, report: Report) -> None:
        self.last_report = report
        verdict = report.verdict
        if verdict.outcome != "ok":
            codes = ", ".join(repair.code for repair in verdict.repairs)
            said = verdict.reason or codes
            _log.info("%s: %s (%s)", report.target or report.model, verdict.outcome, said)


# What Strands says ------------------------------------------------------------------------------

_BLOCK_FIELDS: Mapping[str, tuple[str, ...]] = {
    "toolUse": ("toolUseId", "name", "input"),
    "toolResult": ("toolUseId", "content", "status"),
}
"""What Converse knows of the blocks that Strands adds to."""


class _Body(TypedDict, total=False):
    messages: list[dict[str, Any]]
    system: list[SystemContentBlock]
    toolConfig: dict[str, Any]


def _body(
    messages: Messages,
    tool_specs: list[ToolSpec] | None,
    system: list[SystemContentBlock] | None,
    tool_choice: ToolChoice | None,
) -> _Body:
    """A Converse body; bytes become base64 when it is encoded, as the wire wants them."""
    body: _Body = {
        "messages": [
            {"role": message["role"], "content": [_block(block) for block in message["content"]]}
            for message in messages
        ]
    }
    if system:
        body["system"] = system
    if tool_specs:
        tools = [
            {"toolSpec": {key: spec[key] for key in ("name", "description", "inputSchema")}}
            for spec in cast("list[dict[str, Any]]", tool_specs)
        ]
        body["toolConfig"] = {"tools": tools}
        if tool_choice:
            body["toolConfig"]["toolChoice"] = tool_choice
    return body


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    return {
        kind: {key: value[key] for key in _BLOCK_FIELDS[kind] if key in value}
        if kind in _BLOCK_FIELDS
        else value
        for kind, value in block.items()
    }


class _Chunks:
    """Serial events as the chunks of one reply: blocks are opened and closed in between."""

    def __init__(self) -> None:
        self._has_begun = False
        self._part: int | None = None

    def of(self, event: StreamEvent) -> list[Chunk]:
        """The chunks an event is."""
        out: list[dict[str, Any]] = []
        if not self._has_begun:
            self._has_begun = True
            out.append({"messageStart": {"role": "assistant"}})
        match event:
            case TextDelta(text=text):
                self._enter(event.part, {}, out)
                out.append(_delta({"text": text}))
            case ReasoningDelta():
                self._enter(event.part, {}, out)
                out += [_delta({"reasoningContent": piece}) for piece in _reasoning(event)]
            case ToolCallDelta():
                use = {"toolUse": {"name": event.name, "toolUseId": event.call_id}}
                self._enter(event.part, use, out)
                out.append(_delta({"toolUse": {"input": event.arguments}}))
            case PartEnd():
                if event.part == self._part:
                    self._leave(out)
            case Finish():
                self._leave(out)
                word = stop_reason(event.finish_reason, event.raw_finish_reason)
                out.append({"messageStop": {"stopReason": word}})
            case UsageReport(usage=usage):
                metadata = {"usage": write_usage(usage), "metrics": {"latencyMs": 0}}
                out.append({"metadata": metadata})
            case StreamStart():
                pass
        return cast("list[Chunk]", out)

    def _enter(self, part: int, start: dict[str, Any], out: list[dict[str, Any]]) -> None:
        if part != self._part:
            self._leave(out)
            self._part = part
            out.append({"contentBlockStart": {"start": start}})

    def _leave(self, out: list[dict[str, Any]]) -> None:
        if self._part is not None:
            self._part = None
            out.append({"contentBlockStop": {}})


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    return {"contentBlockDelta": {"delta": delta}}


def _reasoning(event: ReasoningDelta) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = []
    if event.text:
        pieces.append({"text": event.text})
    if event.signature is not None:
        pieces.append({"signature": event.signature})
    if event.redacted is not None:
        pieces.append({"redactedContent": event.redacted.encode()})
    return pieces


# A loop of its own ------------------------------------------------------------------------------


class _Engine:
    """The pipeline on an event loop in a thread, which any other loop may ask."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app: App | None = None
        self._thread: threading.Thread | None = None

    async def call(self, request: Request, context: CallContext) -> AsyncGenerator[_Item, None]:
        """The events of one call, then its report; leaving early stops the call."""
        here = asyncio.get_running_loop()
        items: asyncio.Queue[_Item | None] = asyncio.Queue()

        def tell(item: _Item | None) -> None:
            with suppress(RuntimeError):  # the asking loop is closed: nobody listens any more
                here.call_soon_threadsafe(items.put_nowait, item)

        loop, app = self._opened()

        async def run() -> None:
            call = app.pipeline.stream(request, context)
            try:
                async with aclosing(call):
                    async for event in call:
                        tell(event)
            finally:
                tell(call.report)
                tell(None)

        running = asyncio.run_coroutine_threadsafe(run(), loop)
        try:
            while (item := await items.get()) is not None:
                yield item
            await asyncio.wrap_future(running)
        finally:
            running.cancel()

    def close(self) -> None:
        with self._lock:
            loop, app, thread = self._loop, self._app, self._thread
            self._loop = self._app = self._thread = None
        if loop is None or app is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_wind_up(app), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _opened(self) -> tuple[asyncio.AbstractEventLoop, App]:
        with self._lock:
            if self._loop is None or self._app is None:
                self._app = assemble(self._config)
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="kimiya", daemon=True
                )
                self._thread.start()
            return self._loop, self._app


async def _wind_up(app: App) -> None:
    """Stop whatever is still being answered, then close every connection."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await app.aclose()
