"""The one narrow seam below every provider that speaks HTTP: post bytes, read bytes.

Everything a provider does stands above the two protocols here, so tests can put a fake under them
and the HTTP library can be changed in one file. ``AiohttpTransport`` is that file's only
implementation, and the only place that names aiohttp.

Invariants of the implementation:

* A reply that was not read to its end closes its connection, whoever stopped and why; only a
  connection whose reply ended goes back to the pool.
* No exception of the HTTP library leaves this module.
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
from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

import aiohttp
from msgspec import Struct
from yarl import URL

from kimiya.errors import (
    ConfigError,
    KimiyaError,
    ProviderTimeout,
    ProviderUnreachable,
    RemoteProtocolError,
)
from kimiya.providers.proxies import Proxies, origin_of


class HttpReply(Protocol):
    """A host's answer whose body has not been read yet."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields, names in lower case."""
        ...

    async def read(self) -> bytes:
        """The whole body; the connection goes back to the pool.

        Raises:
            ProviderTimeout: The host stalled.
            RemoteProtocolError: The body was cut, or is longer than the transport's cap.
        """
        ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. Raises as ``read`` does, but has no cap. Closing the generator
        is closing the reply."""
        ...

    async def aclose(self) -> None:
        """Let go of the reply; an unread body closes the connection."""
        ...


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


class Timeouts(Struct, frozen=True):
    """How long each phase of a call may last, in seconds."""

    connect_s: float = 10.0
    """From asking for a connection to having one: name look-up, TCP, TLS, waiting for the pool."""
    head_s: float = 600.0
    """From asking to the head of the answer. A whole reply of a thinking model takes minutes."""
    idle_s: float = 120.0
    """Between two chunks of a body, while somebody waits for the next one."""
    total_s: float | None = None
    """From asking to the end of the body; ``None`` sets no limit."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"{value!r} is not a time limit",
                    key=f"timeouts.{name}",
                    remedy="Give seconds greater than zero",
                )


_STALE_WITHIN_S = 1.0
"""A host that closes an idle connection does it within a round trip; one that closes later had the
request and failed on it, which is for ``providers.retry`` to judge."""

_LARGE_BODY_BYTES = 1 << 20
"""Beyond this a body is written in pieces, so that one caller's images do not hold up the loop."""

_LIBRARY_ERRORS = (aiohttp.ClientError, OSError, ValueError)
"""All that sending may raise; ``TimeoutError`` is an ``OSError``, a bad header a ``ValueError``."""

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
        except _LIBRARY_ERRORS as error:
            if opened or not _is_stale(error, began):
                _raise(error, url, self._timeouts)
            response = await self._request_again(method, url, body, headers)
        finally:
            _opened.reset(token)
        total_s = self._timeouts.total_s
        deadline = math.inf if total_s is None else began + total_s
        watch = _Watch(self._timeouts, deadline, response.content, origin_of(url))
        return AiohttpReply(response, watch, self._max_body_bytes)

    async def _request_again(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        try:
            return await self._request(method, url, body, headers)
        except _LIBRARY_ERRORS as error:
            _raise(error, url, self._timeouts)

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


class AiohttpReply:
    """``HttpReply`` over an aiohttp response."""

    def __init__(
        self, response: aiohttp.ClientResponse, watch: "_Watch", max_body_bytes: int
    ) -> None:
        self._response = response
        self._watch = watch
        self._max_body_bytes = max_body_bytes
        self.status = response.status
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields, names in lower case."""
        if self._headers is None:
            self._headers = {name.lower(): value for name, value in self._response.headers.items()}
        return self._headers

    async def read(self) -> bytes:
        """The whole body. See ``HttpReply``."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self._next():
            size += len(piece)
            if size > self._max_body_bytes:
                self._close()
                raise RemoteProtocolError(
                    f"{self._watch.origin} answered with more than {self._max_body_bytes} bytes",
                    frame=pieces[0] if pieces else piece,
                )
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. See ``HttpReply``."""
        try:
            while piece := await self._next():
                yield piece
        finally:
            self._close()

    async def aclose(self) -> None:
        """Let go of the reply; an unread body closes the connection."""
        self._close()

    async def _next(self) -> bytes:
        """The next piece; ``b""`` at the end. Anything that goes wrong closes the connection."""
        self._watch.begin()
        try:
            piece = await self._response.content.readany()
        except BaseException as error:
            self._close()
            if isinstance(error, aiohttp.ClientError | OSError):
                raise RemoteProtocolError(
                    f"the answer of {self._watch.origin} was cut: {_reason(error)}"
                ) from error
            raise
        self._watch.end()
        if not piece:
            self._close()
        return piece

    def _close(self) -> None:
        """Idempotent; a connection that already went back to the pool stays there."""
        self._watch.close()
        self._response.close()


class _Watch:
    """Ends a wait that lasts longer than it may.

    ``begin`` notes the time and ``end`` forgets it; the timer, armed once, looks at the note when
    it fires and arms itself again for what is left. A slow reader is not the host's fault: time
    counts only between ``begin`` and ``end``.
    """

    def __init__(
        self, timeouts: Timeouts, deadline: float, content: aiohttp.StreamReader, origin: str
    ) -> None:
        self.origin = origin
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._deadline = deadline
        self._content = content
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Somebody waits from now on."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._due(self._since), self._look)

    def end(self) -> None:
        """Nobody waits."""
        self._since = None

    def close(self) -> None:
        """Nobody will wait again."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self, since: float) -> float:
        return min(since + self._timeouts.idle_s, self._deadline)

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        due = self._due(self._since)
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        what = (
            f"took longer than {self._timeouts.total_s:g} s in all"
            if due == self._deadline
            else f"sent nothing for {self._timeouts.idle_s:g} s in the middle of its answer"
        )
        self._content.set_exception(ProviderTimeout(f"{self.origin} {what}"))


def _trusting(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"no certificates can be read from {os.fspath(ca_file)} ({_reason(error)})",
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


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _raise(error: Exception, url: str, timeouts: Timeouts) -> NoReturn:
    """Raise what ``error`` means; it happened before the head of the answer."""
    raise _meaning(error, origin_of(url), timeouts) from error


def _meaning(error: Exception, origin: str, timeouts: Timeouts) -> KimiyaError:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ProviderTimeout(
                f"no connection to {origin} within {timeouts.connect_s:g} s: it is unreachable,"
                " or every connection of its pool is in use"
            )
        case TimeoutError():
            limit_s = min(timeouts.head_s, timeouts.total_s or math.inf)
            return ProviderTimeout(f"{origin} did not begin to answer within {limit_s:g} s")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return ProviderUnreachable(
                f"TLS with {origin} failed: {_reason(error)}. Where the host has a certificate of"
                " its own authority, give that authority's file as ca_file"
            )
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return ProviderUnreachable(f"the proxy before {origin} refused: {_reason(error)}")
        case aiohttp.ClientResponseError():
            return RemoteProtocolError(f"{origin} did not answer in HTTP: {_reason(error)}")
        case aiohttp.ServerDisconnectedError():
            return ProviderUnreachable(f"{origin} closed the connection without an answer")
        case aiohttp.InvalidURL() | ValueError():
            return ProviderUnreachable(f"{origin} cannot be called: {_reason(error)}")
        case _:
            return ProviderUnreachable(f"no connection to {origin}: {_reason(error)}")


if TYPE_CHECKING:
    _transport: Transport = AiohttpTransport()
    _reply: type[HttpReply] = AiohttpReply
