"""Tool schemas in the subset a host reads; whatever is rewritten or left out is said.

``mfjs`` is Moonshot's (MoonshotAI/walle, docs/mfjs-spec.md, read 2026-11-22): no bounds or formats,
no tuples, ``$defs`` at the root only, ``anyOf`` as the one combinator, one ``type`` a schema. Forms
that say the same are rewritten; what the subset cannot say is left out. Replies are still held to
the caller's own schema: taming reads that one, not this.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import structs

from kimiya.catalog.adaptation.draft import Draft
from kimiya.core.exchange import ToolSpec

_UNREAD = frozenset(
    {
        "$comment",
        "$schema",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "prefixItems",
        "title",
        "unevaluatedItems",
    }
)
"""Keywords the host names as unsupported."""

Json = dict[str, Any]


def fit_schemas(draft: Draft) -> None:
    """Rewrite tool schemas for a host that reads a subset.

    Raises:
        InvalidRequest: A schema points outside itself, which no rewriting mends.
    """
    if draft.card.schema_subset is None or not draft.request.tools:
        return
    changed: dict[str, None] = {}
    tools = tuple(_fitted(tool, draft, changed) for tool in draft.request.tools)
    if changed:
        draft.change(tools=tools)
        what = ", ".join(changed)
        draft.note(
            "schema_fitted", f"{draft.label} reads a subset of JSON Schema: rewrote {what}", "tools"
        )


def _fitted(tool: ToolSpec, draft: Draft, changed: dict[str, None]) -> ToolSpec:
    schema = tool.parameters
    if not isinstance(schema, Mapping):
        return tool

    def note(what: str) -> None:
        if what == "$ref":
            raise draft.refuse(
                f"the schema of tool {tool.name!r} points outside itself with $ref, which"
                f" {draft.label} does not follow. Write the schema out"
            )
        changed[what] = None

    given = cast("Mapping[str, Any]", schema)
    fitting = _rewritten(given, note)
    return tool if fitting == given else structs.replace(tool, parameters=fitting)


def _rewritten(schema: Mapping[str, Any], note: Callable[[str], None]) -> Json:
    """One schema and everything in it, said in the subset."""
    out: Json = {}
    for key, value in schema.items():
        if key in _UNREAD:
            note(key)
        elif key == "const":
            note("const")
            out["enum"] = [value]
        elif key == "$ref" and isinstance(value, str):
            out[key] = _reference(value, note)
        elif key == "definitions":
            note("definitions")
            out["$defs"] = _each(value, note)
        elif key in ("properties", "$defs"):
            out[key] = _each(value, note)
        elif key in ("oneOf", "anyOf") and isinstance(value, list):
            if key == "oneOf":
                note("oneOf")
            branches = cast("list[Any]", value)
            out.setdefault("anyOf", []).extend(_maybe(branch, note) for branch in branches)
        elif key in ("items", "additionalProperties"):
            out[key] = _maybe(value, note)
        else:
            out[key] = value
    return _one_type(out, note)


def _one_type(schema: Json, note: Callable[[str], None]) -> Json:
    """``type`` is one word, and stands in the branches where there are some."""
    kind = schema.get("type")
    if isinstance(kind, list):
        note("type lists")
        words = cast("list[str]", schema.pop("type"))
        if "anyOf" not in schema:
            shared = {key: schema.pop(key) for key in list(schema) if key in _OF_A_TYPE}
            schema["anyOf"] = [
                {"type": word} if word == "null" else {"type": word, **shared} for word in words
            ]
    elif kind is not None and "anyOf" in schema:
        note("type beside anyOf")
        del schema["type"]
        schema["anyOf"] = [
            branch if not isinstance(branch, dict) or "type" in branch else {"type": kind, **branch}
            for branch in cast("list[Any]", schema["anyOf"])
        ]
    return schema


_OF_A_TYPE = frozenset({"enum", "properties", "required", "items", "additionalProperties"})
"""What says something of one type only, and so moves into its branch."""


def _each(schemas: Any, note: Callable[[str], None]) -> Any:
    if not isinstance(schemas, Mapping):
        return schemas
    named = cast("Mapping[str, Any]", schemas)
    return {name: _maybe(schema, note) for name, schema in named.items()}


def _maybe(schema: Any, note: Callable[[str], None]) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    return _rewritten(cast("Mapping[str, Any]", schema), note)


def _reference(target: str, note: Callable[[str], None]) -> str:
    if target.startswith("#/definitions/"):
        return "#/$defs/" + target.removeprefix("#/definitions/")
    if target != "#" and not target.startswith("#/$defs/"):
        note("$ref")
    return target
