"""Tool schemas in Moonshot's subset: said again where they can be, left out where not, and told."""

from typing import Any

import msgspec
import pytest

from kimiya.catalog.adapt import adapt
from kimiya.catalog.catalog import Catalog, unknown_card
from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import user
from kimiya.errors import InvalidRequest

MOONSHOT = Catalog.load().find("moonshot", "kimi-k2.6")


def fitted(schema: Any) -> tuple[Any, tuple[str, ...]]:
    assert MOONSHOT is not None
    request = Request("kimi", (user("hi"),), tools=(ToolSpec("f", "", schema),))
    adapted = adapt(request, MOONSHOT, "openai_chat")
    codes = tuple(a.code for a in adapted.adjustments if a.code == "schema_fitted")
    return adapted.request.tools[0].parameters, codes


def of(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}, "required": ["x"]}


CASES = [
    ({"type": "integer", "minimum": 1, "title": "X"}, {"type": "integer"}),
    ({"type": "string", "format": "date"}, {"type": "string"}),
    ({"const": "a"}, {"enum": ["a"]}),
    (
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    ),
    (
        {"type": ["string", "null"], "enum": ["a"], "description": "d"},
        {"description": "d", "anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
    ),
    (
        {"type": "object", "anyOf": [{"required": ["a"]}, {"type": "null"}]},
        {"anyOf": [{"type": "object", "required": ["a"]}, {"type": "null"}]},
    ),
    (
        {"type": "array", "minItems": 1, "items": {"type": "number", "maximum": 3}},
        {"type": "array", "items": {"type": "number"}},
    ),
]


@pytest.mark.parametrize(("schema", "expected"), CASES)
def test_what_can_be_said_is_said_in_the_subset(schema: Any, expected: Any) -> None:
    given = msgspec.json.encode(of(schema))
    shown, codes = fitted(msgspec.json.decode(given))
    assert shown == of(expected)
    assert codes == ("schema_fitted",)


def test_definitions_move_to_where_the_host_reads_them() -> None:
    schema = {**of({"$ref": "#/definitions/n"}), "definitions": {"n": {"type": "string"}}}
    shown, _ = fitted(schema)
    assert shown == {**of({"$ref": "#/$defs/n"}), "$defs": {"n": {"type": "string"}}}


@pytest.mark.parametrize("target", ["https://example.com/s.json", "#/properties/x", "other.json"])
def test_a_reference_out_of_the_document_is_refused_by_name(target: str) -> None:
    with pytest.raises(InvalidRequest, match=r"'f'.*\$ref"):
        fitted(of({"$ref": target}))


@pytest.mark.parametrize("schema", [of({"type": "string"}), {}, None, True, {"type": "object"}])
def test_what_fits_is_left_as_it_is_and_not_noted(schema: Any) -> None:
    assert fitted(schema) == (schema, ())


def test_hosts_that_read_all_of_json_schema_get_it() -> None:
    request = Request("m", (user("hi"),), tools=(ToolSpec("f", "", of({"minimum": 1})),))
    card = unknown_card("box", "m", "openai_chat")
    assert adapt(request, card, "openai_chat").request.tools == request.tools


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = {"type": "object", "properties": {"format": {"type": "string"}, "title": {}}}
    assert fitted(schema) == (schema, ())
