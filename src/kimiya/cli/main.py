"""``kimiya``: finds the subcommand, loads only its module, and turns errors into one line.

Exit codes: 0 done; 1 it failed (a host, a file, a bug of ours); 2 what was typed or configured is
wrong; 130 stopped with Ctrl-C. Errors go to stderr with their remedy; ``--debug`` adds the
traceback. The broad ``except`` here is one of the three there are.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence

from kimiya import __version__
from kimiya.core.nearest import nearest
from kimiya.errors import ConfigError, KimiyaError, UnknownModel, redact

COMMANDS: Mapping[str, str] = {
    "serve": "the gateway: one address for every host",
    "chat": "talk to a model",
    "models": "what is known of each model",
    "doctor": "what is there, what is missing, and the remedy",
    "cost": "what calls cost, and what caching and routing saved",
    "keys": "keys of the gateway: create, list, revoke",
    "simulate": "serve a scripted, misbehaving host",
    "local": "the embedded model: install, path, remove, bench",
    "bedrock": "inference profiles, and a CloudWatch dashboard",
    "cache": "what keeps prompt caching from working",
    "tame": "mend recorded replies, offline",
    "train": "train a model from a recipe",
}
"""Subcommand to one line of help. The module of each has ``add_parser`` and sets ``run``; a command
whose module is not installed is not offered."""

_EXTRA_OF: Mapping[str, str] = {
    "xllamacpp": "local",
    "opentelemetry": "otel",
    "asyncpg": "postgres",
    "genai_prices": "prices",
    "strands": "strands",
    "matplotlib": "plot",
    "torch": "train",
    "numpy": "train",
}
"""Which extra brings a module."""

_USAGE = 2
_FAILED = 1
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after ``kimiya``; ``None`` takes the process's own.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in words[: words.index("--") if "--" in words else None]
    try:
        return _run([word for word in words if word != "--debug"] if is_debug else words)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else _FAILED
    except KeyboardInterrupt:
        _say("stopped")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; nothing more can be said there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except Exception as error:  # noqa: BLE001 (the command's edge: every error becomes one line)
        if is_debug:
            traceback.print_exception(error)
        return _explain(error)


def _run(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    parser = _parser(command)
    if command is None and not words:
        parser.print_help()
        return 0
    if command is not None and command not in COMMANDS:
        near = nearest(command, COMMANDS, limit=1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise ConfigError(f"there is no command {command[:80]!r}", remedy=hint.capitalize())
    args = parser.parse_args(words)
    code: int = args.run(args)
    sys.stdout.flush()
    return code


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser, with the one subcommand that is meant in full and the others by name only."""
    parser = argparse.ArgumentParser(
        prog="kimiya",
        description="One address in front of any host of Kimi or Claude.",
        epilog="--debug, anywhere, shows the traceback of an error.",
    )
    parser.add_argument("--version", action="version", version=f"kimiya {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        if name == command:
            _module(name).add_parser(subparsers)
        elif command is None and importlib.util.find_spec(f"kimiya.cli.{name}") is not None:
            subparsers.add_parser(name, help=line)
    return parser


def _module(name: str):
    path = f"kimiya.cli.{name}"
    if importlib.util.find_spec(path) is None:
        raise ConfigError(
            f"this installation has no command {name}", remedy="Install a newer version of kimiya"
        )
    return importlib.import_module(path)


def _explain(error: Exception) -> int:
    match error:
        case ConfigError() | UnknownModel():
            _say(error.message)
            return _USAGE
        case KimiyaError():
            _say(f"{type(error).__name__}: {error.message}")
        case ModuleNotFoundError(name=str() as name) if name.partition(".")[0] in _EXTRA_OF:
            extra = _EXTRA_OF[name.partition(".")[0]]
            _say(f"this needs {name}, which is not installed. pip install 'kimiya[{extra}]'")
        case OSError():
            _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        case _:
            _say(f"a bug: {type(error).__name__}: {error}. Run again with --debug and report it")
    return _FAILED


def _say(message: str) -> None:
    line = " ".join(redact(message).split())
    print(f"kimiya: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
