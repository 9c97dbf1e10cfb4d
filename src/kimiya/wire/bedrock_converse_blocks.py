"""Content blocks of Bedrock Converse, in requests and in replies, read and written.

A block is an object with one member, named for its kind. A cache mark is a block of its own,
``cachePoint``, after what it marks; ours is an attribute of the marked part, so the two are
converted here. A mark that has nothing before it to mark (or reasoning, which cannot be marked)
stays ``Opaque`` where it stood, and so does every kind we have no value for.
"""

import re
from collections.abc import Sequence
from typing import assert_never

import msgspec
from msgspec.structs import replace

from kimiya.core.messages import (
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
from kimiya.wire.dialect import TwoWay
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    leftovers,
    optional,
    required,
    required_list,
    required_object,
    write_json,
)
from kimiya.wire.tool_input import read_input, reply_input, request_input

NAME = "bedrock_converse"

IMAGE_FORMATS: TwoWay[str, str] = TwoWay(
    {
        "image/png": "png",
        "image/jpeg": "jpeg",
        "image/gif": "gif",
        "image/webp": "webp",
        "image/jpg": "jpeg",
    }
)
VIDEO_FORMATS: TwoWay[str, str] = TwoWay(
    {
        "video/mp4": "mp4",
        "video/x-matroska": "mkv",
        "video/quicktime": "mov",
        "video/webm": "webm",
        "video/x-flv": "flv",
        "video/mpeg": "mpeg",
        "video/x-ms-wmv": "wmv",
        "video/3gpp": "three_gp",
    },
    also={"mpg": "video/mpeg"},
)

_CALL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_TOOL_USE = frozenset({"toolUseId", "name", "input"})
_TOOL_RESULT = frozenset({"toolUseId", "content", "status"})
_FORMAT = frozenset({"format", "source"})


class RawToolUse(msgspec.Struct):
    """The second reading of a call: its ``input`` as it stands in the body."""

    input: msgspec.Raw = msgspec.Raw(b"")


class RawBlock(msgspec.Struct, rename="camel"):
    """The second reading of a block."""

    tool_use: RawToolUse | None = None


# --------------------------------------------------------------------------------------- reading


def read_content(blocks: Sequence[JsonValue], raws: Sequence[RawBlock] | None) -> list[Part]:
    """A list of blocks.

    ``raws`` are the same blocks, read for their inputs; ``None`` where that was not possible.

    Raises:
        Misfit: With the path from the list on.
    """
    parts: list[Part] = []
    for index, value in enumerate(blocks):
        try:
            block = as_object(value)
            mark = read_cache_point(block) if "cachePoint" in block else None
            last = parts[-1] if parts else None
            if mark is None or last is None or isinstance(last, Reasoning) or last.cache:
                raw = raws[index].tool_use if raws is not None else None
                parts.append(_read_block(block, raw))
            else:
                parts[-1] = replace(last, cache=mark)
        except Misfit as misfit:
            misfit.under(index)
            raise
    return parts


def read_cache_point(block: JsonObject) -> Breakpoint | None:
    """The mark, if the block is one and says no more than ``Breakpoint`` holds."""
    match block:
        case {"cachePoint": {"type": "default", "ttl": ("5m" | "1h") as ttl, **rest}} if not rest:
            return Breakpoint(ttl)
        case {"cachePoint": {"type": "default", **rest}} if not rest:
            return Breakpoint()
        case _:
            return None


def _read_block(block: JsonObject, raw: RawToolUse | None) -> Part:
    if len(block) == 1 and "text" in block:  # by far the most frequent
        return Text(required(block, "text", str))
    if len(block) != 1:
        raise Misfit(f"a content block has exactly one member, not {len(block)}")
    kind = next(iter(block))
    try:
        match kind:
            case "toolUse":
                return _read_call(required_object(block, kind), raw)
            case "toolResult":
                return _read_result(required_object(block, kind))
            case "reasoningContent":
                return _read_reasoning(block, required_object(block, kind))
            case "image" | "video":
                return _read_media(kind, block, required_object(block, kind))
            case _:
                return Opaque(NAME, block)
    except Misfit as misfit:
        misfit.under(kind)
        raise


def _read_call(call: JsonObject, raw: RawToolUse | None) -> ToolCall:
    source = raw.input if raw is not None else b""
    if not source and "input" in call:
        source = write_json(call["input"])
    return ToolCall(
        required(call, "toolUseId", str),
        required(call, "name", str),
        read_input(source),
        extras=leftovers(call, _TOOL_USE),
    )


def _read_result(result: JsonObject) -> ToolResult:
    content: list[ResultPart] = []
    for index, value in enumerate(required_list(result, "content")):
        try:
            content.append(_read_result_part(as_object(value)))
        except Misfit as misfit:
            misfit.under("content", index)
            raise
    return ToolResult(
        call_id=required(result, "toolUseId", str),
        content=tuple(content),
        is_error=optional(result, "status", str) == "error",
        extras=leftovers(result, _TOOL_RESULT),
    )


def _read_result_part(block: JsonObject) -> ResultPart:
    if block.keys() == {"json"}:
        # Readable for every model behind any dialect; written back as it came.
        return Text(write_json(block["json"]).decode(), extras={"json": True})
    part = _read_block(block, None)
    if isinstance(part, Text | Image | Video | Opaque):
        return part
    raise Misfit(f"a result cannot hold {next(iter(block))}")


def _read_reasoning(block: JsonObject, reasoning: JsonObject) -> Part:
    match reasoning:
        case {"reasoningText": {"text": str() as text, **rest}, **more} if not more:
            signature = rest.pop("signature", None)
            if not rest and (signature is None or isinstance(signature, str)):
                return Reasoning(text, signature or None)
        case {"redactedContent": str() as redacted, **rest} if not rest:
            return Reasoning(redacted=redacted)
        case _:
            pass
    return Opaque(NAME, block)


def _read_media(kind: str, block: JsonObject, media: JsonObject) -> Part:
    wanted, formats = (Image, IMAGE_FORMATS) if kind == "image" else (Video, VIDEO_FORMATS)
    if media.keys() != _FORMAT:
        return Opaque(NAME, block)
    media_type = formats.read(required(media, "format", str))
    match media["source"]:
        case {"bytes": str() as data, **rest} if not rest and media_type:
            return wanted(Inline(media_type, data))
        case {"s3Location": {"uri": str() as uri, **owner}, **rest} if not rest:
            return wanted(Url(uri), extras={"format": media["format"], **owner})
        case _:
            return Opaque(NAME, block)


# --------------------------------------------------------------------------------------- writing


def write_content(parts: Sequence[Part], own: bool) -> list[JsonObject]:
    """A list of blocks, each mark after what it marks.

    ``own`` says that the request was read from this dialect, so that its extras may be written.

    Raises:
        Misfit: A part cannot be said here.
    """
    blocks: list[JsonObject] = []
    for index, part in enumerate(parts):
        try:
            blocks.append(_write_block(part, own))
        except Misfit as misfit:
            misfit.under("parts", index)
            raise
        if not isinstance(part, Reasoning) and part.cache is not None:
            blocks.append(write_cache_point(part.cache))
    return blocks


def write_cache_point(cache: Breakpoint) -> JsonObject:
    """A mark, as the block or list entry it is."""
    point: JsonObject = {"type": "default"}
    if cache.ttl is not None:
        point["ttl"] = cache.ttl
    return {"cachePoint": point}


def _write_block(part: Part, own: bool) -> JsonObject:
    match part:
        case Text():
            return {"text": part.text}
        case ToolCall():
            call: JsonObject = {
                "toolUseId": _checked_id(part.call_id),
                "name": part.name,
                "input": request_input(part.arguments),
            }
            return {"toolUse": _with(call, part.extras, own)}
        case ToolResult():
            return {"toolResult": _write_result(part, own)}
        case Reasoning():
            return _write_reasoning(part)
        case Image() | Video():
            return _write_media(part, own)
        case Opaque():
            if part.dialect != NAME:
                raise Misfit(f"a block read from {part.dialect} can be written only there")
            return part.block
        case _:
            assert_never(part)


def _checked_id(call_id: str) -> str:
    if _CALL_ID.fullmatch(call_id):
        return call_id
    raise Misfit(
        f"Converse takes call ids of 1 to 64 letters, digits and _.:-, not {call_id[:80]!r}",
        "call_id",
    )


def _with(fields: JsonObject, extras: Extras, own: bool) -> JsonObject:
    return {**fields, **extras} if own and extras else fields


def _write_result(part: ToolResult, own: bool) -> JsonObject:
    content: list[JsonObject] = []
    for index, item in enumerate(part.content):
        try:
            if item.cache is not None:
                raise Misfit("a cache mark cannot stand inside a result; mark the result", "cache")
            as_json = _json_block(item) if own and isinstance(item, Text) else None
            content.append(as_json or _write_block(item, own))
        except Misfit as misfit:
            misfit.under("content", index)
            raise
    result: JsonObject = {"toolUseId": _checked_id(part.call_id), "content": content}
    if part.is_error:
        result["status"] = "error"
    return _with(result, part.extras, own)


def _json_block(text: Text) -> JsonObject | None:
    """The block of a result that came as JSON, so long as its text still is."""
    if not text.extras.get("json"):
        return None
    try:
        return {"json": msgspec.json.decode(text.text)}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _write_reasoning(part: Reasoning) -> JsonObject:
    if part.redacted is not None:
        if part.text:
            raise Misfit("reasoning is either readable or redacted, not both")
        return {"reasoningContent": {"redactedContent": part.redacted}}
    text: JsonObject = {"text": part.text}
    if part.signature is not None:
        text["signature"] = part.signature
    return {"reasoningContent": {"reasoningText": text}}


def _write_media(part: Image | Video, own: bool) -> JsonObject:
    kind, formats = (
        ("image", IMAGE_FORMATS) if isinstance(part, Image) else ("video", VIDEO_FORMATS)
    )
    if isinstance(part, Image) and part.detail not in (None, "auto"):
        raise Misfit(f"Converse has no image detail ({part.detail!r})", "detail")
    source, name = _write_source(kind, part.source, part.extras if own else {}, formats)
    return {kind: {"format": name, "source": source}}


def _write_source(
    kind: str, source: MediaSource, extras: Extras, formats: TwoWay[str, str]
) -> tuple[JsonObject, JsonValue]:
    match source:
        case Inline():
            if source.media_type not in formats.ours:
                raise Misfit(f"Converse takes no {kind} of type {source.media_type}", "source")
            return {"bytes": source.data}, formats.write(source.media_type)
        case Url(url=url) if url.startswith("s3://"):
            location = {"uri": url, **{k: v for k, v in extras.items() if k != "format"}}
            name = extras.get("format") or url.rpartition(".")[2].lower().replace("jpg", "jpeg")
            if formats.read(name) is None:
                raise Misfit(f"the {kind}'s format cannot be told from {url!r}", "source")
            return {"s3Location": location}, name
        case Url() | HostFile():
            raise Misfit(
                f"Converse takes a {kind} as bytes or from S3 only; send it inline", "source"
            )
        case _:
            assert_never(source)


def write_reply_content(parts: Sequence[Part]) -> list[JsonObject]:
    """The blocks of a reply to a client.

    Raises:
        Misfit: A reply cannot hold a part.
    """
    blocks: list[JsonObject] = []
    for part in parts:
        match part:
            case Text():
                blocks.append({"text": part.text})
            case Reasoning():
                blocks.append(_write_reasoning(part))
            case ToolCall():
                call = {"toolUseId": part.call_id, "name": part.name}
                blocks.append({"toolUse": {**call, "input": reply_input(part.arguments)}})
            case Opaque() if part.dialect == NAME:
                blocks.append(part.block)
            case _:
                raise Misfit(f"a reply in Converse cannot hold a {type(part).__name__}")
    return blocks
