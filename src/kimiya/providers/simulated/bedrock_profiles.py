"""Inference profiles of the simulated Bedrock: those AWS defines, and those its account made.

State is one dictionary by ARN; regions do not see each other. Nothing here is timed or random:
opaque ids are counted, and times come from the caller.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from kimiya.providers.simulated.bedrock_models import (
    ACCOUNT,
    GLOBAL,
    MODELS,
    ROUTING,
    HostedModel,
    partition,
    prefixes_in,
)
from kimiya.providers.simulated.bedrock_refusal import Refusal, invalid, missing

MAX_TAGS = 200
_NAME = re.compile(r"([0-9a-zA-Z][ _-]?)+")
_TAG_TEXT = re.compile(r"[a-zA-Z0-9\s._:/=+@-]*")
_ARN = re.compile(
    r"arn:aws(?:-us-gov|-cn)?:bedrock:(?P<region>[a-z0-9-]*):(?P<account>[0-9]*):"
    r"(?P<kind>foundation-model|inference-profile|application-inference-profile)/(?P<id>[^/]+)"
)
INVALID_ID = "The provided model identifier is invalid."


class StoredProfile(Struct, frozen=True):
    """A profile as the service keeps it."""

    name: str
    profile_id: str
    arn: str
    kind: Literal["SYSTEM_DEFINED", "APPLICATION"]
    model: HostedModel
    model_arns: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    description: str | None = None


class Wanted(Struct, frozen=True):
    """What CreateInferenceProfile asks for."""

    name: str
    copy_from: str
    description: str | None = None
    token: str | None = None
    """Asking twice with one token makes one profile."""
    tags: Mapping[str, str] = {}


class Named(Struct, frozen=True):
    """What a model id or ARN of a call stands for."""

    model: HostedModel
    profile: StoredProfile | None = None
    """``None`` where the model was called by its own id."""


class ProfileStore:
    """Every profile of one account."""

    def __init__(self, opened: datetime, models: Sequence[HostedModel] = MODELS) -> None:
        self.models = {model.base_id: model for model in models}
        self.tags: dict[str, dict[str, str]] = {}
        """By ARN."""
        self._opened = opened
        self._made: dict[str, StoredProfile] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._count = 0

    @property
    def made(self) -> tuple[StoredProfile, ...]:
        """Application profiles, in every region."""
        return tuple(self._made.values())

    def listed(self, region: str, kind: str) -> list[StoredProfile]:
        """Profiles of a kind in a region, in a steady order."""
        if kind == "SYSTEM_DEFINED":
            return self._system(region)
        return [p for p in self._made.values() if f":{region}:" in p.arn]

    def found(self, region: str, identifier: str) -> StoredProfile:
        """The profile of an id or ARN.

        Raises:
            Refusal: There is none in this region.
        """
        every = self._system(region) + self.listed(region, "APPLICATION")
        for profile in every:
            if identifier in (profile.profile_id, profile.arn):
                return profile
        raise missing(f"The requested inference profile {identifier} was not found.")

    def create(self, region: str, wanted: Wanted, now: datetime) -> StoredProfile:
        """Make one.

        Raises:
            Refusal: As the service refuses it.
        """
        earlier = self._tokens.get((region, wanted.token or ""))
        if wanted.token and earlier in self._made:
            return self._made[earlier]
        if not _NAME.fullmatch(wanted.name) or len(wanted.name) > 64:
            raise invalid(f"The inference profile name {wanted.name[:80]!r} is not valid.")
        if any(p.name == wanted.name for p in self.listed(region, "APPLICATION")):
            text = f"An inference profile named {wanted.name} already exists."
            raise Refusal(400, "ConflictException", text)
        check_tags(wanted.tags)
        model, arns = self._source(region, wanted.copy_from)
        self._count += 1
        profile_id = f"{self._count:06d}simaip"
        arn = (
            f"arn:{partition(region)}:bedrock:{region}:{ACCOUNT}"
            f":application-inference-profile/{profile_id}"
        )
        made = StoredProfile(
            wanted.name, profile_id, arn, "APPLICATION", model, arns, now, now, wanted.description
        )
        self._made[arn] = made
        if wanted.token:
            self._tokens[(region, wanted.token)] = arn
        if wanted.tags:
            self.tags[arn] = dict(wanted.tags)
        return made

    def delete(self, region: str, identifier: str) -> None:
        """Forget one.

        Raises:
            Refusal: It is not there, or not the account's.
        """
        profile = self.found(region, identifier)
        if profile.kind != "APPLICATION":
            raise invalid("System-defined inference profiles cannot be deleted.")
        del self._made[profile.arn]
        self.tags.pop(profile.arn, None)

    def tag(self, region: str, arn: str, tags: Mapping[str, str], now: datetime) -> None:
        """Set tags of a profile.

        Raises:
            Refusal: No such profile, or tags the service does not take.
        """
        profile = self.found(region, arn)
        merged = {**self.tags.get(profile.arn, {}), **tags}
        check_tags(merged)
        self.tags[profile.arn] = merged
        if profile.arn in self._made:
            self._made[profile.arn] = replace(profile, updated_at=now)

    def untag(self, region: str, arn: str, keys: Sequence[str]) -> None:
        """Remove tags; those that are not there do not matter.

        Raises:
            Refusal: No such profile.
        """
        held = self.tags.get(self.found(region, arn).arn, {})
        for key in keys:
            held.pop(key, None)

    def named(self, region: str, identifier: str) -> Named:
        """What a call of the runtime means by its model id.

        Raises:
            Refusal: As the runtime refuses it.
        """
        arn = _ARN.fullmatch(identifier)
        if arn is None:
            if identifier in self.models:
                return self._on_demand(region, identifier, identifier)
            return self._through(region, identifier, identifier)
        if arn["region"] != region:
            raise invalid(INVALID_ID)
        if arn["kind"] == "foundation-model":
            return self._on_demand(region, arn["id"], identifier)
        return self._through(region, identifier, arn["id"])

    def _through(self, region: str, identifier: str, short: str) -> Named:
        try:
            profile = self.found(region, identifier)
        except Refusal:
            raise invalid(INVALID_ID) from None
        if profile.kind == "APPLICATION" and identifier == short:
            raise invalid(INVALID_ID)  # these are called by ARN only
        return Named(profile.model, profile)

    def _on_demand(self, region: str, base_id: str, asked: str) -> Named:
        model = self.models.get(base_id)
        if model is None:
            raise invalid(INVALID_ID)
        if region in model.in_region:
            return Named(model)
        if asked.startswith("arn:"):
            raise invalid("The provided model doesn't support on-demand throughput.")
        if not set(model.profiles) & set(prefixes_in(region)):
            raise invalid(INVALID_ID)
        raise invalid(
            f"Invocation of model ID {asked} with on-demand throughput isn\u2019t supported. Retry"
            " your request with the ID or ARN of an inference profile that contains this model."
        )

    def _source(self, region: str, arn: str) -> tuple[HostedModel, tuple[str, ...]]:
        parts = _ARN.fullmatch(arn)
        if parts is None or parts["kind"] == "application-inference-profile":
            raise invalid(f"The model source {arn[:200]} is not valid.")
        if parts["kind"] == "inference-profile":
            profile = self.found(region, arn)
            return profile.model, profile.model_arns
        if parts["region"] != region:
            raise missing(f"The model {arn} was not found in {region}.")
        return self._on_demand(region, parts["id"], arn).model, (arn,)

    def _system(self, region: str) -> list[StoredProfile]:
        return [
            self._defined(region, word, model)
            for model in self.models.values()
            for word in prefixes_in(region)
            if word in model.profiles
        ]

    def _defined(self, region: str, word: str, model: HostedModel) -> StoredProfile:
        part = partition(region)
        regions = (region, "") if word == GLOBAL else ROUTING[word]
        profile_id = f"{word}.{model.base_id}"
        return StoredProfile(
            name=f"{word.upper()} {model.name}",
            profile_id=profile_id,
            arn=f"arn:{part}:bedrock:{region}:{ACCOUNT}:inference-profile/{profile_id}",
            kind="SYSTEM_DEFINED",
            model=model,
            model_arns=tuple(
                f"arn:{part}:bedrock:{place}::foundation-model/{model.base_id}" for place in regions
            ),
            created_at=self._opened,
            updated_at=self._opened,
            description=f"Routes requests to {model.name} in {word}.",
        )


def check_tags(tags: Mapping[str, str]) -> None:
    """Refuse tags the service does not take.

    Raises:
        Refusal: Too many, or characters it does not know.
    """
    if len(tags) > MAX_TAGS:
        text = f"A resource may have {MAX_TAGS} tags at most; {len(tags)} were given."
        raise Refusal(400, "TooManyTagsException", text)
    for key, value in tags.items():
        fits = 0 < len(key) <= 128 and len(value) <= 256
        if not fits or not _TAG_TEXT.fullmatch(key) or not _TAG_TEXT.fullmatch(value):
            raise invalid(f"The tag {key[:80]!r} is not valid.")
