"""Puts a simulated host on a port.

``serve`` is what ``kimiya simulate FILE`` runs; ``running`` is the same for a test. Both listen on
loopback unless asked otherwise: a simulated host has no keys.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator, Iterable
from pathlib import Path

import uvicorn
from msgspec import Struct

from kimiya.core.clock import Clock, SystemClock
from kimiya.errors import ConfigError
from kimiya.providers.proxies import is_loopback
from kimiya.providers.simulated.app import SimulatedApp
from kimiya.providers.simulated.bedrock import SimulatedBedrock
from kimiya.providers.simulated.bedrock_front import BedrockFront
from kimiya.providers.simulated.host import SimulatedHost
from kimiya.providers.simulated.parser import read_script
from kimiya.providers.simulated.script import Script
from kimiya.wire.dialect import Dialect


class Running(Struct, frozen=True):
    """A host that listens."""

    base_url: str
    """Without ``/v1``: clients of OpenAI add it, clients of Anthropic and Bedrock do not."""
    host: SimulatedHost
    """Holds what was performed."""
    abandoned: asyncio.Event
    """Set when a client left before its answer was whole."""


def serve(
    script: str | Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    seed: int | None = None,
    dialects: Iterable[Dialect] | None = None,
    is_public: bool = False,
    is_aws: bool = False,
) -> None:
    """Serve a script file until SIGINT or SIGTERM.

    Args:
        script: The file.
        host: Address to listen on.
        port: Port to listen on.
        seed: Of all chance; ``None`` takes the script's own.
        dialects: What to speak; ``None`` speaks them all.
        is_public: Whether an address other than loopback is meant.
        is_aws: Whether a simulated AWS account stands in front of Converse.

    Raises:
        ConfigError: The script cannot be read, or the address not be used.
    """
    clock = SystemClock()
    account = SimulatedBedrock(clock) if is_aws else None
    app = _app(read_script(script), seed, dialects, clock, account)
    listener = _listener(host, port, is_public=is_public)
    try:
        uvicorn.Server(_config(app)).run([listener])
    finally:
        listener.close()


@contextlib.asynccontextmanager
async def running(
    script: Script,
    *,
    seed: int | None = None,
    dialects: Iterable[Dialect] | None = None,
    port: int = 0,
    clock: Clock | None = None,
    aws: SimulatedBedrock | None = None,
) -> AsyncGenerator[Running, None]:
    """Serve a script on a loopback port for the length of a block; 0 takes any free port.

    With ``aws``, Converse and the control plane answer as that account.
    """
    app = _app(script, seed, dialects, clock or SystemClock(), aws)
    listener = _listener("127.0.0.1", port, is_public=False)
    server = _BlockServer(_config(app))
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        address = listener.getsockname()
        yield Running(f"http://{address[0]}:{address[1]}", app.host, app.abandoned)
    finally:
        server.over.set()
        await serving
        listener.close()


class _BlockServer(uvicorn.Server):
    """A server inside a block of code: its owner ends it, not signals, and without delay."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.over = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        await self.over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # What is still being answered waits for a stall without an end.
        answering = list(self.server_state.tasks)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        for connection in list(self.server_state.connections):
            connection.shutdown()


def _app(
    script: Script,
    seed: int | None,
    dialects: Iterable[Dialect] | None,
    clock: Clock,
    aws: SimulatedBedrock | None,
) -> SimulatedApp:
    if dialects is None:
        from kimiya.wire.dialects import DIALECTS  # here: who names dialects loads no others

        dialects = DIALECTS.values()
    spoken = tuple(dialects)
    front = None if aws is None else BedrockFront(aws, spoken)
    return SimulatedApp(SimulatedHost(script, clock, seed), spoken, clock, front)


def _config(app: SimulatedApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        # A cut stream is an answer the application leaves unfinished, which is reported as its
        # mistake; here it is meant.
        log_level="critical",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


def _listener(host: str, port: int, *, is_public: bool) -> socket.socket:
    if not is_public and not is_loopback(host):
        raise ConfigError(
            f"a simulated host has no keys, and {host} can be reached from other machines",
            key="host",
            remedy="Listen on 127.0.0.1, or say --public if it is meant",
        )
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off on the connections; without it
    # head and body of an answer lie 40 ms apart.
    listener = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}",
            key="port",
            remedy="Choose another port",
        ) from error
    return listener
