"""The ASGI application: which handler a path goes to, and nothing else."""

from collections.abc import Awaitable, Callable

from kimiya.errors import KimiyaError
from kimiya.gateway.endpoints import Endpoints
from kimiya.gateway.exchange import Exchange, Receive, Scope, Send
from kimiya.gateway.fronts import FrontTable


class Gateway:
    """One gateway process, as an ASGI application.

    ``on_startup`` is awaited before the first request, ``on_shutdown`` when the server has drained.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        on_startup: Callable[[], Awaitable[None]] | None = None,
        on_shutdown: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._fronts = FrontTable()
        self._on_startup = on_startup
        self._on_shutdown = on_shutdown
        self._pages: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "/v1/models": endpoints.models,
            "/healthz": endpoints.healthz,
            "/metrics": endpoints.metrics,
            "/openapi.json": endpoints.openapi,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        match = self._fronts.match(exchange.path, exchange.raw_path)
        if match is not None:
            if exchange.method == "POST":
                await self._endpoints.call(exchange, match)
            else:
                await self._endpoints.wrong_method(exchange, "POST")
        elif (page := self._pages.get(exchange.path)) is not None:
            if exchange.method in ("GET", "HEAD"):
                await page(exchange)
            else:
                await self._endpoints.wrong_method(exchange, "GET, HEAD")
        else:
            await self._endpoints.not_found(exchange)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    if self._on_startup is not None:
                        await self._on_startup()
                except KimiyaError as error:
                    await send({"type": "lifespan.startup.failed", "message": error.message})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._on_shutdown is not None:
                    await self._on_shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return
