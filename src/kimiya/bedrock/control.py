"""Bedrock's control plane, one region at a time, through botocore.

botocore blocks, is slow to load and has no types: it is met here alone, when the first call is
made, and callers on an event loop go through a thread. Every call raises only ``KimiyaError``.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from kimiya.bedrock.profiles import KINDS, Profile, ProfileKind, read_profile
from kimiya.bedrock.refusals import explain, unreachable
from kimiya.errors import ConfigError, Unauthorized

MAX_TAGS = 200
_WORDS = {kind: word for word, kind in KINDS.items()}


class ControlPlane(Protocol):
    """What may be asked of one region. Calls block."""

    @property
    def region(self) -> str:
        """Such as ``us-east-1``."""
        ...

    def profiles(self, kind: ProfileKind) -> list[Profile]:
        """Every profile of a kind, without tags."""
        ...

    def profile(self, identifier: str) -> Profile:
        """One profile by id or ARN, with its tags where they may be read."""
        ...

    def is_on_demand(self, base_id: str) -> bool:
        """Whether a model may be called by its bare id."""
        ...


class BotoControlPlane:
    """The real one.

    Args:
        region: Where.
        endpoint_url: Another address than the region's own.
        profile_name: Of the shared AWS files; ``None`` takes the default chain.
        timeout_s: For connecting, and for each answer.
    """

    def __init__(
        self,
        region: str,
        endpoint_url: str | None = None,
        profile_name: str | None = None,
        *,
        timeout_s: float = 10.0,
    ) -> None:
        self._region = region
        self._endpoint_url = endpoint_url
        self._profile_name = profile_name
        self._timeout_s = timeout_s
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """See ``ControlPlane``."""
        return self._region

    def profiles(self, kind: ProfileKind) -> list[Profile]:
        """See ``ControlPlane``."""
        rows: list[Profile] = []
        asked: dict[str, Any] = {"typeEquals": _WORDS[kind], "maxResults": 1000}
        while True:
            page = self.call("list_inference_profiles", **asked)
            rows += [read_profile(row, self._region) for row in page["inferenceProfileSummaries"]]
            token = page.get("nextToken")
            if not token:
                return rows
            asked["nextToken"] = token

    def profile(self, identifier: str) -> Profile:
        """See ``ControlPlane``."""
        fields = self.call("get_inference_profile", inferenceProfileIdentifier=identifier)
        try:
            tags = self.tags(fields["inferenceProfileArn"])
        except Unauthorized:
            tags = None
        return read_profile(fields, self._region, tags)

    def is_on_demand(self, base_id: str) -> bool:
        """See ``ControlPlane``."""
        found = self.call("get_foundation_model", modelIdentifier=base_id)["modelDetails"]
        return "ON_DEMAND" in (found.get("inferenceTypesSupported") or ())

    def create(
        self,
        name: str,
        copy_from: str,
        *,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
    ) -> str:
        """Make an application profile; its ARN.

        Args:
            name: At most 64 characters.
            copy_from: ARN of a foundation model, or of a system-defined profile.
            tags: What its cost is sorted by.
            description: For people.
        """
        asked: dict[str, Any] = {
            "inferenceProfileName": name,
            "modelSource": {"copyFrom": copy_from},
        }
        if tags:
            asked["tags"] = _pairs(tags)
        if description:
            asked["description"] = description
        return str(self.call("create_inference_profile", **asked)["inferenceProfileArn"])

    def delete(self, identifier: str) -> None:
        """Remove an application profile."""
        self.call("delete_inference_profile", inferenceProfileIdentifier=identifier)

    def tags(self, arn: str) -> dict[str, str]:
        """The tags of a profile."""
        held = self.call("list_tags_for_resource", resourceARN=arn).get("tags") or ()
        return {tag["key"]: tag["value"] for tag in held}

    def tag(self, arn: str, tags: Mapping[str, str]) -> None:
        """Set tags; others stay."""
        self.call("tag_resource", resourceARN=arn, tags=_pairs(tags))

    def untag(self, arn: str, keys: Sequence[str]) -> None:
        """Take tags off."""
        self.call("untag_resource", resourceARN=arn, tagKeys=list(keys))

    def put_dashboard(self, name: str, body: str) -> None:
        """Write a CloudWatch dashboard, over one of the same name."""
        self.call("put_dashboard", "cloudwatch", DashboardName=name, DashboardBody=body)

    def call(self, operation: str, service: str = "bedrock", **asked: Any) -> Any:
        """One call of botocore.

        Raises:
            KimiyaError: Whatever went wrong, with the remedy.
        """
        errors: Any = import_module("botocore.exceptions")
        try:
            if service not in self._clients:
                self._clients[service] = self._client(service)
            return getattr(self._clients[service], operation)(**asked)
        except errors.ClientError as error:
            told = error.response
            status = told.get("ResponseMetadata", {}).get("HTTPStatusCode")
            said = told.get("Error", {})
            raise explain(said.get("Code", ""), said.get("Message", ""), status) from error
        except (errors.BotoCoreError, ValueError) as error:
            raise unreachable(error, self._region) from error

    def _client(self, service: str) -> Any:
        session: Any = import_module("botocore.session")
        config: Any = import_module("botocore.config")
        limits = config.Config(
            connect_timeout=self._timeout_s,
            read_timeout=self._timeout_s,
            retries={"total_max_attempts": 3, "mode": "standard"},
        )
        made = session.Session(profile=self._profile_name)
        made.register_component("data_loader", _loader())
        return made.create_client(
            service, region_name=self._region, endpoint_url=self._endpoint_url, config=limits
        )


@lru_cache(maxsize=1)
def _loader() -> Any:
    """One loader for all regions: reading the service models is most of a client's cost."""
    loaders: Any = import_module("botocore.loaders")
    return loaders.create_loader()


def checked_tags(words: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` words as tags.

    Raises:
        ConfigError: One is not of that form, or there are too many.
    """
    tags: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and key.strip()):
            raise ConfigError(
                f"{word[:80]!r} is no tag", key="--tag", remedy="Write KEY=VALUE: department=risk"
            )
        tags[key.strip()] = value.strip()
    if len(tags) > MAX_TAGS:
        raise ConfigError(
            f"{len(tags)} tags are too many", key="--tag", remedy=f"AWS takes {MAX_TAGS} at most"
        )
    return tags


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


if TYPE_CHECKING:
    _conforms: ControlPlane = BotoControlPlane("us-east-1")
