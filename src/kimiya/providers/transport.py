"""The one narrow seam below every provider that speaks HTTP: post bytes, read bytes.

Everything a provider does stands above two protocols, ``Transport`` and ``HttpReply``, so tests can
put a fake under them and the HTTP library can be changed. ``AiohttpTransport`` implements them; its
limits are in ``deadlines``, its replies in ``http_reply``, its errors in ``http_errors``.

Invariants of the implementation:

* A reply that was not read to its end closes its connection, whoever stopped and why; only a
  connection whose reply ended goes back to the pool.
* No exception of the HTTP library leaves it.
* A request is sent a second time in one case only: it went out on a kept-alive connection which
  the host closed without answering a byte, at once. That host was closing an idle connection, not
  working on the request.
* Waiting costs one timer a reply, not one a chunk: the timer looks at when the wait began.
"""

import asyncio
import io
import math
import os
import socket
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import aiohttp
from yarl import URL

from kimiya.errors import (
    ConfigError,
    ProviderUnreachable,
)
from kimiya.providers.deadlines import Timeouts, Watch
from kimiya.providers.http_errors import LIBRARY_ERRORS, meaning, reason
from kimiya.providers.http_reply import AiohttpReply, HttpReply
from kimiya.providers.proxies import Proxies, origin_of


class Transport(Protocol):
    """Sends requests over pooled connections."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpReply:
        """Send one request and wait for the head of its answer.

        Args:
            url: Absolute and percent-encoded; sent as it is, never quoted again.
            body: The whole body.
            headers: Everything but ``Host`` and ``Content-Length``.

        Raises:
            ProviderUnreachable: No connection.
            ProviderTimeout: The host did not answer in time.
            RemoteProtocolError: What came back is not HTTP.
        """
        ...

    async def get(self, url: str, headers: Mapping[str, str]) -> HttpReply:
        """As ``post``, without a body."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


_STALE_WITHIN_S = 1.0
"""A host that closes an idle connection does it within a round trip; one that closes later had the
request and failed on it, which is for ``providers.retry`` to judge."""

_LARGE_BODY_BYTES = 1 << 20
"""Beyond this a body is written in pieces, so that one caller's images do not hold up the loop."""

__all__ = ["AiohttpTransport", "HttpReply", "Timeouts", "Transport"]

_opened: ContextVar[list[bool] | None] = ContextVar("opened", default=None)
"""Set while a request is being sent: whether a connection was opened for it."""


class AiohttpTransport:
    """``Transport`` over aiohttp: pooled, keep-alive, TLS, proxies; no redirects, no cookies.

    Args:
        timeouts: Limits by phase.
        proxy: Address of an HTTP proxy for every call; ``None`` reads ``HTTPS_PROXY``,
            ``HTTP_PROXY`` and ``NO_PROXY``, which never apply to loopback addresses.
        ca_file: PEM file of certificates to trust besides the system's own.
        pool_size: Connections to one host and port; one busy host never starves another.
        max_body_bytes: Longest body that ``read`` gathers.

    Raises:
        ConfigError: The proxy or the file cannot be used.
    """

    def __init__(
        self,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        *,
        pool_size: int = 256,
        max_body_bytes: int = 64 << 20,
    ) -> None:
        self._timeouts = timeouts
        self._proxies = Proxies(proxy)
        self._ssl = _trusting(ca_file)
        self._pool_size = pool_size
        self._max_body_bytes = max_body_bytes
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpReply:
        """Send one request and wait for the head of its answer. See ``Transport``."""
        return await self._send("POST", url, body, headers)

    async def get(self, url: str, headers: Mapping[str, str]) -> HttpReply:
        """As ``post``, without a body."""
        return await self._send("GET", url, b"", headers)

    async def aclose(self) -> None:
        """Close every connection; calls in flight fail."""
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> HttpReply:
        began = asyncio.get_running_loop().time()
        opened: list[bool] = []
        token = _opened.set(opened)
        try:
            response = await self._request(method, url, body, headers)
        except LIBRARY_ERRORS as error:
            if opened or not _is_stale(error, began):
                raise meaning(error, origin_of(url), self._timeouts) from error
            response = await self._request_again(method, url, body, headers)
        finally:
            _opened.reset(token)
        total_s = self._timeouts.total_s
        deadline = math.inf if total_s is None else began + total_s
        watch = Watch(self._timeouts, deadline, response.content, origin_of(url))
        return AiohttpReply(response, watch, self._max_body_bytes)

    async def _request_again(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        try:
            return await self._request(method, url, body, headers)
        except LIBRARY_ERRORS as error:
            raise meaning(error, origin_of(url), self._timeouts) from error

    async def _request(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        session = self._session or self._open(url)
        data = io.BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body or None
        limit_s = min(self._timeouts.head_s, self._timeouts.total_s or math.inf)
        async with asyncio.timeout(limit_s):
            return await session.request(
                method,
                _encoded(url),
                data=data,
                headers=headers,
                proxy=self._proxies.find(url),
                allow_redirects=False,
            )

    def _open(self, url: str) -> aiohttp.ClientSession:
        """The session, made on first use because it belongs to the running loop."""
        if self._is_closed:
            raise ProviderUnreachable(f"{origin_of(url)} was called after its transport was closed")
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._pool_size,
            keepalive_timeout=60.0,
            ttl_dns_cache=60,
            ssl=self._ssl or True,
            socket_factory=_open_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect_s),
            # Bodies are small and events must not wait in a compressor, so none is asked for; a
            # host that compresses all the same is understood.
            headers={"User-Agent": "kimiya", "Accept-Encoding": "identity"},
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        return self._session


def _trusting(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"no certificates can be read from {os.fspath(ca_file)} ({reason(error)})",
            key="ca_file",
            remedy="Give a PEM file that holds the certificate authority of the host",
        ) from error
    return context


_Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]


def _open_socket(address: _Address) -> socket.socket:
    """As the library would, and a note that this request's connection is a new one."""
    if (opened := _opened.get()) is not None:
        opened.append(True)
    return socket.socket(address[0], address[1], address[2])


@lru_cache(maxsize=512)
def _encoded(url: str) -> URL:
    return URL(url, encoded=True)


def _is_stale(error: Exception, began: float) -> bool:
    """Whether a kept-alive connection had died before the request reached it."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return (
        isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
        and asyncio.get_running_loop().time() - began <= _STALE_WITHIN_S
    )


if TYPE_CHECKING:
    _transport: Transport = AiohttpTransport()
