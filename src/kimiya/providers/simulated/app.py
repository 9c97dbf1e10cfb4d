"""A simulated host as an ASGI application: real HTTP in the dialects of OpenAI, Anthropic, Bedrock.

What leaves here is as damaged as the wire allows; only names in pieces come whole outside OpenAI
chat, whose wire alone has a place for them. A broken connection is a body without its end.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias, assert_never
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from kimiya.core.clock import Clock
from kimiya.core.events import StreamEvent, ToolCallDelta
from kimiya.core.exchange import Request
from kimiya.core.fold import fold, unfold
from kimiya.core.token_estimate import estimate_input_tokens
from kimiya.errors import InvalidRequest, KimiyaError, LocalProtocolError, ProviderError
from kimiya.providers.simulated.host import Performance, SimulatedHost
from kimiya.providers.simulated.provider import FOREVER_S, error_of
from kimiya.providers.simulated.raw_chat import RawChatEncoder
from kimiya.providers.simulated.script import Cut, Fail, Page, Pause
from kimiya.providers.simulated.staging import Action, Interruption
from kimiya.wire.dialect import Dialect, Route

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PAGE = b"<!DOCTYPE html><html><body><h1>Bad gateway</h1><p>simulated</p></body></html>"
MAX_BODY_BYTES = 64 << 20


class _Spoken(Struct, frozen=True):
    """A path understood."""

    dialect: Dialect
    route: Route
    model: str | None


class SimulatedApp:
    """Serves one host in some dialects.

    Args:
        host: What it says.
        dialects: What it says it in.
        clock: What pauses wait on.
    """

    def __init__(self, host: SimulatedHost, dialects: Iterable[Dialect], clock: Clock) -> None:
        self.host = host
        self.abandoned = asyncio.Event()
        """Set when a client left before its answer was whole."""
        self._clock = clock
        self._routes = [
            (_pattern(route.path), dialect, route)
            for dialect in dialects
            for route in dialect.routes
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = _Exchange(scope, receive, send)
        if scope["method"] == "GET" and exchange.path.endswith("/models"):
            await exchange.answer(200, self._models())
            return
        spoken = self._spoken(exchange.path) if scope["method"] == "POST" else None
        if spoken is None:
            await exchange.answer(404, b'{"error":{"message":"nothing is simulated here"}}')
            return
        answering = asyncio.ensure_future(self._answer(exchange, spoken, await exchange.body()))
        leaving = asyncio.ensure_future(exchange.left())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.abandoned.set()
        finally:
            leaving.cancel()
            answering.cancel()
            await asyncio.wait({answering, leaving})
        if not answering.cancelled():
            answering.result()

    def _spoken(self, path: str) -> _Spoken | None:
        for pattern, dialect, route in self._routes:
            if match := pattern.fullmatch(path):
                model = match.groupdict().get("model")
                return _Spoken(dialect, route, None if model is None else unquote(model))
        return None

    def _models(self) -> bytes:
        rows = [
            {"id": name, "object": "model", "type": "model", "display_name": name, "created": 0}
            for name in self.host.script.models
        ]
        return msgspec.json.encode({"object": "list", "data": rows, "has_more": False})

    async def _answer(self, exchange: "_Exchange", spoken: _Spoken, body: bytes) -> None:
        dialect = spoken.dialect
        try:
            request = dialect.decode_request(body, model=spoken.model, stream=spoken.route.streams)
            if spoken.route.counts_tokens:
                counted = dialect.encode_token_count(estimate_input_tokens(request))
                await exchange.answer(200, counted)
                return
            performance = self.host.perform(request)
            exchange.remark(performance)
            playing = self._play_stream if request.stream else self._play_whole
            await playing(exchange, dialect, request, performance)
        except (LocalProtocolError, InvalidRequest) as error:
            await exchange.refuse(dialect, error)

    async def _play_stream(
        self, exchange: "_Exchange", dialect: Dialect, request: Request, performance: Performance
    ) -> None:
        tame = dialect.event_encoder(request)
        is_chat = dialect.name == "openai_chat"
        encoder = RawChatEncoder(tame) if is_chat else tame
        actions = performance.actions if is_chat else _named_once(performance.actions)
        for action in actions:
            if not isinstance(action, Interruption):
                await exchange.begin(dialect.stream_content_type)
                await exchange.write(encoder.encode(action))
            elif isinstance(action, Fail) and exchange.has_begun:
                await exchange.end(tame.error(error_of(action)))
                return
            elif await self._interrupts(exchange, dialect, action):
                return
        await exchange.end(encoder.close())

    async def _play_whole(
        self, exchange: "_Exchange", dialect: Dialect, request: Request, performance: Performance
    ) -> None:
        events: list[StreamEvent] = []
        for action in performance.actions:
            if not isinstance(action, Interruption):
                events.append(action)
            elif await self._interrupts(exchange, dialect, action):
                return
        await exchange.answer(200, dialect.encode_response(fold(events), request))

    async def _interrupts(
        self, exchange: "_Exchange", dialect: Dialect, action: Interruption
    ) -> bool:
        """Whether the answer ends here."""
        match action:
            case Pause():
                delay_s = FOREVER_S if action.delay_s is None else action.delay_s
                await self._clock.sleep(delay_s)
                return False
            case Fail():
                await exchange.refuse(dialect, error_of(action))
            case Page():
                await exchange.answer(action.status, PAGE, {"content-type": "text/html"})
            case Cut():
                await exchange.break_off(dialect.stream_content_type)
            case _:
                assert_never(action)
        return True


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.path = raw_path.decode("ascii", "replace").partition("?")[0]
        self.has_begun = False
        self._receive = receive
        self._send = send
        self._remarks: dict[str, str] = {}

    def remark(self, performance: Performance) -> None:
        """Say in the headers what was performed, for people who read along."""
        performed = performance.performed
        self._remarks = {
            "x-kimiya-simulated": f"request={performed.number} line={performed.line}"
            f" fault={performed.fault or 'none'}",
            # Converse has no id in its bodies; the service puts it here.
            "x-amzn-requestid": f"simulated-{performed.number}",
        }

    async def body(self) -> bytes:
        """The whole body, as far as it is sane."""
        pieces: list[bytes] = []
        size = 0
        while size <= MAX_BODY_BYTES:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if not message.get("more_body"):
                break
        return b"".join(pieces)

    async def left(self) -> None:
        """Returns when the client has closed its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer."""
        told = {"content-type": "application/json", **(headers or {})}
        await self._open(status, {**told, "content-length": str(len(body))})
        await self.end(body)

    async def refuse(self, dialect: Dialect, error: KimiyaError) -> None:
        """An error answer, with the status the script wants."""
        wire = dialect.encode_error(error)
        status = error.status if isinstance(error, ProviderError) and error.status else wire.status
        headers = dict(wire.headers)
        if isinstance(error, ProviderError) and error.retry_after_s is not None:
            # As written: dialects round up, and a test of seconds should not take one.
            headers["retry-after"] = f"{error.retry_after_s:g}"
        await self.answer(status, wire.body, headers)

    async def begin(self, content_type: str) -> None:
        """The head of a streamed answer, once."""
        if not self.has_begun:
            await self._open(200, {"content-type": content_type, "cache-control": "no-cache"})

    async def write(self, data: bytes) -> None:
        """Some of the body."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """The last of the body."""
        await self._send({"type": "http.response.body", "body": data})

    async def break_off(self, content_type: str) -> None:
        """Begin an answer that never ends; the server then closes the connection."""
        await self.begin(content_type)
        await self.write(b":" if content_type.startswith("text/") else b"\x00")

    async def _open(self, status: int, headers: Mapping[str, str]) -> None:
        self.has_begun = True
        fields = {**self._remarks, **headers}
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
            }
        )


def _pattern(path: str) -> re.Pattern[str]:
    before, model, after = path.partition("{model}")
    named = r"(?P<model>.+)" if model else ""
    # Clients that were given the bare address leave the version out.
    version = "(?:/v1)?" if before.startswith("/v1/") else ""
    return re.compile(version + re.escape(before.removeprefix("/v1")) + named + re.escape(after))


def _named_once(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """Calls whose name came in several deltas, said again in order; else what was given."""
    opened: set[int] = set()
    for action in actions:
        if isinstance(action, ToolCallDelta):
            if action.part in opened and action.name:
                events = [item for item in actions if not isinstance(item, Interruption)]
                return tuple(unfold(fold(events)))
            opened.add(action.part)
    return actions
