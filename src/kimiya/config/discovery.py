"""What holds where the configuration is silent: hosts by their keys, addresses, key variables.

With no ``[providers]`` at all, a provider is made of everything this machine has the means for:
each known host whose key variable is set, Bedrock where AWS credentials and a region are set, and
the embedded model where its file is installed. One ``[providers.X]`` table turns that off, so that
a file says all there is.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from kimiya.catalog.hosts import Host, host_at, host_named, known_hosts
from kimiya.config.checks import check_routes
from kimiya.config.origin import Origin
from kimiya.config.settings import Config, ProviderConfig
from kimiya.errors import ConfigError

_AWS_CREDENTIALS = (
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def effective_config(
    config: Config, env: Mapping[str, str] | None = None, *, gguf: Path | None = None
) -> Config:
    """The configuration with everything filled in that follows from something else.

    Providers are discovered where none is configured. Each provider then has ``host``; one that
    speaks HTTP has ``base_url``; one of a public host has ``api_key_env``; Bedrock has ``region``.

    Args:
        config: As ``load_config`` gives it.
        env: The environment; ``None`` is the process's own.
        gguf: The embedded model's file, where it is installed.

    Raises:
        ConfigError: A provider lacks what nothing else tells, or a route names no provider.
    """
    env = os.environ if env is None else env
    found = config.providers or discovered(env, gguf=gguf)
    providers = {name: filled(name, one, env, config.file) for name, one in found.items()}
    out = structs.replace(config, providers=providers)
    if not config.providers:
        check_routes(out, Origin(config.file))
    return out


def discovered(env: Mapping[str, str], *, gguf: Path | None = None) -> Mapping[str, ProviderConfig]:
    """Providers this machine has the means for, by name."""
    found = {
        host.name: ProviderConfig(kind=host.kind, host=host.name, api_key_env=host.api_key_env)
        for host in known_hosts()
        if host.discovered and host.api_key_env and env.get(host.api_key_env, "").strip()
    }
    if has_aws_credentials(env) and region_of(env):
        found["bedrock"] = ProviderConfig(kind="bedrock")
    if gguf is not None:
        found["local"] = ProviderConfig(kind="local")
    return found


def has_aws_credentials(env: Mapping[str, str]) -> bool:
    """Whether the environment or the home directory holds AWS credentials; nothing is called."""
    if any(env.get(name) for name in _AWS_CREDENTIALS):
        return True
    home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    return Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials").is_file()


def region_of(env: Mapping[str, str]) -> str | None:
    """The AWS region the environment names."""
    return env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or None


def filled(
    name: str, provider: ProviderConfig, env: Mapping[str, str], file: str | None = None
) -> ProviderConfig:
    """One provider with what follows from its kind, host and address.

    Raises:
        ConfigError: ``base_url`` or ``region`` is missing and nothing tells it.
    """
    match provider.kind:
        case "openai" | "anthropic":
            return _filled_http(name, provider, file)
        case "bedrock":
            region = provider.region or region_of(env)
            if region is None and provider.endpoint_url is None:
                raise ConfigError(
                    "region is missing",
                    file=file,
                    key=f"providers.{name}",
                    remedy='Write region = "us-east-1", or export AWS_REGION',
                )
            return structs.replace(
                provider, host=provider.host or "bedrock", region=region or "us-east-1"
            )
        case "nano":
            if provider.model_path is None:
                raise ConfigError(
                    "model_path is missing",
                    file=file,
                    key=f"providers.{name}",
                    remedy='Write model_path = "runs/nano/model-int4", as `kimiya train` wrote it',
                )
            return structs.replace(provider, host=provider.host or "nano")
        case "local":
            return structs.replace(provider, host=provider.host or "local")
        case "simulated":
            return structs.replace(provider, host=provider.host or name)


def _filled_http(name: str, provider: ProviderConfig, file: str | None) -> ProviderConfig:
    by_address = host_at(provider.base_url) if provider.base_url else None
    host = by_address or host_named(provider.host or name)
    base_url = provider.base_url or _base_url(host, provider)
    if base_url is None:
        raise ConfigError(
            "base_url is missing",
            file=file,
            key=f"providers.{name}",
            remedy='Write where it listens, such as base_url = "http://localhost:8000/v1"',
        )
    # A host's own key goes to its own address only; anywhere else the file must name one.
    is_public = host is not None and (provider.base_url is None or by_address is not None)
    return structs.replace(
        provider,
        host=provider.host or (host.name if host else name),
        base_url=base_url.rstrip("/"),
        api_key_env=provider.api_key_env or (host.api_key_env if host and is_public else None),
    )


def _base_url(host: Host | None, provider: ProviderConfig) -> str | None:
    if host is None:
        return None
    if host.kind != provider.kind and provider.kind == "anthropic":
        return host.anthropic_base_url
    return host.base_url if host.kind == provider.kind else None
