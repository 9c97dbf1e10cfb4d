"""Running the gateway: the address checked, uvicorn started, everything drained and closed."""

import gc
import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from kimiya.assembly import assemble, installed_model
from kimiya.config.discovery import effective_config
from kimiya.config.load import load_config
from kimiya.config.settings import Config, GatewayConfig
from kimiya.errors import ConfigError
from kimiya.gateway.app import Gateway
from kimiya.gateway.endpoints import Endpoints, Limits
from kimiya.gateway.keys import KeyStore, check_address
from kimiya.gateway.metrics import Metrics
from kimiya.gateway.telemetry import Telemetry


def build_gateway(config: Config) -> Gateway:
    """The ASGI application for a configuration.

    Raises:
        ConfigError: A provider cannot be made, or the address is refused without keys.
    """
    settings = config.gateway
    keys = KeyStore(Path(settings.keys_file).expanduser())
    check_address(settings.host, keys)
    app = assemble(config)
    telemetry = Telemetry.from_environment()
    endpoints = Endpoints(
        app.pipeline,
        app.routes,
        keys=keys,
        limits=Limits(max_body_bytes=settings.max_body_bytes, max_streams=settings.max_streams),
        metrics=Metrics(),
        telemetry=telemetry,
    )

    async def close() -> None:
        await app.aclose()
        if telemetry is not None:
            telemetry.shutdown()

    return Gateway(endpoints, on_startup=app.open_books, on_shutdown=close)


def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; open calls then get ``gateway.drain_s`` seconds.

    Raises:
        ConfigError: As ``build_gateway``; or the address cannot be listened on.
    """
    settings = config.gateway
    logging.basicConfig(
        level=settings.log.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    check_address(settings.host, KeyStore(Path(settings.keys_file).expanduser()))
    listener = _listen(settings)
    try:
        if settings.workers > 1:
            _serve_many(config, listener)
        else:
            _Server(uvicorn_config(build_gateway(config), settings)).run([listener])
    finally:
        listener.close()


def uvicorn_config(app: Gateway | str, settings: GatewayConfig) -> uvicorn.Config:
    """uvicorn as the gateway wants it: httptools, uvloop, our headers only."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        http="httptools",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=settings.access_log,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        backlog=2048,
    )


def gateway_of_environment() -> Gateway:
    """The application of one worker process, which reads its configuration anew.

    ``serve`` puts the file's path into ``KIMIYA_CONFIG`` before workers start.
    """
    return build_gateway(effective_config(load_config(), gguf=installed_model()))


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _settle_garbage()
        for listener in sockets or []:
            announce(listener)


def _settle_garbage() -> None:
    """Collect rarely, and never look again at what the start has made.

    A call makes a few hundred values, which reference counting frees; looking for cycles among them
    every 700 allocations, with all modules in view, is processor time on every call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def announce(listener: socket.socket) -> None:
    """The two lines that point a client here."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Kimiya listens on http://{shown}:{port}", flush=True)
    print(f"  export OPENAI_BASE_URL=http://{shown}:{port}/v1", flush=True)
    print(f"  export ANTHROPIC_BASE_URL=http://{shown}:{port}", flush=True)


def _serve_many(config: Config, listener: socket.socket) -> None:
    if config.file is not None:
        os.environ["KIMIYA_CONFIG"] = config.file
    server = uvicorn_config("kimiya.gateway.server:gateway_of_environment", config.gateway)
    announce(listener)
    Multiprocess(server, sockets=[listener]).run()


def _listen(settings: GatewayConfig) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        # Named TCP, so that the event loop turns Nagle's delay off on what it accepts.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            key="gateway.port",
            remedy="is another gateway running? choose another with --port",
        ) from error
    listener.set_inheritable(True)
    return listener
