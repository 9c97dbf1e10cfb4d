"""Grammars for the embedded model: what they accept is what the schema allows."""

import hashlib
import json
import random

import jsonschema
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from kimiya.errors import InvalidRequest
from kimiya.providers.gbnf import integers, literal, unlike
from kimiya.providers.schema_grammar import Grammar
from tests.providers.gbnf_reader import Gbnf

NAMES = st.sampled_from(["a", "b", "city", 'quo"te', "back\\slash", "línea", 'x": 1, "y', "$ref"])
LEAVES = st.one_of(
    st.sampled_from(
        [{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]
    ),
    st.just({}),
    st.just({"type": "array"}),
    st.just({"type": "object", "additionalProperties": False}),
    st.tuples(st.integers(0, 4), st.integers(0, 4)).map(
        lambda pair: {"type": "string", "minLength": min(pair), "maxLength": max(pair)}
    ),
    st.tuples(st.integers(-3000, 3000), st.integers(-3000, 3000)).map(
        lambda pair: {"type": "integer", "minimum": min(pair), "maximum": max(pair)}
    ),
    st.integers(-50, 50).map(lambda low: {"type": "integer", "exclusiveMinimum": low}),
    st.lists(
        st.one_of(st.text(max_size=4), st.integers(), st.none(), st.booleans()),
        min_size=1,
        max_size=3,
    ).map(lambda values: {"enum": values}),
    st.sampled_from([{"const": {"k": [1, None]}}, {"type": ["string", "null"]}]),
)


def _objects(inner: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(NAMES, inner, min_size=1, max_size=4).flatmap(
        lambda properties: st.lists(st.sampled_from(sorted(properties)), unique=True).map(
            lambda required: {"type": "object", "properties": properties, "required": required}
        )
    )


def _referred(schema: object) -> dict[str, object]:
    name = hashlib.sha256(json.dumps(schema).encode()).hexdigest()[:8]
    return {"$ref": f"#/$defs/{name}", "$defs": {name: schema}}


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        st.tuples(inner, st.integers(0, 2), st.integers(2, 4)).map(
            lambda x: {"type": "array", "items": x[0], "minItems": x[1], "maxItems": x[2]}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices}),
        inner.map(lambda value: {"type": "object", "additionalProperties": value}),
        inner.map(_referred),
    ),
    max_leaves=6,
)


def grammar_of(schema: object) -> Gbnf:
    grammar = Grammar()
    return Gbnf(grammar.text(grammar.schema(schema, "schema")))


@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_what_the_grammar_accepts_the_schema_allows(schema: object, seed: int) -> None:
    # A $ref below the top points into a document that has lost its $defs; give it them back.
    document = {"$defs": {}, **schema} if isinstance(schema, dict) else schema
    document["$defs"] = _gathered(schema)
    text = grammar_of(document).sample(random.Random(seed))
    note(text)
    jsonschema.validate(json.loads(text), document)


def _gathered(schema: object) -> dict[str, object]:
    if isinstance(schema, dict):
        if schema.get("$defs"):
            return {**_gathered(list(schema["$defs"].values())), **schema["$defs"]}
        schema = list(schema.values())
    if isinstance(schema, list):
        found: dict[str, object] = {}
        for item in schema:
            found.update(_gathered(item))
        return found
    return {}


@given(ends=st.tuples(st.integers(-20_000, 20_000), st.integers(-20_000, 20_000)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_integer_ranges_are_exact(ends: tuple[int, int], data: st.DataObject) -> None:
    low, high = min(ends), max(ends)
    grammar = Gbnf(f"root ::= {integers(low, high)}")
    near = st.one_of(
        st.integers(-30_000, 30_000), st.integers(low - 2, low + 2), st.integers(high - 2, high + 2)
    )
    for value in data.draw(st.lists(near, min_size=5, max_size=10)):
        assert grammar.accepts(str(value)) == (low <= value <= high), (low, high, value)
    assert not grammar.accepts(f"0{low}")


@pytest.mark.parametrize(("low", "high"), [(None, -5), (3, None), (None, None), (0, 0), (-1, 0)])
def test_open_ranges_end_at_fifteen_digits(low: int | None, high: int | None) -> None:
    grammar = Gbnf(f"root ::= {integers(low, high)}")
    for value in (-(10**15), -(10**15) + 1, -6, -5, -4, -1, 0, 1, 2, 3, 10**15 - 1, 10**15):
        fits = (low is None or low <= value) and (high is None or value <= high)
        assert grammar.accepts(str(value)) == (fits and abs(value) < 10**15), value


@given(
    text=st.one_of(
        st.text("<tool_cal>x", max_size=14),
        st.integers(0, 11).map(lambda length: "<tool_call>"[:length]),
    )
)
@settings(max_examples=200, deadline=None)
def test_unlike_forbids_one_beginning_and_nothing_else(text: str) -> None:
    rules = unlike("<tool_call>", "text")
    lines = ["root ::= text", *(f"{name} ::= {body}" for name, body in rules.items())]
    assert Gbnf("\n".join(lines)).accepts(text) == (not text.startswith("<tool_call>"))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_a_literal_accepts_itself(text: str) -> None:
    grammar = Gbnf(f"root ::= {literal(text)}")
    assert grammar.accepts(text)
    assert not grammar.accepts(text + "x")


def test_properties_come_in_their_order_and_optional_ones_may_be_left_out() -> None:
    grammar = grammar_of(
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"const": 1}},
            "required": ["b"],
        }
    )
    for accepted in (
        '{"b": null}',
        '{"a": true, "b": null}',
        '{"b": null, "c": 1}',
        '{"a": false, "b": null, "c": 1}',
    ):
        assert grammar.accepts(accepted), accepted
    for refused in ('{"a": true}', "{}", '{"b": null, "a": true}', '{"b": null, "d": 1}'):
        assert not grammar.accepts(refused), refused


def test_recursive_schemas_are_recursive_grammars() -> None:
    grammar = grammar_of(
        {
            "type": "object",
            "properties": {"next": {"$ref": "#"}},
            "additionalProperties": False,
        }
    )
    assert grammar.accepts('{"next": {"next": {}}}')
    assert not grammar.accepts('{"next": 1}')


def test_all_of_joins_properties() -> None:
    grammar = grammar_of(
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
                {"$ref": "#/$defs/more"},
            ],
            "$defs": {"more": {"properties": {"b": {"type": "null"}}, "required": ["b"]}},
        }
    )
    assert grammar.accepts('{"a": null, "b": null}')
    assert not grammar.accepts('{"a": null}')


def _nested(depth: int) -> object:
    schema: object = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


MULTIPLYING = {
    "$defs": {
        "x": {
            "type": "object",
            "properties": {n: {"$ref": "#/$defs/x", "type": "object"} for n in "abcdef"},
        }
    },
    "$ref": "#/$defs/x",
}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strange"}, "unknown type, 'strange'"),
        (5, "holds 5"),
        (False, "holds false"),
        ({"type": "object", "properties": {"a": [1]}}, "holds [1]"),
        ({"$ref": "#/$defs/none"}, "has no '#/$defs/none'"),
        ({"$ref": "https://example.com/s.json"}, "points outside itself"),
        ({"$ref": "#", "type": "object"}, "goes round in circles"),
        ({"enum": []}, "empty enum"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no integer between 3 and 2"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength 5 and maxLength 2"),
        ({"type": "string", "minLength": 10**6}, "minLength 1000000"),
        (_nested(500), "more than 64 levels"),
        (MULTIPLYING, "more than"),
    ],
)
def test_what_cannot_be_held_to_is_refused_by_name(schema: object, said: str) -> None:
    with pytest.raises(InvalidRequest, match="tool 't'") as caught:
        Grammar().schema(schema, "tool 't'")
    assert said in caught.value.message
