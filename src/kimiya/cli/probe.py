"""``kimiya models --probe``: two calls with the same new prefix, and whether usage agrees.

The first should write what the second reads, where the card says the host caches. The prefix is
new at every probe, a quarter above the card's minimum, and the replies are one word.
"""

import argparse
import asyncio
import secrets
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kimiya.caching.prefix import read_prefix
from kimiya.catalog.adapt import adapt
from kimiya.catalog.card import ModelCard
from kimiya.catalog.pricing import cost_usd
from kimiya.core.exchange import Request, Sampling, Usage
from kimiya.core.messages import Breakpoint, Message, Text, user
from kimiya.errors import ConfigError, KimiyaError

if TYPE_CHECKING:
    from kimiya.providers.provider import Provider, Target

_WORDS = "the quick brown fox jumps over a lazy dog by the river and rests in the shade "
_UNKNOWN_MINIMUM = 1_024
_OUTPUT_TOKENS = 16


class Probed(Struct, frozen=True):
    """What two calls have shown of one target."""

    target: str
    says: str
    """Of the card: ``explicit``, ``implicit`` or ``none``."""
    agrees: bool
    detail: str
    usd: Decimal | None = None
    """What the probe has cost; ``None`` is unpriced."""


def probe(args: argparse.Namespace) -> int:
    """Probe every configured host of the named model; 1 where one disagrees.

    Raises:
        ConfigError: No name was given, or nothing is configured.
        UnknownModel: No configured host has it.
    """
    from kimiya.assembly import assemble
    from kimiya.cli.configured import effective

    if not args.name:
        raise ConfigError("--probe needs a model", remedy="kimiya models NAME --probe")
    config = effective(args)

    async def everywhere() -> list[Probed]:
        app = assemble(config)
        try:
            targets = app.routes.targets(args.name)
            return [
                await probe_target(app.providers[target.provider], target)
                for target in targets
                if args.host is None or target.card.host == args.host
            ]
        finally:
            await app.aclose()

    found = asyncio.run(everywhere())
    if not found:
        raise ConfigError(f"{args.name} is not at {args.host}", key="--host")
    for one in found:
        cost = "unpriced" if one.usd is None else f"${one.usd:.6f}"
        word = "agrees" if one.agrees else "DIFFERS"
        print(f"{word:<8} {one.target}: card says {one.says}; {one.detail} ({cost})")
    return 0 if all(one.agrees for one in found) else 1


async def probe_target(provider: "Provider", target: "Target") -> Probed:
    """Call one target twice. A host's error is a finding, not an exception."""
    card = target.card
    dialect = provider.dialect_for(card)
    request = probing(card, secrets.token_hex(8))
    usages: list[Usage] = []
    try:
        adapted = adapt(request, card, dialect.name if dialect else None)
        for _ in range(2):
            ready = replace(adapted.request, model=card.model_id)
            response = await provider.complete(ready, card)
            usages.append(response.usage or Usage())
    except KimiyaError as error:
        return Probed(target.label, card.cache.kind, False, error.message)
    agrees, detail = compare(card, *usages)
    return Probed(target.label, card.cache.kind, agrees, detail, _cost(card, usages))


def probing(card: ModelCard, nonce: str) -> Request:
    """The request of a probe: a prefix no host has seen, marked where the card takes marks."""
    least = _UNKNOWN_MINIMUM if card.cache.min_tokens is None else card.cache.min_tokens
    text = f"Probe {nonce}. "
    while _tokens(text) < least * 5 // 4:
        text += _WORDS * 8
    mark = Breakpoint() if card.cache.kind == "explicit" else None
    messages = (Message("system", (Text(text, mark),)), user("Say yes."))
    return Request(card.name, messages, sampling=Sampling(max_output_tokens=_OUTPUT_TOKENS))


def compare(card: ModelCard, first: Usage, second: Usage) -> tuple[bool, str]:
    """Whether the usage of two like calls is what the card says, and what was seen."""
    seen = (
        f"wrote {first.cache_write_tokens} then {second.cache_write_tokens},"
        f" read {first.cache_read_tokens} then {second.cache_read_tokens}"
        f" of {second.input_tokens} tokens"
    )
    cached = second.cache_read_tokens > 0
    match card.cache.kind:
        case "explicit":
            return cached and first.cache_write_tokens > 0, seen
        case "implicit":
            return cached, seen
        case "none":
            return not (cached or first.cache_write_tokens or second.cache_write_tokens), seen


def _tokens(text: str) -> int:
    request = Request("", (Message("system", (Text(text),)),))
    return read_prefix(request, "").tokens


def _cost(card: ModelCard, usages: list[Usage]) -> Decimal | None:
    from datetime import UTC, datetime

    total = Decimal(0)
    for usage in usages:
        usd = cost_usd(usage, card.price_on(datetime.now(UTC).date(), usage.input_tokens))
        if usd is None:
            return None
        total += usd
    return total
