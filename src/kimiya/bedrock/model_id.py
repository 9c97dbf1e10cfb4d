"""How Bedrock spells a model: a bare id, an id with a routing prefix, an ARN of one of three kinds.

The set of prefixes is open (``in.`` came with a model, others will): a short word before a known
vendor is one. The set of vendors is not, for ``zai.glm-4.7`` must not lose its vendor.
"""

import re

_VENDORS = (
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "google",
    "luma",
    "meta",
    "minimax",
    "mistral",
    "moonshot",
    "moonshotai",
    "nvidia",
    "openai",
    "qwen",
    "stability",
    "twelvelabs",
    "writer",
    "xai",
    "zai",
)
_PREFIXED = re.compile(rf"(?P<prefix>[a-z-]{{2,8}})\.(?P<base>(?:{'|'.join(_VENDORS)})\..+)")
_ARN = re.compile(
    r"arn:aws[a-z-]*:bedrock:(?P<region>[a-z0-9-]*):[0-9]*:"
    r"(?P<kind>foundation-model|inference-profile|application-inference-profile)/"
    r"(?P<name>[A-Za-z0-9.:-]+)"
)
GLOBAL = "global"


def split_prefix(model_id: str) -> tuple[str, str]:
    """The routing prefix, ``""`` where there is none, and the base id.

    >>> split_prefix("us-gov.anthropic.claude-haiku-4-5"), split_prefix("zai.glm-4.7")
    (('us-gov', 'anthropic.claude-haiku-4-5'), ('', 'zai.glm-4.7'))
    >>> split_prefix("moon.moonshotai.kimi-k3")
    ('moon', 'moonshotai.kimi-k3')
    """
    found = _PREFIXED.fullmatch(model_id)
    return (found["prefix"], found["base"]) if found else ("", model_id)


def is_bedrock_id(text: str) -> bool:
    """Whether a text can only be an id or ARN of Bedrock's.

    >>> is_bedrock_id("in.moonshotai.kimi-k3"), is_bedrock_id("moonshotai.kimi-k2.5")
    (True, True)
    >>> is_bedrock_id("kimi-k2.5"), is_bedrock_id("arn:aws:s3:::bucket")
    (False, False)
    """
    return (
        _ARN.fullmatch(text) is not None
        or _PREFIXED.fullmatch(f"xx.{text}") is not None
        or (_PREFIXED.fullmatch(text) is not None)
    )


def is_application_profile(model_id: str) -> bool:
    """Whether it is an ARN that says nothing of the model behind it.

    >>> is_application_profile("arn:aws:bedrock:us-east-1:1:application-inference-profile/a1")
    True
    """
    found = _ARN.fullmatch(model_id)
    return found is not None and found["kind"] == "application-inference-profile"


def name_in(model_id: str) -> str:
    """The last part of an ARN; anything else as it is.

    >>> name_in("arn:aws:bedrock:us-east-1::foundation-model/moonshotai.kimi-k2.5")
    'moonshotai.kimi-k2.5'
    """
    found = _ARN.fullmatch(model_id)
    return found["name"] if found else model_id


def region_in(model_id: str) -> str | None:
    """The region an ARN belongs to; ``""`` for one that belongs to all, ``None`` for no ARN."""
    found = _ARN.fullmatch(model_id)
    return found["region"] if found else None


_GEOGRAPHIES = (
    ("us-gov-", ("us-gov",)),
    ("us-", ("us",)),
    ("ca-", ("ca",)),
    ("eu-", ("eu",)),
    ("ap-northeast-1", ("jp", "apac")),
    ("ap-northeast-3", ("jp", "apac")),
    ("ap-southeast-2", ("au", "apac")),
    ("ap-southeast-4", ("au", "apac")),
    ("ap-southeast-6", ("au", "apac")),
    ("ap-south-", ("in", "apac")),
    ("ap-", ("apac",)),
)
"""Source: the user guide, "Supported Regions and models for inference profiles" (2026-11-22)."""


def geographies(region: str) -> tuple[str, ...]:
    """Prefixes that keep a call within the region's own part of the world, narrowest first.

    >>> geographies("ap-northeast-1"), geographies("us-gov-west-1"), geographies("sa-east-1")
    (('jp', 'apac'), ('us-gov',), ())
    """
    return next((words for start, words in _GEOGRAPHIES if region.startswith(start)), ())
