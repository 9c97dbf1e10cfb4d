"""Content parts of OpenAI's dialects: text, pictures, videos, cache marks, data URLs.

``cache_control`` is no field of OpenAI's, but the hosts that cache by marks and speak this dialect
(OpenRouter, DashScope, gateways) take it on parts, messages and tools; ``adapt`` removes marks
where the card says a host has none.
"""

from typing import Any, cast, get_args

from kimiya.core.messages import (
    NO_EXTRAS,
    Breakpoint,
    CacheTtl,
    Extras,
    HostFile,
    Image,
    Inline,
    JsonValue,
    MediaSource,
    Opaque,
    Part,
    Text,
    Url,
    Video,
)
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    kind_of,
    leftovers,
    optional,
    optional_object,
    required,
)

CHAT = "openai_chat"

_TTLS: tuple[Any, ...] = get_args(CacheTtl)
_BASE64 = ";base64"
_TEXT = frozenset({"type", "text", "cache_control"})
_MEDIA = frozenset({"type", "image_url", "video_url", "cache_control"})
_ADDRESS = frozenset({"url", "detail"})


def read_cache(fields: JsonObject) -> Breakpoint | None:
    """A cache mark, where there is one."""
    if "cache_control" not in fields:
        return None
    mark = optional_object(fields, "cache_control")
    if mark is None:
        return None
    ttl = mark.get("ttl")
    if ttl is not None and ttl not in _TTLS:
        raise Misfit(f"must be one of {', '.join(_TTLS)}", "cache_control", "ttl")
    return Breakpoint(ttl)


def write_cache(fields: JsonObject, cache: Breakpoint | None) -> None:
    """Set a cache mark, where there is one."""
    if cache is not None:
        mark = {"type": "ephemeral"}
        fields["cache_control"] = mark if cache.ttl is None else {**mark, "ttl": cache.ttl}


def read_source(url: str) -> MediaSource:
    """An address: a data URL is media carried in the body, anything else is left as it is.

    >>> read_source("data:image/png;base64,aGk="), read_source("ms://f1")
    (Inline(media_type='image/png', data='aGk='), Url(url='ms://f1'))
    """
    if url[:5].lower() != "data:":
        return Url(url)
    head, comma, data = url[5:].partition(",")
    if not comma or not head.lower().endswith(_BASE64):
        raise Misfit("a data: URL must be base64: data:<media type>;base64,<data>", "url")
    return Inline(head[: -len(_BASE64)], data)


def write_source(source: MediaSource) -> str:
    """The address of media.

    Raises:
        Misfit: It is a file id, which is no address.
    """
    match source:
        case Url():
            return source.url
        case Inline():
            return f"data:{source.media_type};base64,{source.data}"
        case HostFile():
            raise Misfit(f"the file {source.file_id!r} of another host has no address here", "url")


def read_part(value: JsonValue) -> Part:
    """One entry of a ``content`` list; a kind we do not know is kept as it is."""
    fields = as_object(value)
    kind = required(fields, "type", str)
    if kind == "text":
        return Text(required(fields, "text", str), read_cache(fields), leftovers(fields, _TEXT))
    if kind in ("image_url", "video_url"):
        return _read_media(fields, kind)
    return Opaque(CHAT, fields)


def _read_media(fields: JsonObject, kind: str) -> Image | Video:
    holder = fields.get(kind)
    inner: JsonObject = {"url": holder} if isinstance(holder, str) else as_media(fields, kind)
    try:
        source = read_source(required(inner, "url", str))
        detail = optional(inner, "detail", str)
    except Misfit as misfit:
        misfit.under(kind)
        raise
    rest = leftovers(fields, _MEDIA)
    if kind == "image_url":
        unknown = leftovers(inner, _ADDRESS)
        rest = {**rest, kind: unknown} if unknown else rest
        return Image(source, detail, read_cache(fields), rest)
    unknown = {key: value for key, value in inner.items() if key != "url"}
    rest = {**rest, kind: unknown} if unknown else rest
    return Video(source, read_cache(fields), rest)


def as_media(fields: JsonObject, kind: str) -> JsonObject:
    """The object that holds the address of media."""
    try:
        return as_object(fields.get(kind))
    except Misfit as misfit:
        misfit.under(kind)
        raise


def write_part(part: Part, *, keeps_extras: bool) -> JsonObject:
    """One entry of a ``content`` list.

    Raises:
        Misfit: Content of this kind has no form here.
    """
    match part:
        case Text():
            fields: JsonObject = {"type": "text", "text": part.text}
        case Image():
            fields = _media("image_url", part.source, part.detail)
        case Video():
            fields = _media("video_url", part.source, None)
        case Opaque() if part.dialect == CHAT:
            fields = dict(part.block)
            write_cache(fields, part.cache)
            return fields
        case Opaque():
            kind = as_object(part.block).get("type", "unknown")
            raise Misfit(f"content of kind {kind!r} exists only in {part.dialect}")
        case _:
            raise Misfit(f"{type(part).__name__} cannot stand in a message of this role")
    write_cache(fields, part.cache)
    if keeps_extras and part.extras:
        fill(fields, part.extras)
    return fields


def _media(kind: str, source: MediaSource, detail: str | None) -> JsonObject:
    inner: JsonObject = {"url": write_source(source)}
    if detail is not None:
        inner["detail"] = detail
    return {"type": kind, kind: inner}


def read_content(value: JsonValue) -> tuple[Part, ...]:
    """``content`` as a string or a list of parts."""
    if type(value) is str:
        return (Text(value),)
    if not isinstance(value, list):
        raise Misfit(f"must be a string or a list of parts, not {kind_of(value)}", "content")
    parts: list[Part] = []
    for index, entry in enumerate(cast("list[JsonValue]", value)):
        try:
            parts.append(read_part(entry))
        except Misfit as misfit:
            misfit.under("content", index)
            raise
    return tuple(parts)


def write_content(parts: tuple[Part, ...], *, keeps_extras: bool) -> JsonValue:
    """A plain string where that says everything, for the hosts that take nothing else."""
    if not parts:
        return ""
    first = parts[0]
    if len(parts) == 1 and isinstance(first, Text) and _is_plain(first, keeps_extras):
        return first.text
    entries: list[JsonValue] = []
    for index, part in enumerate(parts):
        try:
            entries.append(write_part(part, keeps_extras=keeps_extras))
        except Misfit as misfit:
            misfit.under("content", index)
            raise
    return entries


def _is_plain(text: Text, keeps_extras: bool) -> bool:
    return text.cache is None and not (keeps_extras and text.extras)


def fill(fields: JsonObject, extras: Extras) -> None:
    """Add what was kept, behind our own fields; objects that both have are merged, ours winning."""
    for key, value in extras.items():
        ours = fields.get(key)
        if key not in fields:
            fields[key] = value
        elif isinstance(ours, dict) and isinstance(value, dict):
            fields[key] = {**value, **ours}


def known_values(fields: JsonObject, known: frozenset[str]) -> Extras:
    """Leftovers without nulls: SDKs echo every optional field of a message as null."""
    rest = leftovers(fields, known)
    return {key: value for key, value in rest.items() if value is not None} if rest else NO_EXTRAS
