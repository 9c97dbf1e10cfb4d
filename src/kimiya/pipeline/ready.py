"""A request made ready for one target: what is done to it, in which order, before it is sent."""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from kimiya.catalog.adapt import adapt
from kimiya.core.exchange import Adjustment, Request
from kimiya.core.messages import JsonValue
from kimiya.providers.provider import Provider, Target
from kimiya.taming import Prepared, ReasoningStore, prepare


class Ready(Struct, frozen=True):
    """A request as it will be sent to one target."""

    request: Request
    prepared: Prepared
    adjustments: tuple[Adjustment, ...]


def make_ready(
    request: Request,
    target: Target,
    provider: Provider,
    *,
    store: ReasoningStore | None = None,
    prose: Mapping[str, JsonValue] | None = None,
) -> Ready:
    """Everything that happens to a request before it is sent: taming, then the card's rules.

    Raises:
        InvalidRequest: This target cannot take it, known before anything is sent.
    """
    prepared = prepare(request, target.card, store=store, prose=prose)
    dialect = provider.dialect_for(target.card)
    adapted = adapt(prepared.request, target.card, dialect.name if dialect else None)
    return Ready(
        # Usage is always asked for: the ledger needs it whether or not the client does.
        request=msgspec.structs.replace(
            adapted.request, model=target.card.model_id, stream_usage=True
        ),
        prepared=prepared,
        adjustments=(*prepared.adjustments, *adapted.adjustments),
    )
