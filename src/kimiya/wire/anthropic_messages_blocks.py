"""Content blocks of Anthropic Messages, in requests and in replies, read and written.

What has no value of ours (documents, server tools, search results) is ``Opaque`` and travels
verbatim between Anthropic clients and Anthropic hosts only. A ``cache_control`` that says more than
``Breakpoint`` can hold stays in ``extras``.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec

from kimiya.core.messages import (
    NO_EXTRAS,
    Breakpoint,
    Extras,
    HostFile,
    Image,
    Inline,
    JsonValue,
    MediaSource,
    Opaque,
    Part,
    Reasoning,
    ResultPart,
    Text,
    ToolCall,
    ToolResult,
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
    required,
)
from kimiya.wire.tool_input import read_input, reply_input, request_input

NAME = "anthropic_messages"

_TEXT = frozenset({"type", "text", "cache_control"})
_IMAGE = frozenset({"type", "source", "cache_control"})
_THINKING = frozenset({"type", "thinking", "signature"})
_REDACTED = frozenset({"type", "data"})
_TOOL_USE = frozenset({"type", "id", "name", "input", "cache_control"})
_TOOL_RESULT = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})
_REPLY_EXTRAS = frozenset({"citations", "caller", "toolset_name"})
"""Fields of reply blocks written back to clients; others may come from another dialect."""

_encode = msgspec.json.Encoder().encode


class RawBlock(msgspec.Struct):
    """The second reading of a block: the ``input`` value as it stands in the body."""

    input: msgspec.Raw = msgspec.Raw(b"")


# --------------------------------------------------------------------------------------- reading


def read_content(value: JsonValue, raws: Sequence[RawBlock] | None) -> list[Part]:
    """The content of a message: text, or a list of blocks.

    ``raws`` are the same blocks, read for their inputs; ``None`` where that was not possible.

    Raises:
        Misfit: With the path from the content on.
    """
    if type(value) is str:
        return [Text(value)]
    if type(value) is not list:
        raise Misfit(f"must be a string or a list of blocks, not {kind_of(value)}")
    parts: list[Part] = []
    for index, block in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        try:
            raw = raws[index].input if raws is not None else None
            parts.append(read_block(as_object(block), raw))
        except Misfit as misfit:
            misfit.under(index)
            raise
    return parts


def read_block(block: JsonObject, raw_input: msgspec.Raw | None = None) -> Part:
    """One block.

    Raises:
        Misfit: With the path from the block on.
    """
    kind = required(block, "type", str)
    if kind == "text" and len(block) == 2:  # by far the most frequent
        return Text(required(block, "text", str))
    cache = read_cache(block)
    if kind == "text":
        return Text(required(block, "text", str), cache, _extras(block, _TEXT, cache))
    if kind == "tool_use":
        raw = raw_input
        if raw is None and "input" in block:
            raw = msgspec.Raw(_encode(block["input"]))
        return ToolCall(
            required(block, "id", str),
            required(block, "name", str),
            read_input(raw or b""),
            cache,
            _extras(block, _TOOL_USE, cache),
        )
    if kind == "tool_result":
        return _read_result(block, cache)
    if kind == "thinking":
        text = required(block, "thinking", str)
        signature = optional(block, "signature", str) or None
        return Reasoning(text, signature, extras=leftovers(block, _THINKING))
    if kind == "redacted_thinking":
        data = required(block, "data", str)
        return Reasoning(redacted=data, extras=leftovers(block, _REDACTED))
    if kind == "image":
        source = _read_source(block.get("source"))
        if source is not None:
            return Image(source, cache=cache, extras=_extras(block, _IMAGE, cache))
    return read_opaque(block, cache)


def read_opaque(block: JsonObject, cache: Breakpoint | None) -> Opaque:
    """A block kept verbatim, but for a cache mark we understand."""
    if cache is None:
        return Opaque(NAME, block)
    return Opaque(NAME, {k: v for k, v in block.items() if k != "cache_control"}, cache)


def read_cache(fields: JsonObject) -> Breakpoint | None:
    """The cache mark, where it says no more than a ``Breakpoint`` holds."""
    mark = fields.get("cache_control")
    if mark is None:
        return None
    match mark:
        case {"type": "ephemeral", **rest} if not rest or rest == {"ttl": None}:
            return Breakpoint()
        case {"type": "ephemeral", "ttl": ("5m" | "1h") as ttl, **rest} if not rest:
            return Breakpoint(ttl)
        case _:
            return None


def _extras(fields: JsonObject, known: frozenset[str], cache: Breakpoint | None) -> Extras:
    extras = leftovers(fields, known)
    if cache is None and "cache_control" in fields and fields.get("cache_control") is not None:
        return {**extras, "cache_control": fields["cache_control"]}
    return extras


def _read_source(source: JsonValue) -> MediaSource | None:
    match source:
        case {"type": "base64", "media_type": str() as media_type, "data": str() as data, **rest}:
            return Inline(media_type, data) if not rest else None
        case {"type": "url", "url": str() as url, **rest}:
            return Url(url) if not rest else None
        case {"type": "file", "file_id": str() as file_id, **rest}:
            return HostFile(file_id) if not rest else None
        case dict():
            return None
        case _:
            raise Misfit(f"must be an object, not {kind_of(source)}", "source")


def _read_result(block: JsonObject, cache: Breakpoint | None) -> ToolResult:
    content: list[ResultPart] = []
    if block.get("content") is not None:
        try:
            for index, part in enumerate(read_content(block["content"], None)):
                if not isinstance(part, Text | Image | Opaque):
                    raise Misfit("a result cannot hold a block of this type", index, "type")
                content.append(part)
        except Misfit as misfit:
            misfit.under("content")
            raise
    return ToolResult(
        call_id=required(block, "tool_use_id", str),
        content=tuple(content),
        is_error=optional(block, "is_error", bool) or False,
        cache=cache,
        extras=_extras(block, _TOOL_RESULT, cache),
    )


# --------------------------------------------------------------------------------------- writing


def write_content(parts: Sequence[Part], own: bool) -> JsonValue:
    """The content of a message: a string where it is one plain text, else blocks.

    ``own`` says that the request was read from this dialect, so that its extras may be written.

    Raises:
        Misfit: A part cannot be said here.
    """
    if len(parts) == 1 and isinstance(parts[0], Text):
        text = parts[0]
        if text.cache is None and not (own and text.extras):
            return text.text
    blocks: list[JsonObject] = []
    for index, part in enumerate(parts):
        try:
            blocks.append(write_block(part, own))
        except Misfit as misfit:
            misfit.under("parts", index)
            raise
    return blocks


def write_block(part: Part, own: bool) -> JsonObject:
    """One block of a request.

    Raises:
        Misfit: The part cannot be said here.
    """
    match part:
        case Text():
            return _block({"type": "text", "text": part.text}, part.cache, part.extras, own)
        case ToolCall():
            block: JsonObject = {
                "type": "tool_use",
                "id": part.call_id,
                "name": part.name,
                "input": request_input(part.arguments),
            }
            return _block(block, part.cache, part.extras, own)
        case ToolResult():
            return _write_result(part, own)
        case Reasoning():
            return _block(_thinking(part), None, part.extras, own)
        case Image():
            if part.detail not in (None, "auto"):
                raise Misfit(f"Anthropic Messages has no image detail ({part.detail!r})", "detail")
            block = {"type": "image", "source": _write_source(part.source)}
            return _block(block, part.cache, part.extras, own)
        case Video():
            raise Misfit("Anthropic Messages carries no video; use a host that takes video")
        case Opaque():
            if part.dialect != NAME:
                raise Misfit(f"a block read from {part.dialect} can be written only there")
            return _block(dict(part.block), part.cache, NO_EXTRAS, own)
        case _:
            assert_never(part)


def write_cache(cache: Breakpoint) -> JsonObject:
    """A cache mark."""
    mark: JsonObject = {"type": "ephemeral"}
    if cache.ttl is not None:
        mark["ttl"] = cache.ttl
    return mark


def _block(block: JsonObject, cache: Breakpoint | None, extras: Extras, own: bool) -> JsonObject:
    if own and extras:
        block.update(extras)
    if cache is not None:
        block["cache_control"] = write_cache(cache)
    return block


def _thinking(part: Reasoning) -> JsonObject:
    if part.redacted is not None:
        if part.text:
            raise Misfit("reasoning is either readable or redacted, not both")
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}


def _write_source(source: MediaSource) -> JsonObject:
    match source:
        case Inline():
            return {"type": "base64", "media_type": source.media_type, "data": source.data}
        case Url():
            return {"type": "url", "url": source.url}
        case HostFile():
            return {"type": "file", "file_id": source.file_id}
        case _:
            assert_never(source)


def _write_result(part: ToolResult, own: bool) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": part.call_id}
    if part.content:
        block["content"] = write_content(part.content, own)
    if part.is_error:
        block["is_error"] = True
    return _block(block, part.cache, part.extras, own)


def write_reply_block(part: Part) -> JsonObject:
    """One block of a reply to a client.

    Raises:
        Misfit: A reply cannot hold the part.
    """
    match part:
        case Text():
            return {"type": "text", "text": part.text, **_shown(part.extras)}
        case Reasoning():
            return _thinking(part)
        case ToolCall():
            return {
                "type": "tool_use",
                "id": part.call_id,
                "name": part.name,
                "input": reply_input(part.arguments),
                **_shown(part.extras),
            }
        case Opaque() if part.dialect == NAME:
            return dict(part.block)
        case _:
            raise Misfit(f"a reply in Anthropic Messages cannot hold a {type(part).__name__}")


def _shown(extras: Mapping[str, JsonValue]) -> JsonObject:
    return {k: v for k, v in extras.items() if k in _REPLY_EXTRAS} if extras else {}
