"""Keys: shown once, kept as hashes, revoked at once, and loopback only without them."""

from pathlib import Path

import pytest

from kimiya.errors import ConfigError
from kimiya.gateway.keys import KeyStore, check_address, is_loopback


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "deep" / "keys.json")


def test_a_key_opens_the_door_until_it_is_revoked(store: KeyStore) -> None:
    key_id, secret = store.create("laptop")
    found = store.check(secret)
    assert found is not None
    assert (found.key_id, found.name) == (key_id, "laptop")
    store.revoke(key_id)
    assert store.check(secret) is None
    assert [key.is_active for key in store.list()] == [False]


def test_the_file_holds_no_secret_and_is_private(store: KeyStore) -> None:
    _, secret = store.create("laptop")
    text = store.path.read_text()
    assert secret not in text
    assert secret.split("-", 2)[2] not in text
    assert store.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "secret", ["", "kmy", "kmy-", "kmy-00000000-x", "sk-123", "Bearer x", "\x00", "kmy-" * 99]
)
def test_other_strings_open_nothing(store: KeyStore, secret: str) -> None:
    store.create("laptop")
    assert store.check(secret) is None


def test_the_right_id_with_another_secret_opens_nothing(store: KeyStore) -> None:
    _, secret = store.create("laptop")
    assert store.check(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None


def test_a_store_sees_within_a_second_what_another_process_wrote(store: KeyStore) -> None:
    seconds = 0.0
    other = KeyStore(store.path, monotonic=lambda: seconds)
    assert not other.has_active
    key_id, secret = store.create("laptop")
    seconds = 1.1
    assert other.check(secret) is not None
    store.revoke(key_id)
    seconds = 2.2
    assert other.check(secret) is None


def test_a_broken_file_is_named_and_not_overwritten(store: KeyStore) -> None:
    store.path.parent.mkdir(parents=True)
    store.path.write_text("{broken")
    with pytest.raises(ConfigError, match=r"keys\.json"):
        store.create("laptop")
    assert store.path.read_text() == "{broken"


def test_an_unknown_id_is_named(store: KeyStore) -> None:
    with pytest.raises(ConfigError, match="'nope'"):
        store.revoke("nope")


def test_a_key_needs_a_name(store: KeyStore) -> None:
    with pytest.raises(ConfigError, match="name"):
        store.create("  ")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("gateway.example", False),
    ],
)
def test_loopback_is_told_from_the_world(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_without_a_key_only_loopback_is_listened_on(store: KeyStore) -> None:
    check_address("127.0.0.1", store)
    with pytest.raises(ConfigError, match="kimiya keys create"):
        check_address("0.0.0.0", store)
    key_id, _ = store.create("laptop")
    check_address("0.0.0.0", store)
    store.revoke(key_id)
    with pytest.raises(ConfigError):
        check_address("0.0.0.0", store)
