"""``kimiya simulate``: a scripted host on a port, to test an agent against a misbehaving model."""

import argparse
import contextlib

_SPOKEN = {
    "openai": ("openai_chat", "openai_responses"),
    "anthropic": ("anthropic_messages",),
    "bedrock": ("bedrock_converse",),
    "all": None,
}
"""What ``--as`` means, in dialects."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``simulate``."""
    parser = subparsers.add_parser(
        "simulate",
        help="serve a scripted, misbehaving host",
        description="Serve scripted replies and seeded faults as an OpenAI, Anthropic or Bedrock"
        " host.",
    )
    parser.add_argument("file", metavar="FILE", help="the script")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (8080)")
    parser.add_argument(
        "--as", dest="spoken", choices=_SPOKEN, default="all", help="which host (all)"
    )
    parser.add_argument("--seed", type=int, help="of all chance (the script's own)")
    parser.add_argument(
        "--public", action="store_true", help="allow an address other than loopback; it has no keys"
    )
    parser.add_argument(
        "--aws",
        action="store_true",
        help="Bedrock as an AWS account has it: profiles, model ids, refusals, cache accounting",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: The script cannot be read, or the address cannot be used.
    """
    from kimiya.errors import ConfigError
    from kimiya.providers.simulated.parser import read_script
    from kimiya.providers.simulated.server import serve
    from kimiya.wire.dialects import DIALECTS

    if not 0 < args.port < 65536:
        raise ConfigError(f"{args.port} is no port", key="--port", remedy="Use 1 to 65535")
    read_script(args.file)  # a mistake in it is told before anything is announced
    names = _SPOKEN[args.spoken]
    address = f"http://{args.host}:{args.port}"
    print(f"{args.file} answers on {address}")
    if args.spoken in ("openai", "all"):
        print(f"  export OPENAI_BASE_URL={address}/v1 OPENAI_API_KEY=simulated")
    if args.spoken in ("anthropic", "all"):
        print(f"  export ANTHROPIC_BASE_URL={address} ANTHROPIC_API_KEY=simulated")
    if args.spoken in ("bedrock", "all"):
        print(f"  export AWS_ENDPOINT_URL_BEDROCK_RUNTIME={address}")
        if args.aws:
            print(f"  export AWS_ENDPOINT_URL_BEDROCK={address}")
    print(end="", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        serve(
            args.file,
            args.host,
            args.port,
            seed=args.seed,
            dialects=None if names is None else [DIALECTS[name] for name in names],
            is_public=args.public,
            is_aws=args.aws,
        )
    return 0
