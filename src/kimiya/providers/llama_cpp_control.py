"""Control tokens of a GGUF model, kept out of what people and tools say to it.

llama.cpp reads the whole rendered prompt with control tokens recognised, so a file that holds
``<|im_end|>`` would end its message and could open one of the system's. The engine has no way to
read a message's content apart; so content never holds a control token's text: a word joiner, which
has no width, stands behind its first character. The model still sees the letters, people too.

Which tokens those are stands in the model's own file. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3, checked 2026-11-22).
"""

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from kimiya.core.messages import JsonValue
from kimiya.providers.llama_cpp_chat import Chunk

JOINER = "\u2060"
"""Word joiner: breaks a token's text and shows nothing."""

_UNKNOWN, _CONTROL = 2, 3
_USUAL = re.compile(
    r"<[|｜][^<>]*[|｜]>|</?s>|<(?:start|end)_of_turn>|<end_of_utterance>|\[/?INST\]"
)
"""Forms the engine takes for control tokens whatever the file says of them."""

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each number type of the format."""
_STRING, _ARRAY = 8, 9
_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"


class ControlTokens:
    """The texts of a vocabulary's control tokens, and content without them.

    >>> tokens = ControlTokens(["<|im_end|>", "</s>"])
    >>> tokens.harmless("a<|im_end|>b") == f"a<{JOINER}|im_end|>b"
    True
    >>> tokens.harmless("a < b")
    'a < b'
    """

    def __init__(self, texts: Iterable[str]) -> None:
        # One character alone cannot be broken; no known model has such a token.
        self.texts = frozenset(text for text in texts if len(text) > 1)
        longest_first = sorted(self.texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def harmless(self, text: str) -> str:
        """The text with every control token's text broken."""
        while self._pattern.search(text):  # again: what is left of one may hold another
            text = self._pattern.sub(_broken, text)
        return text

    def harmless_body(self, body: Chunk) -> Chunk:
        """A chat body whose messages hold no control token."""
        lines: list[Chunk] = body["messages"]
        messages: list[JsonValue] = [
            {**line, "content": self.harmless(line["content"])} for line in lines
        ]
        return {**body, "messages": messages}


def _broken(found: re.Match[str]) -> str:
    text = found.group()
    return text[0] + JOINER + text[1:]


def control_tokens(path: Path) -> ControlTokens:
    """The control tokens of a GGUF file.

    Raises:
        ValueError: The file is no GGUF, or ends too early.
    """
    with path.open("rb") as file:
        try:
            texts, types = _vocabulary(file)
        except struct.error as error:
            raise ValueError(f"{path} ends in the middle of its metadata") from error
    kinds = types or [0] * len(texts)
    return ControlTokens(
        text
        for text, kind in zip(texts, kinds, strict=False)
        if kind in (_UNKNOWN, _CONTROL) or _USUAL.fullmatch(text)
    )


def _vocabulary(file: BinaryIO) -> tuple[list[str], list[int]]:
    """The tokens' texts and types; empty where the file does not say."""
    if file.read(4) != b"GGUF":
        raise ValueError("this is no GGUF file")
    _, _, count = struct.unpack("<IQQ", file.read(20))
    texts: list[str] = []
    types: list[int] = []
    for _ in range(count):
        key = _text(file)
        (kind,) = struct.unpack("<I", file.read(4))
        if key == _TOKENS and kind == _ARRAY:
            texts = _strings(file)
        elif key == _TYPES and kind == _ARRAY:
            types = _integers(file)
        else:
            _skip(file, kind)
        if texts and types:
            break
    return texts, types


def _text(file: BinaryIO) -> str:
    return _bytes(file).decode("utf-8", "replace")


def _bytes(file: BinaryIO) -> bytes:
    (size,) = struct.unpack("<Q", file.read(8))
    data = file.read(size)
    if len(data) < size:
        raise struct.error
    return data


def _head(file: BinaryIO) -> tuple[int, int]:
    kind, count = struct.unpack("<IQ", file.read(12))
    return kind, count


def _strings(file: BinaryIO) -> list[str]:
    kind, count = _head(file)
    if kind != _STRING:
        raise ValueError("the vocabulary is no list of texts")
    return [_text(file) for _ in range(count)]


def _integers(file: BinaryIO) -> list[int]:
    kind, count = _head(file)
    if kind not in (4, 5):
        raise ValueError("the token types are no list of integers")
    return list(struct.unpack(f"<{count}i", file.read(4 * count)))


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _bytes(file)
    elif kind == _ARRAY:
        inner, count = _head(file)
        if inner in _SIZES:
            file.seek(_SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    elif kind in _SIZES:
        file.seek(_SIZES[kind], 1)
    else:
        raise ValueError(f"metadata of an unknown type {kind}")
