"""A request as its cache sees it: blocks in prompt order, each with the digest of all up to it.

Order is that of the hosts: tools, system, messages. A block is one tool or one part of a message,
the unit a breakpoint can stand behind. Two requests share a cached prefix exactly as far as their
digests agree.

Invariants:

* A digest covers the content of its block and, through the chain, of every block before it. Marks
  are not content.
* The chain starts at the model and host, for caches are never shared between them; messages also
  depend on the settings that hosts render into the prompt (tool choice, thinking).
* A system text with a volatile word is two blocks, cut before it, whether or not it is ever split.
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from kimiya.caching.volatile import StableHeads
from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import (
    Breakpoint,
    HostFile,
    Image,
    Inline,
    Message,
    Opaque,
    Part,
    Reasoning,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Url,
    Video,
)
from kimiya.core.token_estimate import IMAGE_TOKENS, MESSAGE_TOKENS, VIDEO_TOKENS

Place = Literal["tools", "system", "messages"]
"""Sections of a prompt, in order; ``CacheRule.places`` speaks of the same."""


class Block(Struct, frozen=True, gc=False):
    """One block and the prefix that ends with it."""

    digest: bytes
    """Of this block and all before it."""
    tokens: int
    """Estimated tokens of this block and all before it."""
    place: Place
    index: int
    """Of the tool, or of the message."""
    part: int = -1
    """Of the part in its message; -1 for a tool."""
    holds_mark: bool = True
    """Whether a breakpoint of ours may stand behind it."""
    mark: Breakpoint | None = None
    """The client's own."""
    cut: int | None = None
    """Of a split system text: the offset where its stable characters end."""
    is_volatile: bool = False
    """Holds a word that is another one at every call."""

    @property
    def path(self) -> str:
        """Where it stands, as Adjustments and findings name it."""
        if self.part < 0:
            return f"tools[{self.index}]"
        whole = f"messages[{self.index}].parts[{self.part}]"
        return whole if self.cut is None else f"{whole}[:{self.cut}]"


class Prefix(Struct, frozen=True):
    """The blocks of one request."""

    blocks: tuple[Block, ...]
    has_foreign_marks: bool = False
    """The client marked something in a way we cannot count: inside a tool result, or in words only
    its own dialect has. Nothing may be added then."""

    @property
    def tokens(self) -> int:
        """Estimated tokens of the whole."""
        return self.blocks[-1].tokens if self.blocks else 0

    def last_of(self, place: Place) -> int | None:
        """Position of the last block of a section."""
        for position in range(len(self.blocks) - 1, -1, -1):
            if self.blocks[position].place == place:
                return position
        return None


def read_prefix(request: Request, root: str, heads: StableHeads | None = None) -> Prefix:
    """Read a request once, front to back.

    Args:
        request: What will be sent, before or after marks are placed.
        root: The cache it goes to: host and model.
        heads: Finds volatile words in system texts; without it none are looked for.
    """
    reading = _Reading(root, heads)
    for index, tool in enumerate(request.tools):
        reading.tool(index, tool)
    messages = request.messages
    lead = 0
    while lead < len(messages) and messages[lead].role in ("system", "developer"):
        reading.message(lead, messages[lead], "system")
        lead += 1
    reading.settings(request)
    for index in range(lead, len(messages)):
        reading.message(index, messages[index], "messages")
    foreign = reading.has_foreign_marks or "cache_control" in request.extras
    return Prefix(tuple(reading.blocks), foreign)


class _Reading:
    """The state of one pass. Every call goes through it: plain loops, one hash call a block."""

    def __init__(self, root: str, heads: StableHeads | None) -> None:
        self.blocks: list[Block] = []
        self.has_foreign_marks = False
        self._heads = heads
        self._chain = sha256(root.encode("utf-8", "surrogatepass")).digest()
        self._tokens = 0

    def tool(self, index: int, tool: ToolSpec) -> None:
        data = canonical([tool.name, tool.description, tool.parameters, tool.strict])
        if tool.kind != "function" or tool.extras:
            data += canonical([tool.kind, tool.extras])
            self.has_foreign_marks |= "cache_control" in tool.extras
        self._chain = chain = sha256(b"".join((self._chain, b"tool\0", data))).digest()
        self._tokens += len(data) // 4
        self.blocks.append(Block(chain, self._tokens, "tools", index, -1, True, tool.cache))

    def settings(self, request: Request) -> None:
        choice, thinking = request.tool_choice, request.thinking
        if choice is not None or thinking.enabled is not None or thinking.effort is not None:
            said = repr((choice, thinking)).encode("utf-8", "surrogatepass")
            self._chain = sha256(b"".join((self._chain, b"settings\0", said))).digest()

    def message(self, index: int, message: Message, place: Place) -> None:
        role = message.role
        header = _header(message)
        self._tokens += MESSAGE_TOKENS
        holds = role != "assistant"
        splits = place == "system" and self._heads is not None
        for number, part in enumerate(message.parts):
            if splits and type(part) is Text and self._split(header, index, number, part):
                header = _FURTHER
                continue
            data, tokens = _content(part)
            self._chain = chain = sha256(b"".join((self._chain, header, data))).digest()
            header = _FURTHER
            self._tokens += tokens
            if type(part) is Text:
                text = part.text
                mark, can_hold = part.cache, holds and text != "" and not text.isspace()
                if part.extras and "cache_control" in part.extras:
                    self.has_foreign_marks = True
            else:
                mark, can_hold = self._mark(part), holds and not isinstance(part, Opaque)
            self.blocks.append(Block(chain, self._tokens, place, index, number, can_hold, mark))

    def _mark(self, part: Part) -> Breakpoint | None:
        """The client's mark behind a part; whether it said more than that is noted."""
        match part:
            case Reasoning():
                return None
            case Opaque():
                return part.cache
            case ToolResult():
                if any(inner.cache for inner in part.content):
                    self.has_foreign_marks = True
            case _:
                pass
        if part.extras and "cache_control" in part.extras:
            self.has_foreign_marks = True
        return part.cache

    def _split(self, header: bytes, index: int, number: int, part: Text) -> bool:
        """Two blocks, as the text would be sent in two; ``False`` where it is stable throughout."""
        cut = self._heads.length(part.text) if self._heads is not None else None
        if cut is None:
            return False
        text = part.text
        if cut and not text[:cut].isspace():
            data, tokens = _text(text[:cut])
            self._chain = sha256(b"".join((self._chain, header, data))).digest()
            header = _FURTHER
            self._tokens += tokens
            self.blocks.append(
                Block(self._chain, self._tokens, "system", index, number, True, None, cut)
            )
        data, tokens = _content(Text(text[cut:], None, part.extras))
        self._chain = sha256(b"".join((self._chain, header, data))).digest()
        self._tokens += tokens
        self.has_foreign_marks |= "cache_control" in part.extras
        self.blocks.append(
            Block(self._chain, self._tokens, "system", index, number, True, part.cache, None, True)
        )
        return True


_FURTHER = b"+\0"
"""Before every part of a message but its first."""
_HEADERS = {role: f"{role}:0:\0".encode() for role in get_args(Role)}
_ENCODER = msgspec.json.Encoder(enc_hook=repr)


def canonical(value: Any) -> bytes:
    """Bytes that tell a value from every other; JSON, but for text no JSON can hold."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return repr(value).encode("utf-8", "surrogatepass")


def _header(message: Message) -> bytes:
    """Before the first part of a message. The name's length keeps it apart from what follows."""
    if message.name is None:
        return _HEADERS[message.role]
    name = message.name.encode("utf-8", "surrogatepass")
    return b"%b:%d:%b\0" % (message.role.encode(), len(name) + 1, name)


def _content(part: Part) -> tuple[bytes, int]:
    """What a digest covers of a part, and its estimated tokens."""
    match part:
        case Text():
            text = part.text
            data = text.encode("utf-8", "surrogatepass")
            size = len(text)
            tokens = -(-size // 4) + (len(data) - size) // 3
        case ToolCall():
            data, tokens = _text(f"call\0{part.call_id}\0{part.name}\0{part.arguments}")
        case ToolResult():
            data, tokens = _result(part)
        case Reasoning():
            signed = part.signature or part.redacted or ""
            data, tokens = _text(part.text)
            data = b"reasoning\0%b\0%b" % (signed.encode("utf-8", "surrogatepass"), data)
        case Image():
            data, tokens = _media(part), IMAGE_TOKENS
        case Video():
            data, tokens = _media(part), VIDEO_TOKENS
        case Opaque():
            data = b"opaque\0" + canonical([part.dialect, part.block])
            return data, len(data) // 4
    if part.extras:
        data += canonical(part.extras)
    return data, tokens


def _text(text: str) -> tuple[bytes, int]:
    data = text.encode("utf-8", "surrogatepass")
    size = len(text)
    return data, -(-size // 4) + (len(data) - size) // 3


def _result(part: ToolResult) -> tuple[bytes, int]:
    data = [b"result\0", part.call_id.encode("utf-8", "surrogatepass"), b"\1" * part.is_error]
    tokens = MESSAGE_TOKENS
    for inner in part.content:
        content, count = _content(inner)
        data.append(b"\0%d:" % len(content))
        data.append(content)
        tokens += count
    return b"".join(data), tokens


def _media(part: Image | Video) -> bytes:
    match part.source:
        case Url(url):
            said = f"url\0{url}"
        case Inline(media_type, content):
            said = f"{media_type}\0{content}"
        case HostFile(file_id):
            said = f"file\0{file_id}"
    return said.encode("utf-8", "surrogatepass")


def marked(prefix: Prefix) -> Iterator[int]:
    """Positions of the client's own breakpoints."""
    return (at for at, block in enumerate(prefix.blocks) if block.mark is not None)
