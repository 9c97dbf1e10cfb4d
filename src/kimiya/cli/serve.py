"""``kimiya serve``: the gateway, in the foreground."""

import argparse
import contextlib

from kimiya.cli.configured import add_config_option, effective


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``serve``."""
    parser = subparsers.add_parser("serve", help="the gateway: one address for every host")
    add_config_option(parser)
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8484); 0 takes any free one")
    parser.add_argument("--workers", type=int, help="processes (1)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, then drain.

    Raises:
        ConfigError: Nothing to serve, a mistake in the configuration, or the address is taken.
    """
    from msgspec import structs

    from kimiya.config.checks import check
    from kimiya.config.origin import Origin
    from kimiya.gateway.server import serve

    config = effective(args)
    given = {
        name: value
        for name in ("host", "port", "workers")
        if (value := getattr(args, name)) is not None
    }
    config = structs.replace(config, gateway=structs.replace(config.gateway, **given))
    check(config, Origin(config.file))
    with contextlib.suppress(KeyboardInterrupt):  # the usual end, and by then it has drained
        serve(config)
    return 0
