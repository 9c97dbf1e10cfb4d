"""A host's answer while its body is still on the way."""

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Protocol

import aiohttp

from kimiya.errors import RemoteProtocolError
from kimiya.providers.deadlines import Watch
from kimiya.providers.http_errors import reason


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


class AiohttpReply:
    """``HttpReply`` over an aiohttp response."""

    def __init__(self, response: aiohttp.ClientResponse, watch: Watch, max_body_bytes: int) -> None:
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
                    f"the answer of {self._watch.origin} was cut: {reason(error)}"
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


if TYPE_CHECKING:
    _conforms: type[HttpReply] = AiohttpReply
