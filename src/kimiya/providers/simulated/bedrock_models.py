"""What the simulated Bedrock serves: models, where they may be called, and how each caches.

These rows are written down apart from the catalogue on purpose: the catalogue says what we believe
and is tested against this, so the two must not share their mistakes. Sources: the user guide's
pages on models by region, inference profiles and prompt caching (checked 2026-11-22), and answers
of the service seen in the field.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

ACCOUNT = "111122223333"
"""The account every caller belongs to."""

ROUTING: Mapping[str, tuple[str, ...]] = {
    "us": ("us-east-1", "us-east-2", "us-west-2"),
    "eu": ("eu-central-1", "eu-north-1", "eu-west-1", "eu-west-3"),
    "apac": ("ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2"),
    "jp": ("ap-northeast-1", "ap-northeast-3"),
    "au": ("ap-southeast-2", "ap-southeast-4"),
    "in": ("ap-south-1", "ap-south-2"),
    "us-gov": ("us-gov-east-1", "us-gov-west-1"),
}
"""Regions a geography's profiles may be called from, and route to."""

GLOBAL = "global"
"""Called from every commercial region; routes to all of them."""


class CacheBehaviour(Struct, frozen=True):
    """What a model does with cache points and with repeated prefixes."""

    kind: Literal["explicit", "implicit", "none"]
    min_tokens: int = 0
    ttls: tuple[str, ...] = ("5m",)
    places: tuple[str, ...] = ("tools", "system", "messages")
    refusal: tuple[int, str, str] | None = None
    """Status, exception and message for a point where none may stand."""


_UNSUPPORTED = (
    403,
    "AccessDeniedException",
    "You invoked an unsupported model or your request did not allow prompt caching.",
)
_NO_FIELD = (400, "ValidationException", "This model doesn't support the cachePoint field")
_EXTRANEOUS = (
    400,
    "ValidationException",
    "Malformed input request: #: extraneous key [cachePoint] is not permitted, please reformat"
    " your input and try again.",
)

_NONE = CacheBehaviour("none", refusal=_UNSUPPORTED)
_IMPLICIT = CacheBehaviour("implicit", 1024, ("30m",), (), _NO_FIELD)
_NOVA = CacheBehaviour("explicit", 1024, ("5m",), ("system", "messages"), _EXTRANEOUS)


def _claude(min_tokens: int, *ttls: str) -> CacheBehaviour:
    return CacheBehaviour("explicit", min_tokens, ttls or ("5m", "1h"))


class HostedModel(Struct, frozen=True):
    """One model."""

    base_id: str
    name: str
    profiles: tuple[str, ...]
    """Geographies (and ``global``) it has profiles in."""
    cache: CacheBehaviour
    in_region: frozenset[str] = frozenset()
    """Where the bare id may be called."""
    counts_tokens: bool = False

    @property
    def vendor(self) -> str:
        """The word before the first dot."""
        return self.base_id.partition(".")[0]


_KIMI_REGIONS = frozenset(
    {
        "us-east-1",
        "us-east-2",
        "us-west-2",
        "ap-northeast-1",
        "ap-south-1",
        "ap-southeast-3",
        "eu-north-1",
        "sa-east-1",
    }
)
_EVERYWHERE = ("us", "eu", "jp", "au", GLOBAL)

MODELS: tuple[HostedModel, ...] = (
    HostedModel("moonshot.kimi-k2-thinking", "Kimi K2 Thinking", (), _NONE, _KIMI_REGIONS),
    HostedModel("moonshotai.kimi-k2.5", "Kimi K2.5", (), _NONE, _KIMI_REGIONS),
    HostedModel("moonshotai.kimi-k3", "Kimi K3", ("us", "in", GLOBAL), _IMPLICIT),
    HostedModel("moonshotai.kimi-k3.1", "Kimi K3.1 Pro Highspeed", ("us", "in", GLOBAL), _IMPLICIT),
    HostedModel(
        "anthropic.claude-haiku-4-5-20251001-v1:0",
        "Claude Haiku 4.5",
        (*_EVERYWHERE, "us-gov"),
        _claude(4096),
        counts_tokens=True,
    ),
    HostedModel(
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "Claude Sonnet 4.5",
        (*_EVERYWHERE, "us-gov"),
        _claude(1024),
        counts_tokens=True,
    ),
    HostedModel(
        "anthropic.claude-sonnet-4-20250514-v1:0",
        "Claude Sonnet 4",
        ("us", "eu", "apac", GLOBAL),
        _claude(1024, "5m"),
        counts_tokens=True,
    ),
    HostedModel("anthropic.claude-opus-4-7", "Claude Opus 4.7", _EVERYWHERE, _claude(2048)),
    HostedModel("anthropic.claude-sonnet-5-5", "Claude Sonnet 5.5", (GLOBAL,), _claude(512)),
    HostedModel(
        "anthropic.claude-3-haiku-20240307-v1:0",
        "Claude 3 Haiku",
        ("us", "eu", "apac"),
        _NONE,
        frozenset({"us-east-1", "us-west-2", "eu-central-1", "ap-northeast-1"}),
        counts_tokens=True,
    ),
    HostedModel(
        "amazon.nova-pro-v1:0",
        "Nova Pro",
        ("us", "eu", "apac"),
        _NOVA,
        frozenset({"us-east-1", "us-gov-west-1"}),
    ),
)
"""Enough of the real list to hold every kind of row there is."""


def partition(region: str) -> str:
    """
    >>> partition("us-gov-west-1"), partition("eu-west-1")
    ('aws-us-gov', 'aws')
    """
    if region.startswith("us-gov-"):
        return "aws-us-gov"
    return "aws-cn" if region.startswith("cn-") else "aws"


def prefixes_in(region: str) -> tuple[str, ...]:
    """Every geography whose profiles may be called from a region, ``global`` last."""
    words = tuple(word for word, regions in ROUTING.items() if region in regions)
    return words if partition(region) != "aws" else (*words, GLOBAL)
