"""Targets with the card of the model that will answer, whatever its id was written as.

An application profile's ARN names no model, and a bare id may be served through a profile: who
plans caching, adapts a request or prices a reply must see the model and price of the way taken.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from kimiya.bedrock.model_id import (
    is_application_profile,
    is_bedrock_id,
    name_in,
    region_in,
    split_prefix,
)
from kimiya.bedrock.resolver import ProfileResolver, Settled
from kimiya.catalog.card import ModelCard
from kimiya.catalog.catalog import Catalog
from kimiya.errors import InvalidRequest
from kimiya.providers.provider import Target

_MAX_CARDS = 1024


class ProfileCards:
    """Settles the targets of providers that have a resolver; others pass as they are.

    Args:
        catalog: Where cards are found.
        resolvers: By provider.
        hosts: By provider: whose rows of the catalogue hold there.
    """

    def __init__(
        self,
        catalog: Catalog,
        resolvers: Mapping[str, ProfileResolver],
        hosts: Mapping[str, str],
    ) -> None:
        self._catalog = catalog
        self._resolvers = resolvers
        self._hosts = hosts
        self._cards: dict[tuple[str, str, str], ModelCard | None] = {}

    def claims(self, name: str) -> tuple[str, ...]:
        """Providers that a name is plainly an id of: Bedrock's spelling, in their region."""
        if not is_bedrock_id(name):
            return ()
        region = region_in(name)
        return tuple(
            provider
            for provider, resolver in self._resolvers.items()
            if not region or region == resolver.region
        )

    async def settled(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        """The targets, each with the card, profile and tags it will be called with.

        Those that lie where the user's residency does not allow are left out.

        Raises:
            InvalidRequest: None is left.
        """
        if not any(target.provider in self._resolvers for target in targets):
            return targets
        kept: list[Target] = []
        refusal: InvalidRequest | None = None
        for target in targets:
            try:
                kept.append(await self._settled(target))
            except InvalidRequest as error:
                refusal = error
        if not kept and refusal is not None:
            raise refusal
        return tuple(kept)

    async def _settled(self, target: Target) -> Target:
        resolver = self._resolvers.get(target.provider)
        if resolver is None:
            return target
        written = target.card.model_id
        settled = await resolver.settle(written)
        profile = _profile_of(settled.ask)
        if settled.ask == settled.like == written:
            return replace(target, profile=profile) if profile else target
        tags = settled.profile.tags if settled.profile is not None else None
        card = self._card(target, settled) or target.card
        return Target(target.provider, card, profile, tags or {})

    def _card(self, target: Target, settled: Settled) -> ModelCard | None:
        host = self._hosts.get(target.provider, target.card.host)
        key = (host, settled.ask, settled.like)
        if key not in self._cards:
            found = self._catalog.find(host, settled.like)
            if len(self._cards) >= _MAX_CARDS:
                self._cards.clear()
            self._cards[key] = None if found is None else replace(found, model_id=settled.ask)
        return self._cards[key]


def _profile_of(model_id: str) -> str | None:
    """The inference profile an id stands for, as it is written; ``None`` for a model's own id."""
    is_system = split_prefix(name_in(model_id))[0] != ""
    return model_id if is_system or is_application_profile(model_id) else None
