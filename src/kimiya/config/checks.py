"""What must hold between the keys of a configuration, as tables."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from kimiya.config.origin import Origin
from kimiya.config.settings import Config, GatewayConfig, ProviderConfig, ProviderKind
from kimiya.config.toml_lines import KeyPath
from kimiya.core.nearest import nearest

_OWN_FIELDS: Mapping[str, frozenset[ProviderKind]] = {
    "base_url": frozenset({"openai", "anthropic"}),
    "api_key_env": frozenset({"openai", "anthropic"}),
    "headers": frozenset({"openai", "anthropic"}),
    "dialect": frozenset({"openai", "anthropic"}),
    "proxy": frozenset({"openai", "anthropic", "bedrock"}),
    "ca_file": frozenset({"openai", "anthropic", "bedrock"}),
    "region": frozenset({"bedrock"}),
    "endpoint_url": frozenset({"bedrock"}),
    "control_endpoint_url": frozenset({"bedrock"}),
    "data_residency": frozenset({"bedrock"}),
    "base_models": frozenset({"bedrock"}),
    "script": frozenset({"simulated"}),
    "seed": frozenset({"simulated"}),
    "model_path": frozenset({"local", "nano"}),
    "slots": frozenset({"local"}),
    "context_tokens": frozenset({"local"}),
}
"""Keys that mean something to some kinds only: elsewhere they would do nothing, silently."""

_AT_LEAST: Mapping[str, float] = {
    "workers": 1,
    "max_body_bytes": 1024,
    "max_streams": 1,
    "drain_s": 0,
}


def check(config: Config, origin: Origin) -> None:
    """Refuse what no single table could see.

    Raises:
        ConfigError: With the place of the key.
    """
    _check_gateway(config.gateway, origin)
    for name, provider in config.providers.items():
        _check_provider(provider, ("providers", name), origin)
    check_routes(config, origin)


def check_routes(config: Config, origin: Origin) -> None:
    """Every target names a provider that is there, once there are any.

    Raises:
        ConfigError: With the nearest known provider.
    """
    for name, route in config.routes.items():
        path = ("routes", name, "targets")
        if not route.targets:
            raise origin.error(path, "it is empty", 'Write targets = ["provider:model"]')
        if not 0 <= route.retries <= 10:
            raise origin.error(("routes", name, "retries"), "must be from 0 to 10")
        for target in route.targets:
            provider, colon, model = target.partition(":")
            if not (colon and provider and model):
                raise origin.error(
                    path, f"{target!r} is no target", 'Write "provider:model", both in one text'
                )
            if config.providers and provider not in config.providers:
                near = nearest(provider, config.providers, limit=1)
                known = ", ".join(sorted(config.providers))
                raise origin.error(
                    path,
                    f"there is no provider {provider!r}",
                    f"Did you mean {near[0]}?" if near else f"Providers: {known}",
                )


def _check_gateway(gateway: GatewayConfig, origin: Origin) -> None:
    if not 0 <= gateway.port <= 65535:
        raise origin.error(("gateway", "port"), f"{gateway.port} is no port", "Use 1 to 65535")
    if not gateway.host.strip():
        raise origin.error(("gateway", "host"), "it is empty", 'Write host = "127.0.0.1"')
    for field, least in _AT_LEAST.items():
        if not getattr(gateway, field) >= least:
            raise origin.error(("gateway", field), f"must be {least:g} or more")


def _check_provider(provider: ProviderConfig, path: KeyPath, origin: Origin) -> None:
    defaults = ProviderConfig(kind=provider.kind)
    for field, kinds in _OWN_FIELDS.items():
        if provider.kind not in kinds and getattr(provider, field) != getattr(defaults, field):
            raise origin.error(
                (*path, field),
                f"means nothing to a provider of kind {provider.kind!r}",
                f"Only for {' and '.join(sorted(kinds))}",
            )
    for field in ("base_url", "endpoint_url", "control_endpoint_url"):
        _check_url(getattr(provider, field), (*path, field), origin)
    if provider.kind == "simulated" and not provider.script:
        raise origin.error(path, "script is missing", 'Write script = "replies.sim"')
    if provider.slots < 1:
        raise origin.error((*path, "slots"), "must be 1 or more")
    if provider.context_tokens is not None and provider.context_tokens < 256:
        raise origin.error((*path, "context_tokens"), "must be 256 or more")
    _check_timeouts(provider, path, origin)


def _check_timeouts(provider: ProviderConfig, path: KeyPath, origin: Origin) -> None:
    for field in provider.timeouts.__struct_fields__:
        value = getattr(provider.timeouts, field)
        if value is not None and not 0 < value < float("inf"):
            raise origin.error(
                (*path, "timeouts", field), f"{value!r} is no time limit", "Use seconds above zero"
            )


def _check_url(url: str | None, path: KeyPath, origin: Origin) -> None:
    if url is None:
        return
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits, parts = False, urlsplit("")
    if not fits:
        raise origin.error(path, "is no address", 'Write it whole: "https://host/v1"')
    if parts.username or parts.password:
        raise origin.error(
            path, "holds a credential", "Take it out and name its variable in api_key_env"
        )
