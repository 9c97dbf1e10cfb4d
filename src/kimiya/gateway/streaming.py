"""Sending a reply as it comes: events in, the client's own stream out.

The status line waits for the first event, so an error before content is an ordinary error answer.
An error after that is said inside the stream, in the dialect's own form, and ends it. Only silence
for ``PING_INTERVAL_S`` opens the stream before there is an event.
"""

import asyncio
from contextlib import aclosing
from uuid import uuid4

import msgspec

from kimiya.core.events import StreamStart
from kimiya.core.exchange import Request
from kimiya.errors import KimiyaError
from kimiya.gateway.exchange import Exchange, encode_headers
from kimiya.gateway.remarks import closing_remarks, opening_remarks
from kimiya.pipeline import Call
from kimiya.wire.dialect import Dialect

PING_INTERVAL_S = 15.0
"""A stream that has nothing to say for so long says a ping, so that proxies keep it open."""


class _Stream:
    """The client's side of one streamed reply: opened late, kept open, ended once.

    A timer, not a task, watches for silence. Silence before the first event opens the stream early:
    a client that waits for a long thought must not take the connection for dead.
    """

    def __init__(self, exchange: Exchange, dialect: Dialect, request: Request, call: Call) -> None:
        self.encoder = dialect.event_encoder(request)
        self._content_type = dialect.stream_content_type
        self._exchange = exchange
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._spoke_at = self._loop.time()
        self._pinging: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(PING_INTERVAL_S, self._wake)

    async def open(self) -> None:
        """Send status and headers, unless a ping has done so already."""
        if not self._exchange.has_started:
            remarks = opening_remarks(self._call.report)
            await self._exchange.start(
                200,
                [
                    (b"content-type", self._content_type.encode()),
                    (b"cache-control", b"no-cache"),
                    *encode_headers({f"x-kimiya-{key}": text for key, text in remarks.items()}),
                ],
            )

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when the client has room for more."""
        self._spoke_at = self._loop.time()
        await self._exchange.write(data)

    def stop(self) -> None:
        """No more pings."""
        self._timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()

    def _wake(self) -> None:
        quiet_s = self._loop.time() - self._spoke_at
        if quiet_s >= PING_INTERVAL_S:
            if ping := self.encoder.ping():
                self._pinging = self._loop.create_task(self._ping(ping))
            self._spoke_at = self._loop.time()
            quiet_s = 0.0
        self._timer = self._loop.call_later(PING_INTERVAL_S - quiet_s, self._wake)

    async def _ping(self, ping: bytes) -> None:
        await self.open()
        await self._exchange.write(ping)


async def send_stream(exchange: Exchange, dialect: Dialect, request: Request, call: Call) -> None:
    """Answer with the call's events.

    Raises:
        KimiyaError: Nothing has been sent yet; later errors go into the stream.
    """
    stream = _Stream(exchange, dialect, request, call)
    try:
        async with aclosing(call):
            await _send_events(stream, request, call)
        tail = stream.encoder.note(closing_remarks(call.report)) + stream.encoder.close()
    except KimiyaError as error:
        if not exchange.has_started:
            raise
        tail = stream.encoder.error(error)
    finally:
        stream.stop()
    await exchange.write(tail, more=False)


async def _send_events(stream: _Stream, request: Request, call: Call) -> None:
    encoder = stream.encoder
    is_first = True
    async for event in call:
        if isinstance(event, StreamStart):
            event = shown_start(event, request)
        if is_first:
            is_first = False
            await stream.open()
            if not isinstance(event, StreamStart):
                await stream.write(encoder.encode(shown_start(StreamStart(), request)))
        if data := encoder.encode(event):
            await stream.write(data)


def shown_start(start: StreamStart, request: Request) -> StreamStart:
    """The start as the client sees it: the model it asked for, and never without an id."""
    return msgspec.structs.replace(
        start, model=request.model, response_id=start.response_id or new_response_id()
    )


def new_response_id() -> str:
    """An id for a reply whose host gave none."""
    return f"kmy-{uuid4().hex}"
