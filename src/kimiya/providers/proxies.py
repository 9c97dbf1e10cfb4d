"""Which HTTP proxy a call goes through: the configured one, else what the environment says.

Loopback addresses never go through a proxy the environment names: a model on this machine must not
leave it. Reading the environment is slow, so the answer is kept for each origin.
"""

import urllib.request
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from yarl import URL

from kimiya.errors import ConfigError, ProviderUnreachable


class Proxies:
    """Finds the proxy for an address.

    Args:
        proxy: The one for every call; ``None`` reads ``HTTPS_PROXY``, ``HTTP_PROXY`` and
            ``NO_PROXY`` in either case.

    Raises:
        ConfigError: ``proxy`` is not the address of an HTTP proxy.
    """

    def __init__(self, proxy: str | None) -> None:
        self._fixed = _proxy_url(proxy) if proxy else None
        self._found: dict[str, URL | None] = {}

    def find(self, url: str) -> URL | None:
        """The proxy for this address, or ``None``.

        Raises:
            ProviderUnreachable: The environment names one that cannot be used.
        """
        if self._fixed is not None:
            return self._fixed
        origin = origin_of(url)
        if origin not in self._found:
            self._found[origin] = _look_up(url)
        return self._found[origin]


def _look_up(url: str) -> URL | None:
    parts = urlsplit(url)
    if is_loopback(parts.hostname or "") or urllib.request.proxy_bypass(parts.netloc):
        return None
    address = urllib.request.getproxies().get(parts.scheme)
    try:
        return _proxy_url(address) if address else None
    except ConfigError as error:
        raise ProviderUnreachable(
            f"{origin_of(url)} cannot be called: the environment's {error.message}"
        ) from error


def _proxy_url(address: str) -> URL:
    remedy = "Give the address of an HTTP proxy, such as http://proxy.example:3128"
    try:
        url = URL(address if "://" in address else f"http://{address}")
    except ValueError as error:
        raise ConfigError("the address cannot be read", key="proxy", remedy=remedy) from error
    if url.scheme not in ("http", "https") or not url.host:
        # The address itself stays out of the message: it may hold a password.
        raise ConfigError(f"the scheme {url.scheme!r} is not served", key="proxy", remedy=remedy)
    return url


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine.

    >>> is_loopback("127.0.0.9"), is_loopback("::1"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=512)
def origin_of(url: str) -> str:
    """Scheme, host and port of an address, fit for a message: credentials are left out.

    >>> origin_of("https://user:password@host:8443/v1?key=x")
    'https://host:8443'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
