"""Configuration: one ``kimiya.toml``, every key also an environment variable, mistakes by line.

``load_config`` reads the file and the environment; ``effective_config`` adds what was left open
(hosts found by their keys, addresses, key variables). Both raise ``ConfigError`` alone.
"""

from kimiya.config.discovery import effective_config
from kimiya.config.load import find_file, load_config
from kimiya.config.settings import (
    Config,
    DefaultsConfig,
    GatewayConfig,
    ProviderConfig,
    ProviderKind,
    RouteConfig,
    TimeoutsConfig,
)

__all__ = [
    "Config",
    "DefaultsConfig",
    "GatewayConfig",
    "ProviderConfig",
    "ProviderKind",
    "RouteConfig",
    "TimeoutsConfig",
    "effective_config",
    "find_file",
    "load_config",
]
