"""What the simulated Bedrock refuses in a Converse body, model by model, in the service's words."""

from collections.abc import Sequence
from typing import Any, cast

from kimiya.providers.simulated.bedrock_cache import Block
from kimiya.providers.simulated.bedrock_models import HostedModel
from kimiya.providers.simulated.bedrock_refusal import Refusal, invalid

MAX_POINTS = 4
_LONGEST_FIRST = {"1h": 0, "30m": 1, "5m": 2}


def check_body(body: Any) -> None:
    """Refuse what no model takes.

    Raises:
        Refusal: No object or no list where one is due, an empty message, a point inside a tool
            result or after reasoning.
    """
    config = _object(_object(body, "the body").get("toolConfig") or {}, "toolConfig")
    for key, fields in (("tools", config), ("system", body)):
        for entry in _list(fields, key):
            _check_point(_object(entry, key))
    for index, message in enumerate(_list(body, "messages")):
        content = _list(_object(message, "messages"), "content")
        if not content:
            raise invalid(
                f"The content field in the Message object at messages.{index} is empty. Add a"
                " ContentBlock object to the content field and try again."
            )
        for at, block in enumerate(content):
            _check_block(content, at, f"#/messages/{index}/content/{at}", _object(block, "content"))


def _check_point(entry: dict[str, Any]) -> None:
    if "cachePoint" in entry:
        _object(entry["cachePoint"], "cachePoint")


def _check_block(content: list[Any], at: int, place: str, block: dict[str, Any]) -> None:
    _check_point(block)
    result = _object(block.get("toolResult") or {}, "toolResult")
    if any("cachePoint" in _object(inner, "content") for inner in _list(result, "content")):
        raise invalid(
            f"Malformed input request: {place}/toolResult/content: extraneous key [cachePoint] is"
            " not permitted, please reformat your input and try again."
        )
    if at and "cachePoint" in block and "reasoningContent" in content[at - 1]:
        raise invalid("Cache point cannot be inserted after reasoning block.")


def check_points(model: HostedModel, blocks: Sequence[Block]) -> None:
    """Refuse cache points this model does not take.

    Raises:
        Refusal: In the words the model's family uses.
    """
    points = [block for block in blocks if block.ttl is not None]
    rule = model.cache
    for point in points:
        if rule.kind != "explicit" or point.place not in rule.places:
            assert rule.refusal is not None
            raise Refusal(*rule.refusal)
        if point.ttl not in rule.ttls:
            raise invalid(f"This model doesn't support a cachePoint with ttl {point.ttl}.")
    if len(points) > MAX_POINTS:
        raise invalid(
            f"A maximum of {MAX_POINTS} cache points may be provided. Found {len(points)}."
        )
    ranks = [_LONGEST_FIRST[point.ttl or "5m"] for point in points]
    if ranks != sorted(ranks):
        raise invalid("A cachePoint with a longer ttl must not come after one with a shorter ttl.")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"Malformed input request: {what} is not an object.")
    return cast("dict[str, Any]", value)


def _list(fields: dict[str, Any], key: str) -> list[Any]:
    found = fields.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise invalid(f"Malformed input request: {key} is not a list.")
    return cast("list[Any]", found)
