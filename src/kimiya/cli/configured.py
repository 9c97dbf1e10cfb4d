"""The configuration as commands see it: ``--config``, the environment, what follows from both."""

import argparse
from typing import TYPE_CHECKING

from kimiya.errors import ConfigError

if TYPE_CHECKING:
    from kimiya.config import Config


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """``--config FILE``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="configuration (default: $KIMIYA_CONFIG, ./kimiya.toml, ~/.config/kimiya/kimiya.toml)",
    )


def effective(args: argparse.Namespace) -> "Config":
    """The configuration with every provider this machine has the means for.

    Raises:
        ConfigError: A mistake in it, or no provider at all.
    """
    from kimiya.assembly import installed_model
    from kimiya.config import effective_config, load_config

    config = effective_config(load_config(args.config), gguf=installed_model())
    if not config.providers:
        raise ConfigError(
            "no host of models is configured or found",
            remedy="Export a key (MOONSHOT_API_KEY, ANTHROPIC_API_KEY), run `kimiya local install`"
            " for the embedded model, or write kimiya.toml; `kimiya doctor` says what is missing",
        )
    return config
