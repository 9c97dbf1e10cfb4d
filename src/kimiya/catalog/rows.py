"""TOML rows on their way to cards: what ``like`` takes over, what an override replaces.

A row is a mapping as TOML gives it. Two things may be said about one instead of repeating it:

* ``like = "host/model_id"``: start from another row. Tables merge key by key, everything else is
  replaced. ``aliases``, ``status`` and ``retires`` are never taken over, ``prices`` only within one
  host: a price that nobody wrote down is unknown.
* A later row of the same host and model id overrides the earlier one, field by field.

Both the data files of this package and the user's ``[[models]]`` go through here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from kimiya.catalog.card import ModelCard, RawRow
from kimiya.core.nearest import nearest
from kimiya.errors import ConfigError

RowKey: TypeAlias = tuple[str, str]

_NEVER_TAKEN_OVER = frozenset({"aliases", "status", "retires", "like"})
_FIELDS = frozenset(ModelCard.__struct_fields__) | {"like"}
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`")


def merged(base: RawRow, over: RawRow) -> dict[str, Any]:
    """``base`` with what ``over`` says on top; tables merge, everything else is replaced.

    >>> merged({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}, 'b': 1}
    """
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merged(cast("RawRow", old), cast("RawRow", value))
        out[key] = value
    return out


def key_of(row: RawRow, place: str) -> RowKey:
    """The host and model id a row is about.

    Raises:
        ConfigError: One of them is missing or no text.
    """
    for field in ("host", "model_id"):
        if not isinstance(row.get(field), str) or not row[field]:
            raise ConfigError(
                f"a row needs `{field}`, a text",
                key=f"{place}.{field}",
                remedy='Say which host and model it is about, such as host = "vllm"',
            )
    return str(row["host"]), str(row["model_id"])


def gathered(rows: Sequence[tuple[str, RawRow]]) -> dict[RowKey, tuple[str, dict[str, Any]]]:
    """Every row in full, by host and model id, in the order they were first named.

    Args:
        rows: Pairs of a place (for messages, such as ``models[2]``) and a row; later ones override.

    Raises:
        ConfigError: A row lacks its key, or is ``like`` one that does not stand before it.
    """
    out: dict[RowKey, tuple[str, dict[str, Any]]] = {}
    for place, row in rows:
        key = key_of(row, place)
        _known_fields(row, place)
        base: RawRow = out[key][1] if key in out else {}
        if "like" in row:
            base = merged(_taken_over(row, key, place, out), base)
        out[key] = (place, merged(base, {k: v for k, v in row.items() if k != "like"}))
    return out


def _taken_over(
    row: RawRow, key: RowKey, place: str, seen: Mapping[RowKey, tuple[str, RawRow]]
) -> RawRow:
    like = str(row["like"])
    host, _, model_id = like.partition("/")
    found = seen.get((host, model_id))
    if found is None:
        near = nearest(like, ["/".join(k) for k in seen])
        raise ConfigError(
            f"like = {like!r}: no row is called so",
            key=f"{place}.like",
            remedy=f"Write host/model_id of a row, such as {' or '.join(near)}"
            if near
            else "Write host/model_id of a row; `kimiya models` lists them",
        )
    return {
        name: value
        for name, value in found[1].items()
        if name not in _NEVER_TAKEN_OVER and (name != "prices" or host == key[0])
    }


def _known_fields(row: RawRow, place: str) -> None:
    for field in row:
        if field not in _FIELDS:
            near = nearest(field, _FIELDS)
            raise ConfigError(
                f"a row of the catalogue has no field {field!r}",
                key=f"{place}.{field}",
                remedy=f"Did you mean {near[0]}?" if near else "See kimiya.catalog.card",
            )


def card_of(place: str, row: RawRow) -> ModelCard:
    """The card a row in full describes.

    Raises:
        ConfigError: With the key of the field that does not fit.
    """
    try:
        return msgspec.convert(row, ModelCard)
    except msgspec.ValidationError as wrong:
        text = str(wrong)
        found = _PATH.search(text)
        path = found["path"] if found else ""
        raise ConfigError(
            _PATH.sub("", text).rstrip("."),
            key=f"{place}.{path}" if path else place,
            remedy="`kimiya models --json` shows rows in full",
        ) from wrong
