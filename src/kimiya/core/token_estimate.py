"""How many tokens a request roughly has, where no host counts them.

An estimate for reservations, token counts and planning; never for billing. Without a tokenizer the
best cheap predictor is size: four characters a token for ASCII text, and for other scripts one more
token for every three further bytes of UTF-8.
"""

import json
from collections.abc import Iterable

import msgspec

from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import (
    Image,
    JsonValue,
    Message,
    Opaque,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Video,
)

IMAGE_TOKENS = 1_500
"""A picture of about a megapixel, as Claude and Kimi K2.5 count it (order of magnitude)."""
VIDEO_TOKENS = 10_000
MESSAGE_TOKENS = 4
"""Role and turn markers around each message."""


def estimate_text_tokens(text: str) -> int:
    """Tokens of plain text.

    >>> estimate_text_tokens("four words of text"), estimate_text_tokens("")
    (5, 0)
    """
    size = len(text)
    if text.isascii():
        return -(-size // 4)
    wide_bytes = len(text.encode("utf-8", "surrogatepass")) - size
    return -(-size // 4) + wide_bytes // 3


def estimate_input_tokens(request: Request) -> int:
    """Tokens a host would read for this request, roughly."""
    return sum(map(_message_tokens, request.messages)) + sum(map(_tool_tokens, request.tools))


def _message_tokens(message: Message) -> int:
    return MESSAGE_TOKENS + _parts_tokens(message.parts)


def _parts_tokens(parts: Iterable[Part]) -> int:
    total = 0
    for part in parts:
        match part:
            case Text() | Reasoning():
                total += estimate_text_tokens(part.text)
            case ToolCall():
                total += estimate_text_tokens(part.name) + estimate_text_tokens(part.arguments)
            case ToolResult():
                total += MESSAGE_TOKENS + _parts_tokens(part.content)
            case Image():
                total += IMAGE_TOKENS
            case Video():
                total += VIDEO_TOKENS
            case Opaque():
                total += _size(part.block) // 4
    return total


def _tool_tokens(tool: ToolSpec) -> int:
    described = estimate_text_tokens(tool.name) + estimate_text_tokens(tool.description or "")
    return described + _size([tool.parameters, tool.extras]) // 4


def _size(value: JsonValue) -> int:
    """Bytes of a value as JSON; a lone surrogate, which JSON cannot hold, counts too."""
    try:
        return len(msgspec.json.encode(value))
    except UnicodeEncodeError:
        return len(json.dumps(value))
