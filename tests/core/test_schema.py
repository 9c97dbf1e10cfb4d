"""The JSON Schema subset: sound where it knows, lenient where it does not."""

from typing import Any

import pytest

from kimiya.core.schema import Schema, compiled

OBJECT = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}, "tags": {"type": "array",
                   "items": {"enum": ["a", "b", 1]}, "uniqueItems": True}},
    "required": ["n"], "additionalProperties": False,
}  # fmt: skip
NODE = {
    "$defs": {"node": {"type": "object", "required": ["v"],
                       "properties": {"v": {"type": "number"}, "next": {"$ref": "#/$defs/node"}}}},
    "$ref": "#/$defs/node",
}  # fmt: skip

FITS: list[tuple[Any, Any, bool]] = [
    (OBJECT, {"n": 1}, True),
    (OBJECT, {"n": 1.0}, True),
    (OBJECT, {"n": True}, False),
    (OBJECT, {"n": 0}, False),
    (OBJECT, {}, False),
    (OBJECT, {"n": 1, "x": 1}, False),
    (OBJECT, {"n": 1, "tags": ["a", 1.0]}, True),
    (OBJECT, {"n": 1, "tags": ["a", "a"]}, False),
    (OBJECT, {"n": 1, "tags": ["a", True]}, False),
    (NODE, {"v": 1, "next": {"v": 2, "next": {"v": 3}}}, True),
    (NODE, {"v": 1, "next": {"v": 2, "next": {}}}, False),
    ({"$ref": "#"}, {"any": 1}, True),
    ({"type": ["string", "null"]}, None, True),
    ({"type": ["string", "null"]}, 5, False),
    ({"type": "string", "nullable": True}, None, True),
    ({"const": {"a": [1]}}, {"a": [1.0]}, True),
    ({"anyOf": [{"type": "string"}, {"minimum": 3}]}, 2, False),
    ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, 5, False),
    ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, 2, True),
    ({"allOf": [{"minLength": 2}, {"pattern": "^a"}]}, "ab", True),
    ({"allOf": [{"minLength": 2}, {"pattern": "^a"}]}, "ba", False),
    ({"not": {"type": "null"}}, None, False),
    ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, False),
    ({"if": {"required": ["a"]}, "else": {"required": ["c"]}}, {}, False),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1, 2], True),
    ({"prefixItems": [{"type": "string"}], "items": False}, ["a", 1], False),
    ({"items": [{"type": "string"}], "additionalItems": False}, ["a", 1], False),
    ({"contains": {"const": 1}, "maxContains": 1}, [1, 1], False),
    ({"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
     {"x-a": 1}, True),
    ({"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
     {"y": 1}, False),
    ({"propertyNames": {"maxLength": 2}}, {"abc": 1}, False),
    ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, False),
    ({"minimum": 1, "exclusiveMinimum": True}, 1, False),
    ({"exclusiveMaximum": 5}, 5, False),
    ({"multipleOf": 0.1}, 0.3, True),
    ({"multipleOf": 2}, 3, False),
    ({"minProperties": 1}, {}, False),
    ({"maxItems": 1}, [1, 2], False),
    ({"type": "string", "format": "date", "x-vendor": 1}, "soon", True),
    ({"pattern": "(?<![unreadable"}, "x", True),
    ({"pattern": "(a+)+$"}, "a" * 40 + "!", True),
    ({"$ref": "https://elsewhere/schema"}, 1, True),
    ({"type": "whatever"}, 1, True),
    (True, 1, True),
    (False, 1, False),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "fits"), FITS)
def test_fits(schema: Any, value: Any, fits: bool) -> None:
    found = Schema(schema)
    assert found.fits(value) is fits, found.problem(value)


COERCED: list[tuple[Any, Any, Any]] = [
    ({"type": "integer"}, "5", 5),
    ({"type": "integer"}, "05", "05"),
    ({"type": "integer"}, "5.5", "5.5"),
    ({"type": "number"}, "2.50", 2.5),
    ({"type": "boolean"}, "True", True),
    ({"type": "string"}, 5, "5"),
    ({"type": "string"}, True, True),
    ({"type": ["integer", "string"]}, "5", "5"),
    ({"type": "array", "items": {"type": "integer"}}, '["1", 2]', [1, 2]),
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a": "1"}', {"a": 1}),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "7", 7),
    ({"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["b"]},
     {"a": None, "b": "1"}, {"b": 1}),
    (NODE, {"v": "1", "next": {"v": "2"}}, {"v": 1, "next": {"v": 2}}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "better"), COERCED)
def test_coerced(schema: Any, value: Any, better: Any) -> None:
    found = Schema(schema).coerced(value)
    assert found == better
    assert type(found) is type(better)


def test_a_fitting_value_is_never_changed() -> None:
    schema = Schema({"type": "object", "properties": {"a": {"type": "string"}}})
    value = {"a": "5", "b": "6"}
    assert schema.coerced(value) is value


def test_equal_schemas_are_compiled_once() -> None:
    assert compiled({"type": "object"}) is compiled({"type": "object"})
    assert compiled(None).fits(object())


def test_a_value_nested_beyond_reason_does_not_fit() -> None:
    value: Any = {"v": 1}
    for _ in range(100_000):
        value = {"v": 1, "next": value}
    assert Schema(NODE).problem(value) == "nested too deeply"


def test_keys_tell_what_may_be_meant() -> None:
    assert Schema(OBJECT).accepts_keys(["tags"])
    assert not Schema(OBJECT).accepts_keys(["other"])
    assert Schema({"type": "object"}).accepts_keys(["anything"])
