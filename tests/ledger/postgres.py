"""A PostgreSQL database for a test, behind a relay that can be cut.

The server comes from ``scripts/postgres_for_tests.sh``, whose address is in
``KIMIYA_TEST_POSTGRES``; where nobody set it, the script is run here once. Without a server the
tests skip and say why.
"""

import asyncio
import contextlib
import functools
import os
import re
import secrets
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from msgspec import Struct

_SCRIPT = Path(__file__).parents[2] / "scripts" / "postgres_for_tests.sh"


@functools.cache
def server() -> str:
    """Address of the server, or a skip with the reason."""
    pytest.importorskip("asyncpg", reason="kimiya[postgres] is not installed")
    if dsn := os.environ.get("KIMIYA_TEST_POSTGRES"):
        return dsn
    done = subprocess.run(
        ["sh", str(_SCRIPT)], capture_output=True, text=True, timeout=300, check=False
    )
    found = re.search(r"KIMIYA_TEST_POSTGRES=(\S+)", done.stdout)
    if found is None:
        pytest.skip(f"no PostgreSQL: {done.stderr.strip() or 'the script said nothing'}")
    return found[1]


class Relay:
    """A port in front of the server; cut, it refuses and drops what it held."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen, at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection(*self._upstream)
            self._writers |= {writer, far_writer}
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


class Database(Struct):
    """A schema of its own, gone after the test."""

    dsn: str
    relay: Relay


@asynccontextmanager
async def database() -> AsyncGenerator[Database]:
    """A fresh schema behind a relay."""
    import asyncpg

    root = server()
    schema = f"t_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(root)
    await connection.execute(f"CREATE SCHEMA {schema}")
    place = urlsplit(root)
    relay = Relay(place.hostname or "127.0.0.1", place.port or 5432)
    await relay.start()
    dsn = f"postgresql://{place.username}@127.0.0.1:{relay.port}{place.path}?search_path={schema}"
    try:
        yield Database(dsn, relay)
    finally:
        await relay.cut()
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()
