"""From a configuration to a working pipeline: providers made, routes resolved, all closed again.

Nothing here decides anything about a call; it only puts the parts together, once.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from kimiya.books import open_accounts
from kimiya.caching.history import MemoryHistory
from kimiya.caching.planner import Planner
from kimiya.catalog.card import DialectName, ModelCard
from kimiya.catalog.catalog import Catalog, unknown_card
from kimiya.config.settings import Config, ProviderConfig
from kimiya.core.clock import Clock
from kimiya.errors import UnknownModel
from kimiya.pipeline import Pipeline
from kimiya.providers import local_model
from kimiya.providers.provider import Provider, Target
from kimiya.providers.transport import AiohttpTransport, Timeouts
from kimiya.wire.dialects import DIALECTS

if TYPE_CHECKING:
    from kimiya.bedrock.cards import ProfileCards
    from kimiya.bedrock.resolver import ProfileResolver

_MAX_REMEMBERED_NAMES = 4096
"""Names come from clients; the table of those already resolved stays bounded."""


class Routes:
    """Resolves model names against configuration and catalogue. The pipeline's ``Router``.

    A name is, in this order: a configured route; ``provider:model_id``; a name or alias of the
    catalogue, which then stands for every configured provider whose host has a card for it; an id
    or ARN that is plainly Bedrock's.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        providers: Mapping[str, Provider],
        profiles: "ProfileCards | None" = None,
    ) -> None:
        self._config = config
        self._profiles = profiles
        self._catalog = catalog
        self._providers = providers
        self._dialects: dict[str, DialectName] = {
            name: _dialect_of(settings) for name, settings in config.providers.items()
        }
        self._resolved: dict[str, tuple[Target, ...]] = {}

    def targets(self, name: str) -> tuple[Target, ...]:
        """See ``pipeline.Router``."""
        found = self._resolved.get(name)
        if found is None:
            found = self._resolve(name)
            if len(self._resolved) >= _MAX_REMEMBERED_NAMES:
                self._resolved.clear()
            self._resolved[name] = found
        return found

    async def settled(self, name: str) -> tuple[Target, ...]:
        """See ``pipeline.Router``."""
        targets = self.targets(name)
        return targets if self._profiles is None else await self._profiles.settled(targets)

    def provider(self, name: str) -> Provider:
        """See ``pipeline.Router``."""
        return self._providers[name]

    def retries(self, name: str) -> int | None:
        """See ``pipeline.Router``."""
        route = self._config.route_for(name)
        return route.retries if route is not None else None

    def model_names(self) -> Sequence[str]:
        """Routes first, then each name of the catalogue that a configured provider serves."""
        names = [name for name in self._config.routes if "*" not in name]
        for name, settings in self._config.providers.items():
            for card in self._catalog.cards:
                if card.host == _host_of(name, settings) and card.status == "current":
                    names.append(card.name)
        return tuple(dict.fromkeys(names))

    def _resolve(self, name: str) -> tuple[Target, ...]:
        route = self._config.route_for(name)
        if route is not None:
            return tuple(self._target(text) for text in route.targets)
        if ":" in name and name.partition(":")[0] in self._providers:
            return (self._target(name),)
        try:
            cards = self._catalog.named(name)
        except UnknownModel:
            claimed = self._profiles.claims(name) if self._profiles is not None else ()
            if not claimed:
                raise
            return tuple(self._target(f"{provider}:{name}") for provider in claimed)
        targets = [
            Target(provider, card)
            for card in cards
            for provider, settings in self._config.providers.items()
            if _host_of(provider, settings) == card.host
        ]
        if not targets:
            raise UnknownModel(name, self._reachable_instead(cards))
        return tuple(targets)

    def _target(self, text: str) -> Target:
        """A target as routes write it; the host's own id, our name, or one we know nothing of."""
        name, _, model_id = text.partition(":")
        host = _host_of(name, self._config.providers[name])
        card = self._catalog.find(host, model_id)
        return Target(name, card or unknown_card(host, model_id, self._dialects[name]))

    def _reachable_instead(self, cards: Sequence[ModelCard]) -> tuple[str, ...]:
        names = self.model_names()
        family = {card.family for card in cards}
        akin = [
            name for name in names if any(card.family in family for card in self._cards_named(name))
        ]
        return tuple((akin or list(names))[:5])

    def _cards_named(self, name: str) -> Sequence[ModelCard]:
        try:
            return self._catalog.named(name)
        except UnknownModel:
            return ()


def _host_of(name: str, settings: ProviderConfig) -> str:
    return settings.host or name


def _dialect_of(settings: ProviderConfig) -> DialectName:
    if settings.dialect is not None:
        return settings.dialect
    defaults: Mapping[str, DialectName] = {
        "anthropic": "anthropic_messages",
        "bedrock": "bedrock_converse",
    }
    return defaults.get(settings.kind, "openai_chat")


class App(Struct, frozen=True):
    """Everything assembled from one configuration."""

    config: Config
    catalog: Catalog
    providers: Mapping[str, Provider]
    routes: Routes
    pipeline: Pipeline

    async def open_books(self, env: Mapping[str, str] | None = None) -> None:
        """Open the ledger and enforce budgets and limits, as configured; call once, in the loop.

        Raises:
            LedgerError: The ledger's files cannot be used.
            ConfigError: A budget cannot be read, or the database's address is not set.
        """
        self.pipeline.accounts = await open_accounts(
            self.config, self.pipeline.clock, os.environ if env is None else env
        )

    async def aclose(self) -> None:
        """Close the books and every provider."""
        await self.pipeline.accounts.aclose()
        for provider in self.providers.values():
            await provider.aclose()


def installed_model() -> Path | None:
    """The embedded model's file, where it is installed and the extra that runs it is too."""
    if importlib.util.find_spec("xllamacpp") is None or not local_model.is_installed():
        return None
    return local_model.model_path()


def assemble(
    config: Config, *, env: Mapping[str, str] | None = None, clock: Clock | None = None
) -> App:
    """Make every configured provider and the pipeline over them.

    Connections are opened by the first call, not here.

    Raises:
        ConfigError: A provider cannot be made from what is configured.
    """
    variables = os.environ if env is None else env
    catalog = Catalog.load(config.overrides)
    resolvers = {
        name: _resolver(name, settings)
        for name, settings in config.providers.items()
        if settings.kind == "bedrock"
    }
    providers = {
        name: _bedrock(name, settings, variables, resolvers[name])
        if name in resolvers
        else _MAKERS[settings.kind](name, settings, variables)
        for name, settings in config.providers.items()
    }
    routes = Routes(config, catalog, providers, _profile_cards(config, catalog, resolvers))
    pipeline = Pipeline(
        routes,
        clock=clock,
        prose=config.taming.prose,
        planner=_planner(config),
        hold_reasoning=config.taming.hold_reasoning,
    )
    return App(config, catalog, providers, routes, pipeline)


def _planner(config: Config) -> Planner | None:
    """The cache planner, where it is on."""
    return Planner(MemoryHistory(), mends=config.caching.mends) if config.caching.plan else None


def _transport(settings: ProviderConfig) -> AiohttpTransport:
    limits = settings.timeouts
    return AiohttpTransport(
        Timeouts(limits.connect_s, limits.head_s, limits.idle_s, limits.total_s),
        proxy=settings.proxy,
        ca_file=settings.ca_file,
    )


def _http(name: str, settings: ProviderConfig, env: Mapping[str, str]) -> Provider:
    from kimiya.providers.http import HttpProvider

    return HttpProvider(
        name,
        settings.base_url or "",
        settings.api_key(env),
        DIALECTS[_dialect_of(settings)],
        _transport(settings),
        extra_headers=settings.headers,
    )


def _resolver(name: str, settings: ProviderConfig) -> "ProfileResolver":
    from kimiya.bedrock.resolver import resolver_for

    return resolver_for(name, settings.region or "us-east-1", settings)


def _profile_cards(
    config: Config, catalog: Catalog, resolvers: "Mapping[str, ProfileResolver]"
) -> "ProfileCards | None":
    if not resolvers:
        return None
    from kimiya.bedrock.cards import ProfileCards

    hosts = {name: _host_of(name, config.providers[name]) for name in resolvers}
    return ProfileCards(catalog, resolvers, hosts)


def _bedrock(
    name: str, settings: ProviderConfig, env: Mapping[str, str], resolver: "ProfileResolver"
) -> Provider:
    from kimiya.providers.aws_credentials import BotocoreCredentials
    from kimiya.providers.bedrock import BedrockProvider

    return BedrockProvider(
        name,
        settings.region or "us-east-1",
        _transport(settings),
        BotocoreCredentials(),
        endpoint_url=settings.endpoint_url,
        ids=resolver,
    )


def _local(name: str, settings: ProviderConfig, env: Mapping[str, str]) -> Provider:
    from kimiya.providers.llama_cpp import LlamaCppProvider

    return LlamaCppProvider(
        name,
        Path(settings.model_path).expanduser() if settings.model_path else None,
        slots=settings.slots,
        context_tokens=settings.context_tokens,
    )


def _nano(name: str, settings: ProviderConfig, env: Mapping[str, str]) -> Provider:
    from kimiya.providers.nano_k2 import NanoProvider

    return NanoProvider(name, Path(settings.model_path or "").expanduser())


def _simulated(name: str, settings: ProviderConfig, env: Mapping[str, str]) -> Provider:
    from kimiya.providers.simulated import SimulatedProvider, load_script

    return SimulatedProvider(name, load_script(settings.script), seed=settings.seed)


_Maker = Callable[[str, ProviderConfig, Mapping[str, str]], Provider]
# Each imports its provider when called: a gateway to one host loads nothing of the others.
_MAKERS: Mapping[str, _Maker] = {
    "openai": _http,
    "anthropic": _http,
    "local": _local,
    "nano": _nano,
    "simulated": _simulated,
}
