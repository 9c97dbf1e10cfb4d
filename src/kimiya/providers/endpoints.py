"""Where a host is: its base address, and how a dialect's paths are joined to it.

People write base addresses as their client's documentation does: with the version (OpenAI), without
it (Anthropic), or with the whole path of one endpoint. All of them mean the same host.
"""

import re
from urllib.parse import urlsplit, urlunsplit

from kimiya.errors import ConfigError

_WITHOUT_VERSION = ("/chat/completions", "/responses", "/models")
"""Paths that OpenAI's clients write behind a base address which ends in ``/v1``."""
_VERSION = re.compile(r"/v\d+[a-z]*\d*$")
_KNOWN_ENDS = (*_WITHOUT_VERSION, "/messages")


class BaseAddress:
    """The address of a host.

    >>> BaseAddress("https://api.example/v1/").join("/v1/chat/completions")
    'https://api.example/v1/chat/completions'
    >>> BaseAddress("https://api.example/anthropic").join("/v1/messages")
    'https://api.example/anthropic/v1/messages'
    >>> BaseAddress("https://api.example/paas/v4").join("/v1/models")
    'https://api.example/paas/v4/models'
    >>> BaseAddress("https://api.example").join("/chat/completions")
    'https://api.example/v1/chat/completions'
    >>> BaseAddress("https://api.example/chat/completions").join("/chat/completions")
    'https://api.example/chat/completions'

    Raises:
        ConfigError: It is no address of an HTTP host, or it holds a password.
    """

    def __init__(self, address: str) -> None:
        try:
            parts = urlsplit(address.strip())
            host = parts.hostname
            _ = parts.port  # raises where it is no number
        except ValueError as error:
            raise _refused("it cannot be read") from error
        if parts.scheme not in ("http", "https") or not host:
            raise _refused(f"{address.strip()[:200]!r} is no HTTP address")
        if parts.username is not None or parts.password is not None:
            raise _refused("it holds credentials; give them as api_key")
        if re.search(r"[\s\x00-\x1f]", address.strip()):
            raise _refused("it has spaces in it")
        path = parts.path.rstrip("/")
        ends = [end for end in _KNOWN_ENDS if path.endswith(end)]
        for end in ends:
            path = path.removesuffix(end)
        self._origin = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        self._path = path
        self._query = f"?{parts.query}" if parts.query else ""
        self._has_version = _VERSION.search(path) is not None or bool(ends)

    def join(self, path: str) -> str:
        """The address of a path, which begins with ``/`` and is percent-encoded already."""
        if self._has_version:
            path = path.removeprefix("/v1")
        elif not self._path and path.startswith(_WITHOUT_VERSION):
            path = f"/v1{path}"
        query = self._query
        if query and "?" in path:
            query = "&" + query[1:]
        return f"{self._origin}{self._path}{path}{query}"


def _refused(why: str) -> ConfigError:
    return ConfigError(
        f"the address of the host cannot be used: {why}",
        key="base_url",
        remedy="Give one such as https://api.example.com/v1",
    )
