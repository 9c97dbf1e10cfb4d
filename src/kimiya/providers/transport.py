"""The one narrow seam below every provider that speaks HTTP: post bytes, read bytes.

Everything a provider does stands above these two protocols, so tests can put a fake under them and
the HTTP library can be changed in one file.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol


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
            ProviderUnreachable: The connection broke.
            RemoteProtocolError: The body is longer than the transport's cap.
        """
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises as ``read`` does."""
        ...

    async def aclose(self) -> None:
        """Let go of the reply; an unread body closes the connection."""
        ...


class Transport(Protocol):
    """Sends requests over pooled connections."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpReply:
        """Send one request and wait for the head of its answer; retries nothing.

        Raises:
            ProviderUnreachable: No connection.
            ProviderTimeout: The host did not answer in time.
        """
        ...

    async def get(self, url: str, headers: Mapping[str, str]) -> HttpReply:
        """As ``post``, without a body."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
