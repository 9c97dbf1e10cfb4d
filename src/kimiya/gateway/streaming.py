"""Sending a reply as it comes: events in, the client's own stream out.

The status line waits for the first event, so an error before content is an ordinary error answer.
An error after that is said inside the stream, in the dialect's own form, and ends it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

import msgspec

from kimiya.core.events import StreamEvent, StreamStart
from kimiya.core.exchange import Request
from kimiya.errors import KimiyaError
from kimiya.gateway.exchange import Exchange, encode_headers
from kimiya.gateway.remarks import closing_remarks, opening_remarks
from kimiya.pipeline import Call
from kimiya.wire.dialect import Dialect, EventEncoder

PING_INTERVAL_S = 15.0
"""A stream that has nothing to say for so long says a ping, so that proxies keep it open."""


class _Pinger:
    """Keeps a quiet stream open, with a timer instead of a task."""

    def __init__(self, exchange: Exchange, encoder: EventEncoder) -> None:
        self._exchange = exchange
        self._encoder = encoder
        self._loop = asyncio.get_running_loop()
        self._spoke_at = self._loop.time()
        self._sending: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(PING_INTERVAL_S, self._wake)

    def spoke(self) -> None:
        """Something was sent just now."""
        self._spoke_at = self._loop.time()

    def stop(self) -> None:
        """No more pings."""
        self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def _wake(self) -> None:
        quiet_s = self._loop.time() - self._spoke_at
        if quiet_s >= PING_INTERVAL_S:
            if ping := self._encoder.ping():
                self._sending = self._loop.create_task(self._exchange.write(ping))
            self._spoke_at = self._loop.time()
            quiet_s = 0.0
        self._timer = self._loop.call_later(PING_INTERVAL_S - quiet_s, self._wake)


async def send_stream(exchange: Exchange, dialect: Dialect, request: Request, call: Call) -> None:
    """Answer with the call's events.

    Raises:
        KimiyaError: Nothing has been sent yet; later errors go into the stream.
    """
    async with aclosing(call):
        events = aiter(call)
        first = await anext(events)
        encoder = dialect.event_encoder(request)
        await exchange.start(
            200,
            [
                (b"content-type", dialect.stream_content_type.encode()),
                (b"cache-control", b"no-cache"),
                *encode_headers(
                    {
                        f"x-kimiya-{key}": value
                        for key, value in opening_remarks(call.report).items()
                    }
                ),
            ],
        )
        pinger = _Pinger(exchange, encoder)
        try:
            await _send_events(exchange, encoder, request, first, events, pinger)
            tail = encoder.note(closing_remarks(call.report)) + encoder.close()
        except KimiyaError as error:
            tail = encoder.error(error)
        finally:
            pinger.stop()
        await exchange.write(tail, more=False)


async def _send_events(
    exchange: Exchange,
    encoder: EventEncoder,
    request: Request,
    first: StreamEvent,
    events: AsyncGenerator[StreamEvent, None],
    pinger: _Pinger,
) -> None:
    if not isinstance(first, StreamStart):
        await exchange.write(encoder.encode(shown_start(StreamStart(), request)))
    event: StreamEvent = first
    while True:
        if isinstance(event, StreamStart):
            event = shown_start(event, request)
        if data := encoder.encode(event):
            await exchange.write(data)
            pinger.spoke()
        try:
            event = await anext(events)
        except StopAsyncIteration:
            return


def shown_start(start: StreamStart, request: Request) -> StreamStart:
    """The start as the client sees it: the model it asked for, and never without an id."""
    return msgspec.structs.replace(
        start, model=request.model, response_id=start.response_id or new_response_id()
    )


def new_response_id() -> str:
    """An id for a reply whose host gave none."""
    return f"kmy-{uuid4().hex}"
