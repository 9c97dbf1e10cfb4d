"""A Kimi host behind a gateway: what reaches it, byte for byte, and who asks it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from kimiya.assembly import App, assemble
from kimiya.config.discovery import effective_config
from kimiya.config.settings import Config, ProviderConfig, RouteConfig
from kimiya.core.clock import VirtualClock
from kimiya.core.exchange import Request, Response
from kimiya.core.fold import fold
from kimiya.providers.simulated.server import Running
from kimiya.providers.transport import AiohttpTransport
from kimiya.wire.dialect import WireOptions
from kimiya.wire.dialects import DIALECTS
from tests.gateway.driver import Answer, Client, gateway_over

FRONTS = sorted(DIALECTS)


class Replica(Struct):
    """One gateway process, as its clients see it."""

    client: Client
    app: App


@asynccontextmanager
async def replica_before(
    hosts: Mapping[str, Running], folder: Path, *, retries: int = 0, card: str = "vllm/kimi-k2.5"
) -> AsyncIterator[Replica]:
    """A new gateway whose route ``model`` leads to these hosts, in their order, by this card."""
    owner, _, model = card.partition("/")
    config = Config(
        providers={
            name: ProviderConfig(kind="openai", host=owner, base_url=host.base_url)
            for name, host in hosts.items()
        },
        routes={
            "model": RouteConfig(
                targets=tuple(f"{name}:{model}" for name in hosts), retries=retries
            )
        },
    )
    app = assemble(effective_config(config, {}), env={}, clock=VirtualClock())
    try:
        yield Replica(Client(gateway_over(app, folder)), app)
    finally:
        await app.aclose()


class Posted(list[bytes]):
    """Bodies that left for a host, in their order."""

    @property
    def messages(self) -> list[bytes]:
        """The messages of each, as they stand in the body."""
        return [bytes(msgspec.json.decode(body, type=_Body).messages) for body in self]


class _Body(Struct):
    messages: msgspec.Raw


def record_posts(monkeypatch: pytest.MonkeyPatch) -> Posted:
    """Keep every body the transport sends."""
    posted = Posted()
    post = AiohttpTransport.post

    async def recording(
        self: AiohttpTransport, url: str, body: bytes, headers: Mapping[str, str]
    ) -> object:
        posted.append(body)
        return await post(self, url, body, headers)

    monkeypatch.setattr(AiohttpTransport, "post", recording)
    return posted


async def send(client: Client, front: str, request: Request) -> Answer:
    """Send a request in a front's dialect."""
    wire = DIALECTS[front].encode_request(request, WireOptions())
    path = wire.path if wire.path.startswith(("/model", "/v1")) else f"/v1{wire.path}"
    return await client.send(path, wire.body, headers=wire.headers)


def reply_of(answer: Answer, front: str, *, stream: bool) -> Response:
    """What a client of this front makes of an answer."""
    assert answer.status == 200, answer.body
    dialect = DIALECTS[front]
    if not stream:
        return dialect.decode_response(answer.body)
    decoder = dialect.event_decoder()
    events = [event for piece in answer.pieces for event in decoder.feed(piece)]
    return fold([*events, *decoder.close()])
