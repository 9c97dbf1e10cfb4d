"""Load on one address over raw keep-alive connections, and what the served process used for it.

Latencies are measured around each request; CPU time and memory are read from ``/proc`` of the
process under test, which holds on a noisy machine where wall times do not.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Load:
    """What one round measured."""

    latencies_ms: list[float] = field(default_factory=list)
    requests: int = 0
    events: int = 0
    errors: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_mb: float = 0.0

    @property
    def rps(self) -> float:
        """Requests a second."""
        return self.requests / self.wall_s if self.wall_s else 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_mb(pid: int) -> float:
    """Resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def request_bytes(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection that sends the same request again and again."""

    def __init__(self, request: bytes, load: Load, until_s: float, most: int) -> None:
        self.request = request
        self.load = load
        self.until_s = until_s
        self.left = most
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = bytearray()
        self.sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self.transport = transport
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends early is an error."""
        if not self.done.done():
            self.load.errors += 1
            self.done.set_result(None)

    def send(self) -> None:
        """The next request, or the end."""
        if self.left == 0 or time.perf_counter() > self.until_s:
            if not self.done.done():
                self.done.set_result(None)
            self.transport.close()
            return
        self.left -= 1
        self.sent_s = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count events; notice the end of the reply."""
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self.buffer[:head_end]).lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < head_end + 4 + length:
                return
        elif not self.buffer.endswith(b"0\r\n\r\n"):
            return
        self.load.latencies_ms.append((time.perf_counter() - self.sent_s) * 1000)
        self.load.requests += 1
        self.load.events += self.buffer.count(b"data:")
        if not head.startswith(b"http/1.1 200"):
            self.load.errors += 1
        self.buffer.clear()
        self.send()


async def put_load(
    port: int,
    request: bytes,
    *,
    connections: int,
    seconds: float,
    pid: int | None = None,
    most: int = -1,
) -> Load:
    """Send ``request`` over ``connections`` for ``seconds`` (or ``most`` times each)."""
    load = Load()
    loop = asyncio.get_running_loop()
    cpu_before = cpu_seconds(pid) if pid is not None else 0.0
    began = time.perf_counter()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: Connection(request, load, began + seconds, most), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.wait([client.done for client in clients], timeout=seconds + 60)
    load.wall_s = time.perf_counter() - began
    if pid is not None:
        load.cpu_s = cpu_seconds(pid) - cpu_before
        load.rss_mb = rss_mb(pid)
    for client in clients:
        client.transport.abort()
    return load
