"""The JSON Schema subset tools are declared in: dereference, validate, coerce without loss.

A schema is compiled once into nested checks and cached by its content, so that validating a call
costs microseconds. Invariants:

* ``problem`` is sound for the keywords below and accepts what it does not know (``format``, vendor
  keywords, patterns Python cannot read): an unknown keyword never refuses a value.
* JSON equality is used throughout: ``true`` is not ``1``, ``1.0`` is an integer.
* ``coerced`` changes only a value that does not fit, into one that does and says the same thing.

Keywords: type, enum, const, properties, patternProperties, additionalProperties, propertyNames,
required, dependentRequired, min/maxProperties, items, prefixItems, additionalItems, contains,
min/maxItems, uniqueItems, minimum, maximum, exclusive*, multipleOf, min/maxLength, pattern, anyOf,
oneOf, allOf, not, if/then/else, nullable, $ref with ``#/...`` pointers and cycles, boolean schemas.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import msgspec

from kimiya.core.messages import JsonValue

Check = Callable[[JsonValue], str | None]
"""Gives what is wrong with a value, or ``None``."""

_MAX_DEPTH = 200
_NESTED_QUANTIFIER = re.compile(r"[+*}]\)?[+*{]|\([^)]*[+*}][^)]*\)[+*{]")
"""Patterns that may backtrack for ever are not run: a client's schema must not stop the house."""

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\Z")
_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)\Z")


def json_equal(left: JsonValue, right: JsonValue) -> bool:
    """Equality of JSON values: numbers by value, ``true`` never a number.

    >>> json_equal(1, 1.0), json_equal(True, 1), json_equal([{"a": 1}], [{"a": 1.0}])
    (True, False, True)
    """
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        ours, theirs = cast("dict[str, Any]", left), cast("dict[str, Any]", right)
        return ours.keys() == theirs.keys() and all(json_equal(ours[k], theirs[k]) for k in ours)
    if isinstance(left, list) and isinstance(right, list):
        these, those = cast("list[Any]", left), cast("list[Any]", right)
        return len(these) == len(those) and all(map(json_equal, these, those))
    return bool(left == right) and isinstance(left, str) == isinstance(right, str)


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: JsonValue) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[JsonValue], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


class Schema:
    """One compiled schema.

    >>> schema = Schema({"type": "object", "properties": {"n": {"type": "integer"}},
    ...                  "required": ["n"], "additionalProperties": False})
    >>> schema.fits({"n": 1}), schema.fits({"n": "1"}), schema.problem({})
    (True, False, "'n' is missing")
    >>> schema.coerced({"n": "1"})
    {'n': 1}
    """

    def __init__(self, schema: JsonValue) -> None:
        self.root = schema
        """The schema as it was given."""
        self._checks: dict[str, Check] = {}
        self._check: Check = self._compile(schema, 0)

    def problem(self, value: JsonValue) -> str | None:
        """What is wrong with ``value``; ``None`` where it fits."""
        try:
            return self._check(value)
        except RecursionError:
            return "nested too deeply"

    def fits(self, value: JsonValue) -> bool:
        """Whether ``value`` is valid."""
        return self.problem(value) is None

    def coerced(self, value: JsonValue) -> JsonValue:
        """``value``, or the one that says the same and fits, where there is such a one."""
        if self.fits(value):
            return value
        try:
            return self._coerce(value, self.root, 0)
        except RecursionError:
            return value

    @property
    def properties(self) -> Mapping[str, JsonValue]:
        """The named properties of an object schema, references followed."""
        return _mapping(_mapping(self._followed(self.root)).get("properties"))

    @property
    def is_open(self) -> bool:
        """Whether an object may carry properties that are not named."""
        node = self._followed(self.root)
        return node is not False and _mapping(node).get("additionalProperties", True) is not False

    def accepts_keys(self, keys: Sequence[str]) -> bool:
        """Whether an object of these keys could be meant for this schema, required or not."""
        return self.is_open or all(key in self.properties for key in keys)

    # Dereferencing ------------------------------------------------------------------------------

    def _resolved(self, pointer: str) -> JsonValue:
        node: JsonValue = self.root
        if not pointer.startswith("#"):
            return True
        for step in pointer[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and key in node:
                node = cast("dict[str, Any]", node)[key]
            elif isinstance(node, list) and key.isdigit() and int(key) < len(cast("Any", node)):
                node = cast("list[Any]", node)[int(key)]
            else:
                return True
        return node

    def _followed(self, node: JsonValue) -> JsonValue:
        for _ in range(_MAX_DEPTH):
            pointer = _mapping(node).get("$ref")
            if not isinstance(pointer, str):
                return node
            node = self._resolved(pointer)
        return True

    def _reference(self, pointer: str, depth: int) -> Check:
        if pointer not in self._checks:
            # The placeholder breaks cycles: it looks the finished check up when it runs.
            self._checks[pointer] = lambda value: self._checks[pointer](value)
            target = self._followed({"$ref": pointer})
            self._checks[pointer] = self._compile(target, depth + 1)
        return lambda value: self._checks[pointer](value)

    # Compiling ----------------------------------------------------------------------------------

    def _compile(self, node: JsonValue, depth: int) -> Check:
        if node is False:
            return lambda value: "nothing is allowed here"
        if not isinstance(node, dict) or depth > _MAX_DEPTH:
            return lambda value: None
        known = cast("dict[str, Any]", node)
        checks = [
            check for build in (_types, _choices, _numbers, _strings) for check in build(known)
        ]
        checks += self._objects(known, depth)
        checks += self._arrays(known, depth)
        checks += self._combinations(known, depth)
        if isinstance(known.get("$ref"), str):
            checks.append(self._reference(known["$ref"], depth))
        check = _all_of(checks)
        return _or_null(check) if known.get("nullable") is True else check

    def _objects(self, node: dict[str, Any], depth: int) -> list[Check]:
        checks: list[Check] = []
        required = node.get("required")
        if isinstance(required, list) and required:
            checks.append(_required(list(cast("list[Any]", required))))
        checks += _counted(node, "minProperties", "maxProperties", dict, "properties")
        if isinstance(needs := node.get("dependentRequired"), dict):
            checks.append(_dependent(cast("dict[str, list[str]]", needs)))
        if isinstance(node.get("propertyNames"), dict | bool):
            checks.append(_names(self._compile(node["propertyNames"], depth + 1)))
        named = {
            name: self._compile(child, depth + 1)
            for name, child in _mapping(node.get("properties")).items()
        }
        patterned = [
            (pattern, self._compile(child, depth + 1))
            for source, child in _mapping(node.get("patternProperties")).items()
            if (pattern := _pattern(source)) is not None
        ]
        rest = node.get("additionalProperties", True)
        lenient = len(patterned) < len(_mapping(node.get("patternProperties")))
        others = None if rest is True or lenient else self._compile(rest, depth + 1)
        if named or patterned or others:
            checks.append(_members(named, patterned, others))
        return checks

    def _arrays(self, node: dict[str, Any], depth: int) -> list[Check]:
        checks: list[Check] = []
        first = node.get("prefixItems")
        items: Any = node.get("items", True)
        if isinstance(items, list):
            # Drafts before 2020-12 wrote the prefix under ``items``.
            first, items = cast("Any", items), node.get("additionalItems", True)
        leading = [self._compile(child, depth + 1) for child in cast("list[Any]", first or [])]
        rest = None if items is True else self._compile(items, depth + 1)
        if leading or rest:
            checks.append(_elements(leading, rest))
        checks += _counted(node, "minItems", "maxItems", list, "items")
        if node.get("uniqueItems") is True:
            checks.append(_unique)
        if isinstance(node.get("contains"), dict | bool):
            inner = self._compile(node["contains"], depth + 1)
            checks.append(_contains(inner, node.get("minContains", 1), node.get("maxContains")))
        return checks

    def _combinations(self, node: dict[str, Any], depth: int) -> list[Check]:
        def branches(keyword: str) -> list[Check]:
            found = node.get(keyword)
            children = cast("list[Any]", found) if isinstance(found, list) else []
            return [self._compile(child, depth + 1) for child in children]

        checks: list[Check] = []
        if every := branches("allOf"):
            checks.append(_all_of(every))
        if some := branches("anyOf"):
            checks.append(_count_of(some, exactly=False))
        if one := branches("oneOf"):
            checks.append(_count_of(one, exactly=True))
        if isinstance(node.get("not"), dict | bool):
            checks.append(_negated(self._compile(node["not"], depth + 1)))
        if isinstance(node.get("if"), dict | bool):
            parts = (
                self._compile(node.get(key, True), depth + 1) for key in ("if", "then", "else")
            )
            checks.append(_conditional(*parts))
        return checks

    # Coercing -----------------------------------------------------------------------------------

    def _fits_node(self, value: JsonValue, node: JsonValue) -> bool:
        return self._compile(node, 0)(value) is None

    def _coerce(self, value: JsonValue, node: JsonValue, depth: int) -> JsonValue:
        node = self._followed(node)
        if not isinstance(node, dict) or depth > _MAX_DEPTH or self._fits_node(value, node):
            return value
        known = cast("dict[str, Any]", node)
        for keyword in ("anyOf", "oneOf"):
            options = [self._coerce(value, child, depth + 1) for child in _list(known.get(keyword))]
            fitting = [option for option in options if self._fits_node(option, known)]
            if fitting:
                same = all(json_equal(fitting[0], option) for option in fitting)
                return fitting[0] if same else value
        value = self._scalar(value, known)
        if isinstance(value, dict):
            return self._coerce_members(cast("dict[str, Any]", value), known, depth)
        if isinstance(value, list) and isinstance(known.get("items"), dict):
            elements = cast("list[Any]", value)
            items = known["items"]
            return [self._coerce(each, items, depth + 1) for each in elements]
        return cast("JsonValue", value)

    def _coerce_members(
        self, value: dict[str, Any], node: dict[str, Any], depth: int
    ) -> dict[str, Any]:
        properties = _mapping(node.get("properties"))
        required = cast("list[str]", node.get("required") or [])
        out: dict[str, Any] = {}
        for name, member in value.items():
            child = properties.get(name)
            if child is None:
                out[name] = member
                continue
            better = self._coerce(member, child, depth + 1)
            if better is None and name not in required and not self._fits_node(None, child):
                continue  # ``null`` for an optional member says that it is absent
            out[name] = better
        return out

    def _scalar(self, value: JsonValue, node: dict[str, Any]) -> JsonValue:
        kinds = node.get("type")
        wanted = [kinds] if isinstance(kinds, str) else cast("list[str]", kinds or [])
        options = [better for kind in wanted if (better := _as_kind(value, kind)) is not _UNCHANGED]
        return options[0] if len(options) == 1 else value


_UNCHANGED: Any = object()


def _as_kind(value: JsonValue, kind: str) -> JsonValue:
    """``value`` said as another type, where that loses nothing; else ``_UNCHANGED``."""
    if isinstance(value, str):
        return _from_string(value, kind)
    if kind == "string" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _UNCHANGED


def _from_string(value: str, kind: str) -> JsonValue:
    text = value.strip()
    if kind == "integer" and _INTEGER.match(text) and len(text) < 400:
        return int(text)
    if kind == "number" and _JSON_NUMBER.match(text) and len(text) < 400:
        return int(text) if _INTEGER.match(text) else float(text)
    if kind == "boolean" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "null" and text == "null":
        return None
    if kind in ("array", "object") and text[:1] in ("[", "{"):
        try:
            decoded = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return _UNCHANGED
        wanted = list if kind == "array" else dict
        return cast("JsonValue", decoded) if isinstance(decoded, wanted) else _UNCHANGED
    return _UNCHANGED


# Single checks ----------------------------------------------------------------------------------


def _mapping(node: JsonValue) -> dict[str, Any]:
    return cast("dict[str, Any]", node) if isinstance(node, dict) else {}


def _list(node: JsonValue) -> list[Any]:
    return cast("list[Any]", node) if isinstance(node, list) else []


def _all_of(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]

    def check(value: JsonValue) -> str | None:
        for each in checks:
            if (problem := each(value)) is not None:
                return problem
        return None

    return check


def _or_null(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _types(node: dict[str, Any]) -> list[Check]:
    kinds: Any = node.get("type")
    wanted: list[Any] = [kinds] if isinstance(kinds, str) else list(kinds or [])
    tests = [_TYPES[kind] for kind in wanted if isinstance(kind, str) and kind in _TYPES]
    if not tests or len(tests) < len(wanted):
        return []
    said = " or ".join(wanted)
    return [lambda value: None if any(test(value) for test in tests) else f"must be {said}"]


def _choices(node: dict[str, Any]) -> list[Check]:
    checks: list[Check] = []
    if isinstance(node.get("enum"), list):
        allowed = cast("list[Any]", node["enum"])
        checks.append(
            lambda value: (
                None
                if any(json_equal(value, option) for option in allowed)
                else "is none of the allowed values"
            )
        )
    if "const" in node:
        constant = node["const"]
        checks.append(lambda value: None if json_equal(value, constant) else "must be the constant")
    return checks


def _numbers(node: dict[str, Any]) -> list[Check]:
    low, high = node.get("minimum"), node.get("maximum")
    over, under = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if over is True:
        low, over = None, low  # draft 4 wrote a flag beside the bound
    if under is True:
        high, under = None, high
    bounds: list[tuple[Any, Callable[[Any, Any], bool], str]] = [
        (low, lambda a, b: a >= b, "at least"),
        (high, lambda a, b: a <= b, "at most"),
        (over, lambda a, b: a > b, "more than"),
        (under, lambda a, b: a < b, "less than"),
        (node.get("multipleOf"), _is_multiple, "a multiple of"),
    ]
    return [_bound(limit, holds, said) for limit, holds, said in bounds if _is_number(limit)]


def _is_multiple(value: Any, step: Any) -> bool:
    if not step:
        return True
    ratio = value / step
    return abs(ratio - round(ratio)) < 1e-9 if ratio == ratio and abs(ratio) < 1e15 else True


def _bound(limit: Any, holds: Callable[[Any, Any], bool], said: str) -> Check:
    def check(value: JsonValue) -> str | None:
        return f"must be {said} {limit}" if _is_number(value) and not holds(value, limit) else None

    return check


@lru_cache(maxsize=512)
def _pattern(source: str) -> re.Pattern[str] | None:
    if _NESTED_QUANTIFIER.search(source):
        return None
    try:
        return re.compile(source)
    except (re.error, RecursionError, OverflowError):
        return None  # an ECMAScript pattern Python cannot read


def _strings(node: dict[str, Any]) -> list[Check]:
    checks = _counted(node, "minLength", "maxLength", str, "characters")
    source = node.get("pattern")
    if isinstance(source, str) and (pattern := _pattern(source)) is not None:
        checks.append(
            lambda value: (
                f"does not match {source}"
                if isinstance(value, str) and not pattern.search(value)
                else None
            )
        )
    return checks


def _counted(node: dict[str, Any], low: str, high: str, kind: type, noun: str) -> list[Check]:
    fewest, most = node.get(low), node.get(high)
    checks: list[Check] = []
    if isinstance(fewest, int):
        checks.append(
            lambda value: (
                f"has fewer than {fewest} {noun}"
                if isinstance(value, kind) and len(value) < fewest
                else None
            )
        )
    if isinstance(most, int):
        checks.append(
            lambda value: (
                f"has more than {most} {noun}"
                if isinstance(value, kind) and len(value) > most
                else None
            )
        )
    return checks


def _required(names: list[str]) -> Check:
    def check(value: JsonValue) -> str | None:
        if isinstance(value, dict):
            for name in names:
                if name not in value:
                    return f"{name!r} is missing"
        return None

    return check


def _dependent(needs: dict[str, list[str]]) -> Check:
    def check(value: JsonValue) -> str | None:
        if isinstance(value, dict):
            for name, others in needs.items():
                if name in value and any(other not in value for other in others):
                    return f"{name!r} needs {', '.join(others)}"
        return None

    return check


def _names(inner: Check) -> Check:
    def check(value: JsonValue) -> str | None:
        names = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        return next((f"key {name!r} is not allowed" for name in names if inner(name)), None)

    return check


def _members(
    named: dict[str, Check], patterned: list[tuple[re.Pattern[str], Check]], others: Check | None
) -> Check:
    def check(value: JsonValue) -> str | None:
        if not isinstance(value, dict):
            return None
        for name, member in cast("dict[str, Any]", value).items():
            tests = [named[name]] if name in named else []
            tests += [test for pattern, test in patterned if pattern.search(name)]
            if not tests and others is not None:
                tests = [others]
            for test in tests:
                if (problem := test(member)) is not None:
                    return f"{name!r}: {problem}"
        return None

    return check


def _elements(leading: list[Check], rest: Check | None) -> Check:
    def check(value: JsonValue) -> str | None:
        if not isinstance(value, list):
            return None
        for place, element in enumerate(cast("list[Any]", value)):
            test = leading[place] if place < len(leading) else rest
            if test is not None and (problem := test(element)) is not None:
                return f"[{place}]: {problem}"
        return None

    return check


def _unique(value: JsonValue) -> str | None:
    if not isinstance(value, list):
        return None
    elements = cast("list[Any]", value)
    seen: set[bytes] = set()
    for element in elements:
        key = msgspec.json.encode(_canonical(element), order="deterministic")
        if key in seen:
            return "has equal items"
        seen.add(key)
    return None


def _canonical(value: JsonValue) -> JsonValue:
    """Numbers in one spelling, so that equal values encode equally."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_canonical(v) for v in cast("list[Any]", value)]
    return value


def _contains(inner: Check, fewest: Any, most: Any) -> Check:
    def check(value: JsonValue) -> str | None:
        if not isinstance(value, list):
            return None
        count = sum(inner(element) is None for element in cast("list[Any]", value))
        if isinstance(fewest, int) and count < fewest:
            return "lacks an item it must contain"
        return "contains too many of an item" if isinstance(most, int) and count > most else None

    return check


def _count_of(branches: list[Check], *, exactly: bool) -> Check:
    def check(value: JsonValue) -> str | None:
        problems = [branch(value) for branch in branches]
        fitting = problems.count(None)
        if fitting == 0:
            return problems[0] if len(problems) == 1 else "fits none of the alternatives"
        return "fits several of the alternatives" if exactly and fitting > 1 else None

    return check


def _negated(inner: Check) -> Check:
    return lambda value: "is what it must not be" if inner(value) is None else None


def _conditional(when: Check, then: Check, otherwise: Check) -> Check:
    return lambda value: then(value) if when(value) is None else otherwise(value)


# Caching ----------------------------------------------------------------------------------------

_ANYTHING = Schema(True)


@lru_cache(maxsize=2048)
def _compiled(encoded: bytes) -> Schema:
    return Schema(msgspec.json.decode(encoded))


def compiled(schema: JsonValue) -> Schema:
    """The compiled form of a schema, cached by content; ``None`` accepts everything.

    >>> compiled({"type": "object"}) is compiled({"type": "object"})
    True
    """
    if schema is None or schema == {}:
        return _ANYTHING
    try:
        return _compiled(msgspec.json.encode(schema))
    except (TypeError, RecursionError, msgspec.MsgspecError):
        return _ANYTHING
