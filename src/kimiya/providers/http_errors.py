"""What the HTTP library's exceptions mean, in our own."""

import math

import aiohttp

from kimiya.errors import (
    KimiyaError,
    ProviderTimeout,
    ProviderUnreachable,
    RemoteProtocolError,
)
from kimiya.providers.deadlines import Timeouts

LIBRARY_ERRORS = (aiohttp.ClientError, OSError, ValueError)
"""All that sending may raise; ``TimeoutError`` is an ``OSError``, a bad header a ``ValueError``."""


def meaning(error: Exception, origin: str, timeouts: Timeouts) -> KimiyaError:
    """What it means that sending to ``origin`` failed before the head of an answer came."""
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
                f"TLS with {origin} failed: {reason(error)}. Where the host has a certificate of"
                " its own authority, give that authority's file as ca_file"
            )
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return ProviderUnreachable(f"the proxy before {origin} refused: {reason(error)}")
        case aiohttp.ClientResponseError():
            return RemoteProtocolError(f"{origin} did not answer in HTTP: {reason(error)}")
        case aiohttp.ServerDisconnectedError():
            return ProviderUnreachable(f"{origin} closed the connection without an answer")
        case aiohttp.InvalidURL() | ValueError():
            return ProviderUnreachable(f"{origin} cannot be called: {reason(error)}")
        case _:
            return ProviderUnreachable(f"no connection to {origin}: {reason(error)}")


def reason(error: BaseException) -> str:
    """What an exception says, or its name where it says nothing."""
    return str(error) or type(error).__name__
