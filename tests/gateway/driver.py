"""Drives the gateway's ASGI application inside the process, and a gateway to drive."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from kimiya.assembly import App
from kimiya.gateway.app import Gateway
from kimiya.gateway.endpoints import Endpoints, Limits
from kimiya.gateway.exchange import AsgiMessage
from kimiya.gateway.keys import KeyStore
from kimiya.gateway.metrics import Metrics


class Answer(Struct):
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    pieces: list[bytes]
    """The body as it was written."""


def gateway_over(
    app: App, folder: Path, limits: Limits | None = None, *, keys: KeyStore | None = None
) -> Gateway:
    """A gateway over assembled parts, with its own metrics."""
    endpoints = Endpoints(
        app.pipeline,
        app.routes,
        keys=keys or KeyStore(folder / "keys.json"),
        limits=limits or Limits(),
        metrics=Metrics(),
    )
    return Gateway(endpoints, on_shutdown=app.aclose)


class Client:
    """Sends requests to an application without sockets."""

    def __init__(self, gateway: Gateway, headers: Mapping[str, str] | None = None) -> None:
        self._gateway = gateway
        self._headers = headers or {}

    def with_headers(self, headers: Mapping[str, str]) -> "Client":
        """Another client of the same gateway."""
        return Client(self._gateway, {**self._headers, **headers})

    async def send(
        self,
        path: str,
        body: bytes | list[bytes] = b"",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        leave_after: int | None = None,
    ) -> Answer:
        """One request.

        Args:
            path: As on the wire, percent-encoded.
            body: Whole, or in the pieces it arrives in.
            method: HTTP method.
            headers: Beside the client's own.
            leave_after: Close the connection after so many pieces of the answer; 0 leaves once
                the body is sent.
        """
        pieces_in = [body] if isinstance(body, bytes) else list(body)
        answer = Answer(0, {}, b"", [])
        gone = asyncio.Event()
        if leave_after == 0:
            gone.set()

        async def receive() -> AsgiMessage:
            if pieces_in:
                piece = pieces_in.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces_in)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
                return
            if message["body"]:
                answer.pieces.append(message["body"])
            if leave_after is not None and len(answer.pieces) >= leave_after:
                gone.set()
            await asyncio.sleep(0)

        fields = {**self._headers, **(headers or {})}
        scope = {
            "type": "http",
            "method": method,
            "path": path.partition("?")[0].replace("%3A", ":").replace("%2F", "/"),
            "raw_path": path.encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in fields.items()],
        }
        await self._gateway(scope, receive, send)
        answer.body = b"".join(answer.pieces)
        return answer
