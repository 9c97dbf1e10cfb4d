"""A simulated host served from a thread, for clients that block the loop they run on."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from msgspec import Struct

from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.host import SimulatedHost
from kimiya.providers.simulated.server import Running, running


class Served(Struct):
    """A host that another thread serves."""

    base_url: str
    host: SimulatedHost
    abandoned: Event
    """Set when a client left before its answer was whole."""


@contextmanager
def served(script: str) -> Iterator[Served]:
    """A simulated host on a port, in a loop and thread of its own: most agents here are sync."""
    up, left, over = Event(), Event(), Event()
    hosts: list[Running] = []

    async def serve() -> None:
        async with running(parse_script(script)) as host:
            hosts.append(host)
            up.set()
            watching = asyncio.create_task(host.abandoned.wait())
            watching.add_done_callback(lambda _: left.set())
            await asyncio.to_thread(over.wait)
            watching.cancel()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert up.wait(30)
    try:
        yield Served(hosts[0].base_url, hosts[0].host, left)
    finally:
        over.set()
        thread.join()
