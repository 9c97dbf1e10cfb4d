"""AWS Signature Version 4 for the few services this project calls.

Pure: the caller gives the moment. A signing key is derived once a day for each secret, region and
service, which leaves two hashes and one HMAC a call. Source: AWS "Signature Version 4 signing
process"; every path here is escaped a second time, as all services but S3 expect.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, urlsplit

from msgspec import Struct

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNSIGNED = frozenset(
    {"connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"}
)
"""Headers that anything between us and the host may change."""


class AwsKeys(Struct, frozen=True):
    """One set of credentials, as valid now."""

    access_key: str
    secret_key: str
    session_token: str | None = None
    """Present with temporary credentials."""

    def __repr__(self) -> str:
        """The key id alone: secrets stay out of logs and tracebacks."""
        return f"AwsKeys({self.access_key[:4]}...)"


class Scope(Struct, frozen=True):
    """Where a signature is valid."""

    region: str
    service: str = "bedrock"


class Outgoing(Struct, frozen=True):
    """A call to sign."""

    method: str
    url: str
    """Absolute and percent-encoded, exactly as it will be sent."""
    body: bytes = b""
    headers: Mapping[str, str] = {}


def sign(call: Outgoing, keys: AwsKeys, scope: Scope, moment: datetime) -> dict[str, str]:
    """The headers of ``call`` with those that prove who sends it.

    Args:
        call: What will be sent; its ``Host`` is taken from the address.
        keys: Who sends it.
        scope: To which region and service.
        moment: Now, with a time zone; hosts refuse one five minutes off.
    """
    stamp = moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {name.lower(): value for name, value in call.headers.items()}
    headers["x-amz-date"] = stamp
    if keys.session_token:
        headers["x-amz-security-token"] = keys.session_token
    names, canonical = _canonical(call, headers)
    place = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = _signing_key(keys.secret_key, stamp[:8], scope.region, scope.service)
    text = f"{_ALGORITHM}\n{stamp}\n{place}\n{digest}"
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key}/{place}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _canonical(call: Outgoing, headers: Mapping[str, str]) -> tuple[str, str]:
    """Names of the signed headers, and the request as both sides spell it."""
    parts = urlsplit(call.url)
    signed = {
        name: " ".join(value.split()) for name, value in headers.items() if name not in _UNSIGNED
    }
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    is_default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    signed["host"] = host if is_default else f"{host}:{parts.port}"
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    payload = hashlib.sha256(call.body).hexdigest()
    path = quote(_without_dots(parts.path), safe="/~")
    return names, "\n".join((call.method, path, _query(parts.query), lines, names, payload))


def _without_dots(path: str) -> str:
    """The path with ``.``, ``..`` and empty segments resolved."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    tail = "/" if path.endswith("/") and kept else ""
    return f"/{'/'.join(kept)}{tail}"


def _query(query: str) -> str:
    """The query as it stands in the address, where it is escaped already; in order."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return "&".join(f"{name}={value}" for name, _, value in sorted(pairs))


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, service, "aws4_request"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key
