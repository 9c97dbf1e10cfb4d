"""A request made ready for one target: what is done to it, in which order, before it is sent."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec
from msgspec import Struct

from kimiya.caching.planner import Planned, PrefixKeys
from kimiya.catalog.adapt import adapt
from kimiya.catalog.card import ModelCard
from kimiya.core.exchange import Adjustment, Request
from kimiya.core.messages import JsonValue
from kimiya.providers.provider import Provider, Target
from kimiya.taming import Prepared, ReasoningStore, prepare

Plan: TypeAlias = Callable[[Request, ModelCard], Planned]
"""Places cache breakpoints in a request for a card."""


class Ready(Struct, frozen=True):
    """A request as it will be sent to one target."""

    request: Request
    prepared: Prepared
    adjustments: tuple[Adjustment, ...]
    dialect: str = ""
    """Name of the wire's dialect; ``""`` where none is involved."""
    prefix: PrefixKeys | None = None
    """What the cache planner learns from, where there is one."""


def make_ready(
    request: Request,
    target: Target,
    provider: Provider,
    *,
    store: ReasoningStore | None = None,
    prose: Mapping[str, JsonValue] | None = None,
    plan: Plan | None = None,
) -> Ready:
    """Everything that happens to a request before it is sent: taming, caching, the card's rules.

    Raises:
        InvalidRequest: This target cannot take it, known before anything is sent.
    """
    prepared = prepare(request, target.card, store=store, prose=prose)
    planned = plan(prepared.request, target.card) if plan is not None else None
    wished = planned.request if planned is not None else prepared.request
    dialect = provider.dialect_for(target.card)
    adapted = adapt(wished, target.card, dialect.name if dialect else None)
    marks = planned.adjustments if planned is not None else ()
    return Ready(
        # Usage is always asked for: the ledger needs it whether or not the client does.
        request=msgspec.structs.replace(
            adapted.request, model=target.card.model_id, stream_usage=True
        ),
        prepared=prepared,
        adjustments=(*prepared.adjustments, *marks, *adapted.adjustments),
        dialect=dialect.name if dialect else "",
        prefix=planned.prefix if planned is not None else None,
    )
