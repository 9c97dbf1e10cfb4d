"""A host of which the test writes every byte, to see what a transport does with it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec import Struct, field


class Seen(Struct):
    """What the host saw."""

    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Request line, headers (lower case), body."""
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request has arrived."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closed its connection."""
    base_url: str = ""


class Exchange(Struct):
    """One request, and the pen to answer it with."""

    writer: asyncio.StreamWriter
    number: int
    """Of this request on its connection, from 1."""
    connection: int

    def answer(self, body: bytes, *, status: str = "200 OK", headers: str = "") -> None:
        """A whole answer."""
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)

    def open_chunked(self, content_type: str = "text/event-stream") -> None:
        """The head of a chunked answer."""
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n"
        self.writer.write(head.encode() + b"\r\n")

    def chunk(self, data: bytes) -> None:
        """One chunk; an empty one ends the body."""
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    def hang_up(self) -> None:
        """Close the connection."""
        self.writer.close()


Handler = Callable[[Exchange], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_host(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Seen]:
    """Serve ``handler`` on a loopback port; the connections end with the block."""
    seen = Seen()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        connection, number = seen.connections, 0
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen.requests.append((head[0], headers, body))
                seen.asked.set()
                number += 1
                await handler(Exchange(writer, number, connection))
        except (asyncio.IncompleteReadError, ConnectionError):
            seen.gone.set()
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    seen.base_url = (
        f"{'https' if tls else 'http'}://localhost:{port}" if tls else (f"http://127.0.0.1:{port}")
    )
    try:
        yield seen
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
