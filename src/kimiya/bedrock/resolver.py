"""What a written model id means in one region, and what the region accepts for it.

Three things are learnt and remembered:

* the model behind an application profile's ARN, from the configuration or GetInferenceProfile, so
  that capabilities, caching and price follow the model and never the spelling;
* which profile serves a model whose bare id was refused ("on-demand throughput isn't supported");
* the region's list of profiles, where it may be read.

Nothing here raises because the control plane is out of reach or forbidden: then less is known, for
a few minutes, and calls go on as written. What the user's residency forbids is refused.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from kimiya.bedrock.control import BotoControlPlane, ControlPlane
from kimiya.bedrock.memory import Memory
from kimiya.bedrock.model_id import (
    GLOBAL,
    geographies,
    is_application_profile,
    name_in,
    region_in,
    split_prefix,
)
from kimiya.bedrock.profiles import Profile, ways_to
from kimiya.bedrock.residency import Residency
from kimiya.core.clock import Clock, SystemClock
from kimiya.errors import InvalidRequest, KimiyaError, Unauthorized
from kimiya.providers.bedrock import ModelIds
from kimiya.providers.proxies import is_loopback

_log = logging.getLogger("kimiya.bedrock")
T = TypeVar("T")

KNOWN_S = 3600.0
"""A profile's models never change, but a profile can be deleted and its tags edited."""
FORBIDDEN_S = 600.0
"""An administrator may be adding the permission this minute; not every call need find out."""
UNREACHABLE_S = 60.0
_TIMEOUT_S = 5.0
"""A call waits for it, once in a while."""


class Settled(Struct, frozen=True):
    """What a model id comes to."""

    ask: str
    """The id to call with."""
    like: str
    """The id whose card holds: the model's, with the prefix that prices it; ``ask`` where nothing
    more is known."""
    profile: Profile | None = None
    """The application profile, where it is one and could be read."""


class Settings(Protocol):
    """What a provider's configuration says of its ids."""

    @property
    def endpoint_url(self) -> str | None:
        """Of the runtime, where it is not the region's own."""
        ...

    @property
    def control_endpoint_url(self) -> str | None:
        """Of the control plane, where it is not the region's own."""
        ...

    @property
    def data_residency(self) -> Residency | None:
        """Where calls may be answered."""
        ...

    @property
    def base_models(self) -> Mapping[str, str]:
        """Application profile ARN to model."""
        ...


class _Lookup(Struct, frozen=True):
    """One answer of the control plane, or that there was none."""

    profiles: tuple[Profile, ...] = ()
    is_known: bool = True


class ProfileResolver:
    """Resolves model ids for one provider in one region.

    Args:
        provider: Its name in the configuration, for messages.
        control: The region's control plane.
        base_models: Application profile ARN to the model behind it, as the user wrote them; these
            win over what AWS says, and ask nothing.
        residency: Where calls may be answered.
        clock: Ends what is remembered.
    """

    def __init__(
        self,
        provider: str,
        control: ControlPlane,
        base_models: Mapping[str, str] | None = None,
        residency: Residency | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._provider = provider
        self._control = control
        self._base_models = dict(base_models or {})
        self._residency: Residency | None = residency
        clock = clock or SystemClock()
        self._lookups: Memory[_Lookup] = Memory(clock)
        self._accepted: Memory[str] = Memory(clock)

    @property
    def region(self) -> str:
        """Where it resolves."""
        return self._control.region

    # ------------------------------------------------------------------ before a call is prepared

    async def settle(self, written: str) -> Settled:
        """What ``written`` comes to, as far as is known now; asks AWS for application ARNs only.

        Raises:
            InvalidRequest: The residency forbids it.
        """
        if not is_application_profile(written):
            asked = self.current(written)
            return Settled(asked, name_in(asked))
        told = self._base_models.get(written)
        if told is not None:
            return Settled(written, told)
        profile = await self.profile(written)
        if profile is None or not profile.base_model:
            return Settled(written, written)
        self._check_residency(profile)
        return Settled(written, profile.equivalent, profile)

    async def profile(self, identifier: str) -> Profile | None:
        """A profile, from memory or AWS; ``None`` where it cannot be known."""
        found = await self._lookups.found(
            identifier, self._asking(lambda: [self._control.profile(identifier)], identifier)
        )
        return found.profiles[0] if found.profiles else None

    def tags_of(self, model_id: str) -> Mapping[str, str]:
        """Tags of a profile that was resolved before, for the ledger; never asks."""
        found = self._lookups.get(model_id)
        return (found.profiles[0].tags or {}) if found and found.profiles else {}

    # -------------------------------------------------------------- for the provider (ModelIds)

    def current(self, written: str) -> str:
        """See ``providers.bedrock.ModelIds``."""
        accepted = self._accepted.get(written)
        if accepted is not None:
            return accepted
        prefix, base = split_prefix(name_in(written))
        if not prefix or self._residency in (None, "global"):
            return written
        if self._residency == "region":
            return base
        if prefix != GLOBAL:
            return written
        near = geographies(self._control.region)
        if not near:
            raise self._forbidden(written)
        return f"{near[0]}.{base}"

    async def alternatives(self, written: str) -> Sequence[str]:
        """See ``providers.bedrock.ModelIds``."""
        asked = self.current(written)
        self._accepted.forget(written)
        prefix, base = split_prefix(name_in(written))
        may_change = not prefix or prefix == GLOBAL
        if not may_change or is_application_profile(written) or self._residency == "region":
            return ()
        allows_global = self._residency == "global"
        listed = await self._lookups.found("", self._asking(self._list, ""))
        if listed.is_known:
            ways = ways_to(base, listed.profiles, self._control.region, allows_global=allows_global)
            ids = [profile.callable_id for profile in ways]
        else:
            ids = [f"{word}.{base}" for word in geographies(self._control.region)]
            ids += [f"{GLOBAL}.{base}"] if allows_global else []
        return [model_id for model_id in ids if model_id != asked]

    def accept(self, written: str, model_id: str) -> None:
        """See ``providers.bedrock.ModelIds``."""
        _log.info("%s: %s is called through %s", self._provider, written, model_id)
        self._accepted.keep(written, model_id, KNOWN_S)

    def counted(self, written: str) -> str:
        """See ``providers.bedrock.ModelIds``."""
        told = self._base_models.get(written)
        if told is None:
            found = self._lookups.get(written)
            told = found.profiles[0].base_model if found and found.profiles else written
        return split_prefix(name_in(told))[1]

    def remedy(self, written: str) -> str:
        """See ``providers.bedrock.ModelIds``."""
        base = split_prefix(name_in(written))[1]
        key = f"providers.{self._provider}.data_residency"
        if self._residency == "region":
            return f'{key} = "region" allows no profile; "geography" would allow those nearby'
        listed = self._lookups.get("")
        if listed is not None and listed.is_known:
            every = [p for p in listed.profiles if split_prefix(p.profile_id)[1] == base]
            if not every:
                return f"{self._control.region} has no profile of {base}; choose another region"
            if all(p.is_global for p in every) and self._residency != "global":
                return (
                    f"Only {GLOBAL}.{base} serves it from {self._control.region}, which may answer"
                    f' anywhere: write that id, or set {key} = "global"'
                )
        return (
            f"`kimiya bedrock profiles list --region {self._control.region}` shows the profiles"
            " there are"
        )

    # -------------------------------------------------------------------------------- asking AWS

    def _list(self) -> list[Profile]:
        return self._control.profiles("system")

    def _asking(
        self, ask: Callable[[], list[Profile]], what: str
    ) -> Callable[[], Awaitable[tuple[_Lookup, float]]]:
        async def asked() -> tuple[_Lookup, float]:
            here = region_in(what)
            if here and here != self._control.region:
                _log.warning("%s lies in %s, not in %s", what, here, self._control.region)
                return _Lookup(is_known=False), FORBIDDEN_S
            try:
                return _Lookup(tuple(await asyncio.to_thread(ask))), KNOWN_S
            except (Unauthorized, InvalidRequest) as error:
                self._warn(what, error)
                return _Lookup(is_known=False), FORBIDDEN_S
            except KimiyaError as error:
                self._warn(what, error)
                return _Lookup(is_known=False), UNREACHABLE_S

        return asked

    def _warn(self, what: str, error: KimiyaError) -> None:
        if what:
            _log.warning(
                "%s: the model behind %s is not known, so nothing is cached there and it is"
                " unpriced. Write it under [providers.%s.base_models], or: %s",
                self._provider,
                what,
                self._provider,
                error.message,
            )
        else:
            _log.warning("%s: profiles cannot be listed: %s", self._provider, error.message)

    # -------------------------------------------------------------------------------- residency

    def _check_residency(self, profile: Profile) -> None:
        is_near = profile.stays_near or self._residency in (None, "global")
        is_here = self._residency != "region" or profile.regions == (profile.region,)
        if not (is_near and is_here):
            raise self._forbidden(profile.arn)

    def _forbidden(self, written: str) -> InvalidRequest:
        return InvalidRequest(
            f'{written} may be answered outside what data_residency = "{self._residency}" allows;'
            f" choose another model or region, or change providers.{self._provider}.data_residency",
            provider=self._provider,
        )


def resolver_for(provider: str, region: str, settings: Settings) -> ProfileResolver:
    """The resolver of a configured provider; nothing is loaded or asked before it is needed."""
    control = BotoControlPlane(region, control_address(settings), timeout_s=_TIMEOUT_S)
    return ProfileResolver(provider, control, settings.base_models, settings.data_residency)


def control_address(settings: Settings) -> str | None:
    """Where the control plane of a provider is, if not at the region's own address.

    A loopback host plays both parts; a private endpoint of the runtime does not.
    """
    if settings.control_endpoint_url is not None or settings.endpoint_url is None:
        return settings.control_endpoint_url
    is_local = is_loopback(urlsplit(settings.endpoint_url).hostname or "")
    return settings.endpoint_url if is_local else None


if TYPE_CHECKING:

    def _conforms(resolver: ProfileResolver) -> ModelIds:
        return resolver

    _checked = _conforms
