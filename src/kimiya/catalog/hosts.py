"""Hosts of models: address, kind and key variable of those reached by a key alone, as data."""

import tomllib
from functools import cache
from importlib import resources
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from kimiya.catalog.card import Source


class Host(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host of models."""

    name: str
    """As cards name it."""
    kind: Literal["openai", "anthropic"]
    """Which kind of provider speaks to it."""
    base_url: str | None = None
    """``None`` where every installation has its own."""
    anthropic_base_url: str | None = None
    """Where it speaks Anthropic Messages beside its own dialect."""
    api_key_env: str | None = None
    domains: tuple[str, ...] = ()
    """Names of servers that are this host."""
    discovered: bool = True
    """Whether the key variable alone makes a provider of it when nothing is configured."""
    source: Source


@cache
def known_hosts() -> tuple[Host, ...]:
    """Every host of ``data/hosts.toml``."""
    text = (resources.files("kimiya.catalog") / "data" / "hosts.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["hosts"], tuple[Host, ...])


def host_named(name: str) -> Host | None:
    """The host of this name."""
    return next((host for host in known_hosts() if host.name == name), None)


def host_at(base_url: str) -> Host | None:
    """The host an address belongs to, by its domain.

    >>> host = host_at("https://api.moonshot.cn/v1")
    >>> host.name if host else None
    'moonshot'
    """
    domain = urlsplit(base_url).hostname or ""
    return next((host for host in known_hosts() if domain in host.domains), None)
