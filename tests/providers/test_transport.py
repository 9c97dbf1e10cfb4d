"""What the transport does with hosts that behave, and with hosts that do not.

Time limits run on the real loop, with limits of hundredths of a second: the host never answers at
all, so nothing here races against it.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from kimiya.errors import (
    ConfigError,
    ProviderTimeout,
    ProviderUnreachable,
    RemoteProtocolError,
)
from kimiya.providers.proxies import Proxies
from kimiya.providers.transport import AiohttpTransport, HttpReply, Timeouts
from tests.providers.raw_host import Exchange, Handler, Seen, raw_host

BRISK = Timeouts(connect_s=0.05, head_s=0.05, idle_s=0.05)
PATIENT = Timeouts(connect_s=5, head_s=5, idle_s=5)


@contextlib.asynccontextmanager
async def calling(
    handler: Handler, timeouts: Timeouts = PATIENT, **options: object
) -> AsyncIterator[tuple[AiohttpTransport, Seen]]:
    transport = AiohttpTransport(timeouts, **options)  # type: ignore[arg-type]
    async with raw_host(handler) as seen:
        try:
            yield transport, seen
        finally:
            await transport.aclose()


async def echo(exchange: Exchange) -> None:
    exchange.answer(b"hello", headers="X-Request-Id: r1\r\n")


async def nothing(exchange: Exchange) -> None:
    """Take the request and never answer."""


async def test_a_whole_answer_and_what_was_sent() -> None:
    async with calling(echo) as (transport, seen):
        reply = await transport.post(
            f"{seen.base_url}/model/a%3Ab%2Fc/converse", b"{}", {"content-type": "application/json"}
        )
        assert (reply.status, reply.headers["x-request-id"]) == (200, "r1")
        assert await reply.read() == b"hello"
    line, headers, body = seen.requests[0]
    assert line == "POST /model/a%3Ab%2Fc/converse HTTP/1.1"
    assert body == b"{}"
    assert headers.pop("host").startswith("127.0.0.1:")
    assert headers == {
        "content-type": "application/json",
        "content-length": "2",
        "user-agent": "kimiya",
        "accept-encoding": "identity",
    }


async def test_get_has_no_body() -> None:
    async with calling(echo) as (transport, seen):
        assert await (await transport.get(f"{seen.base_url}/v1/models", {})).read() == b"hello"
    assert seen.requests[0][0] == "GET /v1/models HTTP/1.1"
    assert "content-length" not in seen.requests[0][1]


async def test_a_connection_is_used_again() -> None:
    async with calling(echo) as (transport, seen):
        for _ in range(3):
            await (await transport.post(f"{seen.base_url}/", b"x", {})).read()
    assert seen.connections == 1


async def test_a_large_body_goes_out_whole() -> None:
    body = bytes(range(256)) * (3 << 12)
    async with calling(echo) as (transport, seen):
        await (await transport.post(f"{seen.base_url}/", body, {})).read()
    assert seen.requests[0][2] == body


async def test_chunks_arrive_as_they_are_sent() -> None:
    taken = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.open_chunked()
        exchange.chunk(b"one")
        await taken.wait()
        exchange.chunk(b"two")
        exchange.chunk(b"")

    async with calling(handler) as (transport, seen):
        reply = await transport.post(f"{seen.base_url}/", b"x", {})
        chunks = []
        async for chunk in reply.chunks():
            chunks.append(chunk)
            taken.set()
        assert chunks == [b"one", b"two"]
        # The body came to its end, so the connection is good for another call.
        await (await transport.post(f"{seen.base_url}/", b"x", {})).aclose()
    assert seen.connections == 1


async def test_redirects_are_answers() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.answer(b"", status="307 Temporary Redirect", headers="location: /other\r\n")

    async with calling(handler) as (transport, seen):
        assert (await transport.post(f"{seen.base_url}/", b"x", {})).status == 307
    assert len(seen.requests) == 1


async def test_cookies_are_not_kept() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.answer(b"", headers="set-cookie: a=b\r\n")

    async with calling(handler) as (transport, seen):
        for _ in range(2):
            await (await transport.post(f"{seen.base_url}/", b"x", {})).read()
    assert "cookie" not in seen.requests[1][1]


async def test_a_refused_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    transport = AiohttpTransport(PATIENT)
    with pytest.raises(ProviderUnreachable, match=f"127.0.0.1:{port}"):
        await transport.post(f"http://127.0.0.1:{port}/", b"x", {})
    await transport.aclose()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "http://", "ftp://127.0.0.1/", "http://name.invalid/"]
)
async def test_an_address_nobody_can_call(url: str) -> None:
    transport = AiohttpTransport(PATIENT)
    with pytest.raises(ProviderUnreachable):
        await transport.post(url, b"x", {})
    await transport.aclose()


async def test_a_header_with_a_line_break_is_refused_without_showing_it() -> None:
    async with calling(echo) as (transport, seen):
        with pytest.raises(ProviderUnreachable) as caught:
            await transport.post(f"{seen.base_url}/", b"x", {"x-api-key": "sk-12345678\r\nA: b"})
    assert "12345678" not in str(caught.value)
    assert not seen.requests


async def test_a_host_that_does_not_answer() -> None:
    async with calling(nothing, BRISK) as (transport, seen):
        with pytest.raises(ProviderTimeout, match=r"begin to answer within 0\.05 s"):
            await transport.post(f"{seen.base_url}/", b"x", {})
        async with asyncio.timeout(5):
            await seen.gone.wait()


async def test_a_pool_with_no_connection_left() -> None:
    options = {"pool_size": 1}
    timeouts = Timeouts(connect_s=0.05, head_s=5, idle_s=5)
    async with calling(nothing, timeouts, **options) as (transport, seen):
        first = asyncio.ensure_future(transport.post(f"{seen.base_url}/", b"x", {}))
        await seen.asked.wait()
        with pytest.raises(ProviderTimeout, match="pool"):
            await transport.post(f"{seen.base_url}/", b"x", {})
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first


async def drain(reply: HttpReply, into: list[bytes]) -> None:
    async for chunk in reply.chunks():
        into.append(chunk)


async def stalls(exchange: Exchange) -> None:
    exchange.open_chunked()
    exchange.chunk(b"begun")


async def test_a_host_that_stalls_in_the_middle() -> None:
    async with calling(stalls, BRISK) as (transport, seen):
        reply = await transport.post(f"{seen.base_url}/", b"x", {})
        seen_chunks: list[bytes] = []
        with pytest.raises(ProviderTimeout, match=r"nothing for 0\.05 s"):
            await drain(reply, seen_chunks)
        assert seen_chunks == [b"begun"]
        async with asyncio.timeout(5):
            await seen.gone.wait()


async def test_a_reader_that_is_slow_is_not_the_hosts_fault() -> None:
    go_on = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.open_chunked()
        exchange.chunk(b"begun")
        await go_on.wait()
        exchange.chunk(b"ended")
        exchange.chunk(b"")

    async with calling(handler, Timeouts(idle_s=0.05)) as (transport, seen):
        chunks = (await transport.post(f"{seen.base_url}/", b"x", {})).chunks()
        assert await anext(chunks) == b"begun"
        loop = asyncio.get_running_loop()
        passed = loop.create_future()
        loop.call_later(0.1, passed.set_result, None)
        await passed
        go_on.set()
        assert [chunk async for chunk in chunks] == [b"ended"]


async def test_a_call_that_takes_too_long_in_all() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.open_chunked()
        with contextlib.suppress(ConnectionError):
            while not exchange.writer.is_closing():
                exchange.chunk(b"drip")
                await exchange.writer.drain()
                await asyncio.sleep(0)

    limits = Timeouts(total_s=0.1)
    async with calling(handler, limits, max_body_bytes=1 << 40) as (transport, seen):
        reply = await transport.post(f"{seen.base_url}/", b"x", {})
        with pytest.raises(ProviderTimeout, match=r"0\.1 s in all"):
            await drain(reply, [])


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_that_is_cut(whole: bool) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.open_chunked()
        exchange.chunk(b"half of it")
        await exchange.writer.drain()
        exchange.hang_up()

    async with calling(handler) as (transport, seen):
        reply = await transport.post(f"{seen.base_url}/", b"x", {})
        with pytest.raises(RemoteProtocolError, match="was cut"):
            await (reply.read() if whole else drain(reply, []))


async def test_a_body_beyond_the_cap() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.answer(b"x" * 5000)

    async with calling(handler, max_body_bytes=4999) as (transport, seen):
        reply = await transport.post(f"{seen.base_url}/", b"x", {})
        with pytest.raises(RemoteProtocolError, match="more than 4999 bytes"):
            await reply.read()


async def test_bytes_that_are_not_http() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.writer.write(b"SSH-2.0-nonsense\r\n\r\n")

    async with calling(handler) as (transport, seen):
        with pytest.raises(RemoteProtocolError, match="in HTTP"):
            await transport.post(f"{seen.base_url}/", b"x", {})


async def test_a_kept_alive_connection_that_had_died_costs_one_silent_repeat() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.connection == 1 and exchange.number == 2:
            exchange.hang_up()
        else:
            exchange.answer(b"ok")

    async with calling(handler) as (transport, seen):
        for _ in range(2):
            assert await (await transport.post(f"{seen.base_url}/", b"x", {})).read() == b"ok"
    assert (seen.connections, len(seen.requests)) == (2, 3)


async def test_a_new_connection_that_dies_is_not_tried_again() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.hang_up()

    async with calling(handler) as (transport, seen):
        with pytest.raises(ProviderUnreachable, match="without an answer"):
            await transport.post(f"{seen.base_url}/", b"x", {})
    assert len(seen.requests) == 1


async def test_a_request_is_repeated_once_at_most() -> None:
    async def handler(exchange: Exchange) -> None:
        if len(asked.requests) == 1:
            exchange.answer(b"ok")
        else:
            exchange.hang_up()

    async with calling(handler) as (transport, asked):
        await (await transport.post(f"{asked.base_url}/", b"x", {})).read()
        with pytest.raises(ProviderUnreachable):
            await transport.post(f"{asked.base_url}/", b"x", {})
    assert len(asked.requests) == 3


@pytest.mark.parametrize("how", ["cancel", "close the iterator", "close the reply"])
async def test_who_stops_reading_closes_the_connection(how: str) -> None:
    async with calling(stalls) as (transport, seen):
        reply = await transport.post(f"{seen.base_url}/", b"x", {})
        chunks = reply.chunks()
        assert await anext(chunks) == b"begun"
        if how == "cancel":
            waiting = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        elif how == "close the iterator":
            await chunks.aclose()
        else:
            await reply.aclose()
        async with asyncio.timeout(5):
            await seen.gone.wait()


async def test_a_closed_transport_says_so() -> None:
    transport = AiohttpTransport(PATIENT)
    await transport.aclose()
    with pytest.raises(ProviderUnreachable, match="closed"):
        await transport.get("http://127.0.0.1:1/", {})


async def test_tls_needs_the_hosts_authority(tmp_path: object) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    async with raw_host(echo, server) as seen:
        stranger = AiohttpTransport(PATIENT)
        with pytest.raises(ProviderUnreachable, match="ca_file"):
            await stranger.post(f"{seen.base_url}/", b"x", {})
        await stranger.aclose()
        with authority.cert_pem.tempfile() as path:
            trusting = AiohttpTransport(PATIENT, ca_file=path)
        reply = await trusting.post(f"{seen.base_url}/", b"x", {})
        assert await reply.read() == b"hello"
        await trusting.aclose()


async def test_a_proxy_gets_the_whole_address() -> None:
    async with raw_host(echo) as proxy:
        transport = AiohttpTransport(PATIENT, proxy=proxy.base_url)
        reply = await transport.post("http://upstream.invalid/v1/x", b"x", {})
        assert await reply.read() == b"hello"
        await transport.aclose()
    assert proxy.requests[0][0] == "POST http://upstream.invalid/v1/x HTTP/1.1"


PROXY_CASES = [
    ({"HTTPS_PROXY": "http://p:1"}, "https://host/v1", "http://p:1"),
    ({"https_proxy": "p:1"}, "https://host/v1", "http://p:1"),
    ({"HTTPS_PROXY": "http://p:1"}, "http://host/v1", None),
    ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "host"}, "https://host/v1", None),
    ({"HTTP_PROXY": "http://p:1"}, "http://127.0.0.1:8000/v1", None),
    ({"HTTP_PROXY": "http://p:1"}, "http://localhost:8000/v1", None),
    ({}, "https://host/v1", None),
]


@pytest.mark.parametrize(("environment", "url", "expected"), PROXY_CASES)
def test_proxies_from_the_environment(
    environment: dict[str, str], url: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = Proxies(None).find(url)
    assert (None if found is None else str(found)) == expected


@pytest.mark.parametrize("proxy", ["socks5://user:hunter2@p:1", "http://", "ftp://p"])
def test_a_proxy_that_cannot_be_used(proxy: str) -> None:
    with pytest.raises(ConfigError, match="proxy") as caught:
        AiohttpTransport(proxy=proxy)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none(limit: float) -> None:
    with pytest.raises(ConfigError, match=r"timeouts\.idle_s"):
        Timeouts(idle_s=limit)


def test_a_ca_file_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="ca_file"):
        AiohttpTransport(ca_file=f"{tmp_path}/none.pem")
