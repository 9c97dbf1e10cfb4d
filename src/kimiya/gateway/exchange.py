"""One HTTP exchange over ASGI: reading a bounded body, answering, noticing that the client left."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias

from kimiya.errors import LocalProtocolError

Scope: TypeAlias = MutableMapping[str, Any]
AsgiMessage: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]


class BodyTooLarge(LocalProtocolError):
    """The body passes the gateway's limit."""

    status_hint = 413


class HeadersTooLarge(LocalProtocolError):
    """The header fields pass the gateway's limit."""

    status_hint = 431


class ClientGone(Exception):
    """The client closed its connection before it had the whole reply."""


class Exchange:
    """One request and its answer.

    Header names are lower-case bytes, as ASGI gives them.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope.get("raw_path") or self.path.encode()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.has_started = False
        """Whether the status line has been sent; after that only the body can tell of errors."""
        self.status = 0
        self._header_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
        self._receive = receive
        self._send = send

    def check_headers(self, max_header_bytes: int) -> None:
        """Refuse oversized header fields.

        Raises:
            HeadersTooLarge: They are.
        """
        if self._header_bytes > max_header_bytes:
            raise HeadersTooLarge(
                f"the header fields take {self._header_bytes} bytes;"
                f" this gateway reads at most {max_header_bytes}"
            )

    async def body(self, max_body_bytes: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: It is longer than ``max_body_bytes``; where the length is declared, that
                is known before any of it is read.
            ClientGone: The client left half-way.
        """
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > max_body_bytes:
            raise _too_large(int(declared), max_body_bytes)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > max_body_bytes:
                raise _too_large(size, max_body_bytes)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the status line and headers."""
        self.has_started = True
        self.status = status
        await self._send(
            {"type": "http.response.start", "status": status, "headers": list(headers)}
        )

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the body; returns when the client has room for more."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(
        self,
        status: int,
        body: bytes,
        content_type: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole answer."""
        await self.start(
            status,
            [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
                *encode_headers(headers or {}),
            ],
        )
        await self.write(b"" if self.method == "HEAD" else body, more=False)

    async def until_gone(self) -> None:
        """Return when the client has closed its connection; use only after ``body``."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Header fields as ASGI wants them."""
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
    ]


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has at least {size} bytes; this gateway takes at most {limit}"
        " (raise gateway.max_body_bytes in kimiya.toml)"
    )


class Departure:
    """Cancels the running task when the client leaves.

    Used as ``async with Departure(exchange):``. Where the client left, the body of the block is
    cancelled and ``ClientGone`` is raised in its place; a cancellation from anywhere else passes
    through untouched. One watcher task per exchange, ended with the block.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._has_left = False
        self._task: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Departure":
        self._task = asyncio.current_task()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._watcher is not None
        assert self._task is not None
        self._watcher.cancel()
        is_ours = self._has_left and isinstance(error, asyncio.CancelledError)
        # Another cancellation that came meanwhile leaves a count above zero, and goes on.
        if is_ours and self._task.uncancel() == 0:
            raise ClientGone from None

    async def _watch(self) -> None:
        await self._exchange.until_gone()
        self._has_left = True
        assert self._task is not None
        self._task.cancel()
