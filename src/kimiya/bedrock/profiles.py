"""Inference profiles as values: what the control plane says of one, and what that means.

An application profile names no model; the models it routes to do. Where they lie tells which kind
of profile it was copied from: one without a region is a global one's, and several regions are a
geography's, which matters for the price.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from kimiya.bedrock.model_id import GLOBAL, geographies, name_in, region_in, split_prefix

ProfileKind = Literal["system", "application"]

KINDS: Mapping[str, ProfileKind] = {"SYSTEM_DEFINED": "system", "APPLICATION": "application"}


class Profile(Struct, frozen=True, kw_only=True):
    """One inference profile in one region."""

    region: str
    """Where it is called."""
    profile_id: str
    arn: str
    name: str
    kind: ProfileKind
    model_arns: tuple[str, ...]
    """What it routes to."""
    status: str = "ACTIVE"
    description: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    tags: Mapping[str, str] | None = None
    """``None`` where nobody asked, or may not know."""

    @property
    def callable_id(self) -> str:
        """What a call gives as its model id: system-defined ones by id, others by ARN only."""
        return self.profile_id if self.kind == "system" else self.arn

    @property
    def base_model(self) -> str:
        """Bare id of the model behind it; ``""`` where the service named none."""
        return next((split_prefix(name_in(arn))[1] for arn in self.model_arns), "")

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions it routes to; ``""`` among them stands for all."""
        return tuple(dict.fromkeys(region_in(arn) or "" for arn in self.model_arns))

    @property
    def is_global(self) -> bool:
        """Whether a call may be answered anywhere."""
        return split_prefix(self.profile_id)[0] == GLOBAL or "" in self.regions

    @property
    def prefix(self) -> str:
        """Routing prefix it is, or was copied from; ``""`` for a single region."""
        own = split_prefix(self.profile_id)[0]
        if own or self.is_global:
            return own or GLOBAL
        return (geographies(self.region) or ("",))[-1] if len(self.regions) > 1 else ""

    @property
    def equivalent(self) -> str:
        """The id whose capabilities, caching and price hold for this profile."""
        return f"{self.prefix}.{self.base_model}" if self.prefix else self.base_model

    @property
    def stays_near(self) -> bool:
        """Whether everything it routes to lies in its region's own part of the world."""
        if self.is_global:
            return False
        if split_prefix(self.profile_id)[0] in geographies(self.region):
            return True
        return all(_area(region) == _area(self.region) for region in self.regions)


def read_profile(
    fields: Mapping[str, Any], region: str, tags: Mapping[str, str] | None = None
) -> Profile:
    """A profile as botocore gives it, from a summary or from GetInferenceProfile."""
    return Profile(
        region=region,
        profile_id=fields["inferenceProfileId"],
        arn=fields["inferenceProfileArn"],
        name=fields["inferenceProfileName"],
        kind=KINDS.get(fields["type"], "application"),
        model_arns=tuple(model["modelArn"] for model in fields.get("models") or ()),
        status=fields.get("status", "ACTIVE"),
        description=fields.get("description"),
        created_at=fields.get("createdAt"),
        updated_at=fields.get("updatedAt"),
        tags=tags,
    )


def ways_to(
    base: str, profiles: Sequence[Profile], region: str, *, allows_global: bool
) -> list[Profile]:
    """System-defined profiles of a model, in the order to try them: narrow, wide, then global."""
    own = geographies(region)
    fitting = [p for p in profiles if p.kind == "system" and split_prefix(p.profile_id)[1] == base]

    def order(profile: Profile) -> tuple[int, int]:
        prefix = split_prefix(profile.profile_id)[0]
        return own.index(prefix) if prefix in own else len(own), len(profile.regions)

    near = sorted((p for p in fitting if p.stays_near), key=order)
    return near + [p for p in fitting if allows_global and p.is_global]


def _area(region: str) -> str:
    """The part of the world a region's name begins with; GovCloud is one of its own."""
    return "us-gov" if region.startswith("us-gov-") else region.partition("-")[0]
