"""The gateway's own keys: made here, shown once, kept only as hashes.

A secret is ``kmy-<id>-<random>`` with 256 random bits, so a plain SHA-256 of it cannot be searched
and checking costs microseconds. The store is one JSON file, written whole and atomically, mode
0600. Without any key a gateway listens on loopback only (``check_address``).
"""

import hashlib
import hmac
import ipaddress
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from kimiya.errors import ConfigError

_PREFIX = "kmy"


class Key(Struct, frozen=True):
    """One key as it is kept."""

    key_id: str
    """Public: names the key in lists, logs and the ledger."""
    name: str
    """What the owner calls it."""
    digest: str
    """SHA-256 of the whole secret, hexadecimal."""
    created_at: datetime
    revoked_at: datetime | None = None

    @property
    def is_active(self) -> bool:
        """Whether it still opens the door."""
        return self.revoked_at is None


class _File(Struct):
    version: int = 1
    keys: list[Key] = []


_LOOK_EVERY_S = 1.0
"""How long a gateway may not notice that a key was made or revoked by another process."""


class KeyStore:
    """Keys in a file; looks once a second whether it has changed on disk.

    ``monotonic`` gives the seconds that second is measured in.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._now = now
        self._monotonic = monotonic
        self._looked_s = float("-inf")
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, Key] = {}

    @property
    def path(self) -> Path:
        """Where the keys are kept."""
        return self._path

    def create(self, name: str) -> tuple[str, str]:
        """Make a key; the secret is returned this once and not kept.

        Returns:
            ``(key_id, secret)``.

        Raises:
            ConfigError: The name is empty, or the file cannot be written.
        """
        if not name.strip():
            raise ConfigError("a key needs a name", key="name", remedy="kimiya keys create NAME")
        keys = self._current(fresh=True)
        key_id = secrets.token_hex(4)
        while key_id in keys:
            key_id = secrets.token_hex(4)
        secret = f"{_PREFIX}-{key_id}-{secrets.token_urlsafe(32)}"
        keys[key_id] = Key(key_id, name.strip(), _digest(secret), self._now())
        self._write(keys)
        return key_id, secret

    def list(self) -> list[Key]:
        """Every key, oldest first, revoked ones included."""
        return sorted(self._current(fresh=True).values(), key=lambda key: key.created_at)

    def revoke(self, key_id: str) -> Key:
        """Close the door to a key; it stays in the list.

        Raises:
            ConfigError: There is no such key.
        """
        keys = self._current(fresh=True)
        if key_id not in keys:
            raise ConfigError(
                f"no key has the id {key_id!r}",
                file=str(self._path),
                remedy="`kimiya keys list` shows the ids",
            )
        if keys[key_id].is_active:
            keys[key_id] = msgspec.structs.replace(keys[key_id], revoked_at=self._now())
            self._write(keys)
        return keys[key_id]

    def check(self, secret: str) -> Key | None:
        """The active key this secret opens, or ``None``."""
        prefix, _, rest = secret.partition("-")
        key_id, _, _ = rest.partition("-")
        key = self._current().get(key_id) if prefix == _PREFIX else None
        if key is None or not key.is_active:
            return None
        return key if hmac.compare_digest(key.digest, _digest(secret)) else None

    @property
    def has_active(self) -> bool:
        """Whether any key opens the door."""
        return any(key.is_active for key in self._current().values())

    def _current(self, *, fresh: bool = False) -> dict[str, Key]:
        if not fresh and self._monotonic() - self._looked_s < _LOOK_EVERY_S:
            return self._keys
        self._looked_s = self._monotonic()
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, {}
            return self._keys
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp != self._stamp:
            self._keys = {key.key_id: key for key in self._read().keys}
            self._stamp = stamp
        return self._keys

    def _read(self) -> _File:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (msgspec.MsgspecError, OSError) as error:
            raise ConfigError(
                f"the key file cannot be read: {error}",
                file=str(self._path),
                remedy="mend it, or move it away and create new keys",
            ) from error

    def _write(self, keys: dict[str, Key]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_File(keys=list(keys.values()))), indent=2)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # mkstemp makes the file 0600 from the first byte on.
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".keys-")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
        except OSError as error:
            raise ConfigError(
                f"the key file cannot be written: {error}", file=str(self._path)
            ) from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, store: KeyStore) -> None:
    """Refuse to listen where others can reach us while anyone may call.

    Raises:
        ConfigError: ``host`` is not loopback and there is no active key.
    """
    if not is_loopback(host) and not store.has_active:
        raise ConfigError(
            f"the gateway has no keys, so it listens on loopback only, not on {host}",
            key="gateway.host",
            remedy="create one with `kimiya keys create NAME`, or use 127.0.0.1",
        )
