"""A simulated host as an ASGI application: real HTTP in the dialects of OpenAI, Anthropic, Bedrock.

What leaves here is as damaged as the wire allows; only names in pieces come whole outside OpenAI
chat, whose wire alone has a place for them. A broken connection is a body without its end.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import assert_never
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from kimiya.core.clock import Clock
from kimiya.core.events import StreamEvent, ToolCallDelta
from kimiya.core.exchange import Request
from kimiya.core.fold import fold, unfold
from kimiya.core.token_estimate import estimate_input_tokens
from kimiya.errors import InvalidRequest, LocalProtocolError
from kimiya.providers.simulated.bedrock_front import BedrockFront, Charge
from kimiya.providers.simulated.bedrock_refusal import Refusal
from kimiya.providers.simulated.exchange import Exchange, Receive, Scope, Send
from kimiya.providers.simulated.host import Performance, SimulatedHost
from kimiya.providers.simulated.provider import FOREVER_S, error_of
from kimiya.providers.simulated.raw_chat import RawChatEncoder
from kimiya.providers.simulated.script import Cut, Fail, Page, Pause
from kimiya.providers.simulated.staging import Action, Interruption
from kimiya.wire.dialect import Dialect, Route

PAGE = b"<!DOCTYPE html><html><body><h1>Bad gateway</h1><p>simulated</p></body></html>"


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
        aws: The AWS account in front of it, with its profiles, refusals and cache accounting;
            without one Converse answers to any model id.
    """

    def __init__(
        self,
        host: SimulatedHost,
        dialects: Iterable[Dialect],
        clock: Clock,
        aws: BedrockFront | None = None,
    ) -> None:
        self.host = host
        self._aws = aws
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
        exchange = Exchange(scope, receive, send)
        if self._aws is not None and await self._aws.answers(exchange):
            return
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
        if self._aws is not None and (invoked := self._aws.invoked(path)) is not None:
            return _Spoken(*invoked)
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

    async def _answer(self, exchange: Exchange, spoken: _Spoken, body: bytes) -> None:
        dialect = spoken.dialect
        aws, model_id = self._aws, spoken.model
        try:
            charge = Charge() if aws is None else aws.admit(exchange, model_id, body)
            request = dialect.decode_request(body, model=model_id, stream=spoken.route.streams)
            if spoken.route.counts_tokens:
                counted = dialect.encode_token_count(estimate_input_tokens(request))
                await exchange.answer(200, counted)
                return
            performance = charge.applied(self.host.perform(request))
            exchange.remark(performance)
            playing = self._play_stream if request.stream else self._play_whole
            await playing(exchange, dialect, request, performance)
            if exchange.has_ended:
                charge.settle(performance)
        except Refusal as refusal:
            await exchange.answer(refusal.status, refusal.body, refusal.headers)
        except (LocalProtocolError, InvalidRequest) as error:
            await exchange.refuse(dialect, error)

    async def _play_stream(
        self, exchange: Exchange, dialect: Dialect, request: Request, performance: Performance
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
        self, exchange: Exchange, dialect: Dialect, request: Request, performance: Performance
    ) -> None:
        events: list[StreamEvent] = []
        for action in performance.actions:
            if not isinstance(action, Interruption):
                events.append(action)
            elif await self._interrupts(exchange, dialect, action):
                return
        await exchange.answer(200, dialect.encode_response(fold(events), request))

    async def _interrupts(self, exchange: Exchange, dialect: Dialect, action: Interruption) -> bool:
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
