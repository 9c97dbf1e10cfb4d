"""JSON Schema said as a GBNF grammar, so that a model can write nothing else.

Invariants:

* Whatever the grammar accepts is JSON text, written with ``", "`` and ``": "`` and no other blanks,
  so a weak model cannot lose itself in white space.
* The grammar holds a value to the schema's types, properties, required names, enums, lengths,
  integer bounds, alternatives and references. What a context-free grammar cannot say (``pattern``,
  ``format``, ``multipleOf``, ``uniqueItems``, ``not``) stays for the validator behind it.
* An object that declares properties gets only those, in their order; one without any is a map.
* Names from the schema never become rule names, so a hostile name cannot break out of its literal.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from kimiya.core.messages import JsonValue
from kimiya.errors import InvalidRequest
from kimiya.providers.gbnf import JSON_RULES, integers, literal

_MAX_DEPTH = 64
"""Schemas nested deeper are refused: no tool needs it, and the recursion here has to end."""
_MAX_RULES = 5000
"""Schemas that need more are refused: references with siblings can multiply without end."""
_MAX_REPEAT = 1000
"""Longer bounds are left open: llama.cpp unrolls each repetition into rules."""
_SCHEMA_KEYS = frozenset(
    ("type", "properties", "required", "items", "prefixItems", "enum", "const", "anyOf", "oneOf")
)


class Grammar:
    """Rules under construction; ``schema`` adds those of one JSON Schema and names its root."""

    def __init__(self, rules: Mapping[str, str] | None = None) -> None:
        self._rules: dict[str, str] = {**JSON_RULES, **(rules or {})}

    def schema(self, schema: JsonValue, where: str) -> str:
        """The name of a rule for ``schema``.

        Args:
            schema: JSON Schema; ``None`` and ``True`` allow any value.
            where: What errors call it, such as ``tools[0].parameters``.

        Raises:
            InvalidRequest: The schema cannot be satisfied, read, or is nested too deeply.
        """
        return _Compiler(self._rules, schema, where).rule(schema, 0)

    def text(self, root: str) -> str:
        """The whole grammar, with ``root`` as the expression it starts from."""
        lines = [f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._rules.items())]
        return "\n".join(lines)


class _Compiler:
    """One schema document on its way into rules; holds what ``$ref`` points into."""

    def __init__(self, rules: dict[str, str], document: JsonValue, where: str) -> None:
        self._rules = rules
        self._document = document
        self._where = where
        self._by_reference: dict[str, str] = {}

    def rule(self, schema: JsonValue, depth: int) -> str:
        """The name of a rule that accepts what ``schema`` does."""
        if depth > _MAX_DEPTH:
            raise self._refused(f"is nested more than {_MAX_DEPTH} levels deep")
        if schema is None or schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise self._refused(f"holds {json.dumps(schema)[:40]} where a schema belongs")
        return self._object_schema(cast("Mapping[str, JsonValue]", schema), depth)

    def _object_schema(self, schema: Mapping[str, JsonValue], depth: int) -> str:
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema, depth)
        if "const" in schema:
            return self._named(literal(_json(schema["const"])))
        if "enum" in schema:
            return self._listed(_sequence(schema["enum"]))
        if parts := _sequence(schema.get("allOf")):
            own = {key: value for key, value in schema.items() if key != "allOf"}
            return self.rule(self._merged([*parts, own], depth), depth + 1)
        for word in ("anyOf", "oneOf"):
            if choices := _sequence(schema.get(word)):
                own = {key: value for key, value in schema.items() if key != word}
                return self._choices(choices, own, depth)
        kinds = schema.get("type")
        if isinstance(kinds, str):
            kinds = [kinds]
        names = [self._kind(str(kind), schema, depth) for kind in _sequence(kinds)]
        if not names:
            names = [self._untyped(schema, depth)]
        if schema.get("nullable") is True:
            names.append("null")
        return self._either(names)

    def _choices(
        self, choices: Sequence[JsonValue], own: Mapping[str, JsonValue], depth: int
    ) -> str:
        if not _SCHEMA_KEYS & own.keys():
            return self._either([self.rule(choice, depth + 1) for choice in choices])
        both = [self._merged([choice, own], depth) for choice in choices]
        return self._either([self.rule(choice, depth + 1) for choice in both])

    def _untyped(self, schema: Mapping[str, JsonValue], depth: int) -> str:
        if "properties" in schema or "required" in schema:
            return self._kind("object", schema, depth)
        if "items" in schema or "prefixItems" in schema:
            return self._kind("array", schema, depth)
        return "value"

    def _kind(self, kind: str, schema: Mapping[str, JsonValue], depth: int) -> str:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer":
                return self._integer(schema)
            case "number":
                low = _bound(schema, "minimum", "exclusiveMinimum", 1)
                return "number" if low is None or low < 0 else "unsigned"
            case "boolean" | "null":
                return kind
            case _:
                raise self._refused(f"names an unknown type, {kind!r}")

    def _object(self, schema: Mapping[str, JsonValue], depth: int) -> str:
        """Properties in their order: one chain of rules before the first pair, one after it."""
        given = schema.get("properties")
        properties = dict(cast("Mapping[str, JsonValue]", given) if _is_map(given) else {})
        extra = schema.get("additionalProperties", True)
        required = {str(name) for name in _sequence(schema.get("required"))}
        for name in sorted(required - properties.keys()):
            properties[name] = True if extra is False else extra
        if not properties:
            return self._map(extra, depth)
        first, rest = '""', '""'
        for name, value in reversed(properties.items()):
            pair = f"{literal(_json(name) + ': ')} {self.rule(value, depth + 1)}"
            rest_rule = self._named(rest)
            if name in required:
                first, rest = f"{pair} {rest_rule}", f'", " {pair} {rest_rule}'
            else:
                first = f"{pair} {rest_rule} | {self._named(first)}"
                rest = f'(", " {pair})? {rest_rule}'
        return self._named(f'"{{" {self._named(first)} "}}"')

    def _map(self, extra: JsonValue, depth: int) -> str:
        if extra is False:
            return self._named('"{}"')
        pair = f'string ": " {self.rule(extra, depth + 1)}'
        return self._named(f'"{{" ({pair} (", " {pair})*)? "}}"')

    def _array(self, schema: Mapping[str, JsonValue], depth: int) -> str:
        if leading := _sequence(schema.get("prefixItems")):
            items = ' ", " '.join(self.rule(item, depth + 1) for item in leading)
            return self._named(f'"[" {items} "]"')
        item = self.rule(schema.get("items"), depth + 1)
        low, high = self._bounds(schema, "Items")
        if high == 0:
            return self._named('"[]"')
        more = f'(", " {item}){_times(max(low - 1, 0), None if high is None else high - 1)}'
        body = f"{item} {more}"
        return self._named(f'"[" {body} "]"' if low else f'"[" ({body})? "]"')

    def _string(self, schema: Mapping[str, JsonValue]) -> str:
        low, high = self._bounds(schema, "Length")
        if low == 0 and high is None:
            return "string"
        return self._named(rf'"\"" char{_times(low, high)} "\""')

    def _integer(self, schema: Mapping[str, JsonValue]) -> str:
        low = _bound(schema, "minimum", "exclusiveMinimum", 1)
        high = _bound(schema, "maximum", "exclusiveMaximum", -1)
        if low is None and high is None:
            return "integer"
        if low is not None and high is not None and low > high:
            raise self._refused(f"allows no integer between {low} and {high}")
        return self._named(integers(low, high))

    def _bounds(self, schema: Mapping[str, JsonValue], of: str) -> tuple[int, int | None]:
        low, high = schema.get(f"min{of}"), schema.get(f"max{of}")
        least = low if isinstance(low, int) else 0
        most = high if isinstance(high, int) else None
        if least > _MAX_REPEAT:
            raise self._refused(f"asks for min{of} {least}, more than {_MAX_REPEAT}")
        if most is not None and most < least:
            raise self._refused(f"asks for min{of} {least} and max{of} {most}")
        return least, None if most is not None and most > _MAX_REPEAT else most

    def _listed(self, values: Sequence[JsonValue]) -> str:
        if not values:
            raise self._refused("has an empty enum")
        return self._named(" | ".join(literal(_json(value)) for value in values))

    def _merged(self, parts: Iterable[JsonValue], depth: int) -> JsonValue:
        """One schema for all of ``parts``: properties and required names joined, else the last."""
        whole: dict[str, JsonValue] = {}
        for part in parts:
            if not _is_map(part):
                continue
            held = self._followed(cast("Mapping[str, JsonValue]", part), depth)
            for key, value in held.items():
                if key == "properties" and _is_map(value):
                    whole[key] = {**whole.get(key, {}), **value}
                elif key == "required":
                    whole[key] = [*whole.get(key, ()), *_sequence(value)]
                else:
                    whole[key] = value
        return whole

    def _followed(self, schema: Mapping[str, JsonValue], depth: int) -> Mapping[str, JsonValue]:
        """``schema`` with references at its top replaced by what they point at."""
        seen: set[str] = set()
        while isinstance(pointer := schema.get("$ref"), str):
            if pointer in seen or depth > _MAX_DEPTH:
                raise self._refused(f"goes round in circles at {pointer!r}")
            seen.add(pointer)
            target = self._target(pointer)
            own = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**target, **own} if _is_map(target) else own
        return schema

    def _reference(self, schema: Mapping[str, JsonValue], depth: int) -> str:
        pointer = str(schema["$ref"])
        if _SCHEMA_KEYS & schema.keys():
            return self.rule(self._followed(schema, depth), depth + 1)
        if pointer not in self._by_reference:
            name = self._by_reference[pointer] = self._named("")
            self._rules[name] = self.rule(self._target(pointer), depth + 1)
        return self._by_reference[pointer]

    def _target(self, pointer: str) -> JsonValue:
        """What a JSON Pointer within the document points at (RFC 6901)."""
        if not pointer.startswith("#"):
            raise self._refused(f"points outside itself with $ref {pointer!r}")
        place: JsonValue = self._document
        for step in pointer[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            items = _sequence(place)
            if _is_map(place) and key in place:
                place = place[key]
            elif key.isdecimal() and int(key) < len(items):
                place = items[int(key)]
            else:
                raise self._refused(f"has no {pointer!r}, which a $ref points at")
        return place

    def _either(self, names: Sequence[str]) -> str:
        return names[0] if len(names) == 1 else self._named(" | ".join(dict.fromkeys(names)))

    def _named(self, body: str) -> str:
        name = f"s{len(self._rules)}"
        if len(self._rules) > _MAX_RULES:
            raise self._refused(f"needs more than {_MAX_RULES} rules")
        self._rules[name] = body
        return name

    def _refused(self, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self._where}: the schema {what}, so the embedded model cannot be held to it"
        )


def _bound(
    schema: Mapping[str, JsonValue], inclusive: str, exclusive: str, step: int
) -> int | None:
    """An integer bound, whichever of its two forms is given; fractions round inwards."""
    sign = -step
    found: list[int] = []
    for word, shift in ((inclusive, 0), (exclusive, step)):
        value = schema.get(word)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # -(-x // 1) is the ceiling; for an upper bound the same expression gives the floor.
            whole = sign * int((sign * value) // 1)
            found.append(whole + shift if shift and whole == value else whole)
    return (max if step > 0 else min)(found, default=None)


def _times(low: int, high: int | None) -> str:
    if high is None:
        return "*" if low == 0 else f"{{{low},}}"
    return f"{{{low},{high}}}"


def _json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_map(value: JsonValue) -> bool:
    return isinstance(value, Mapping)


def _sequence(value: JsonValue) -> Sequence[JsonValue]:
    return cast("Sequence[JsonValue]", value) if isinstance(value, (list, tuple)) else ()
