"""A small byte-pair tokenizer that can say anything and says the nano model's world briefly.

Three kinds of token: markers (never made from text, only from `Piece` markers), phrases (whole
strings of the template and the schema language), and byte pairs learnt from a seeded sample. A
value is split the same way wherever it stands, after a space or a quote, because spaces and quotes
never merge into words: copying a value is then copying tokens.

Decoding is exact: ``decode(encode(pieces)) == text_of(pieces)`` for any text.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from kimiya.errors import ConfigError
from kimiya.training.nano.tasks import NO_CALL_TEXT
from kimiya.training.nano.template import DEFAULT_SYSTEM, MARKERS, Piece
from kimiya.training.nano.vocabulary import (
    CLOSERS,
    NOUNS,
    OPENERS,
    PARAMETERS,
    VERBS,
    draw_name,
)

__all__ = ["Tokenizer", "train_tokenizer"]

_WORD = r"[A-Za-z][a-z]*|[0-9]|[^A-Za-z0-9]"


class Tokenizer:
    """Text and markers to ids and back.

    Ids run: 256 bytes, merges in the order they were learnt, phrases, markers.
    """

    def __init__(self, merges: Sequence[tuple[int, int]], phrases: Sequence[str]) -> None:
        self.merges = tuple(merges)
        self.phrases = tuple(phrases)
        self._rank = {pair: 256 + index for index, pair in enumerate(self.merges)}
        self._bytes = [bytes([value]) for value in range(256)]
        for left, right in self.merges:
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self._phrase = {text: len(self._bytes) + i for i, text in enumerate(self.phrases)}
        self._bytes += [text.encode() for text in self.phrases]
        self._marker = {text: len(self._bytes) + i for i, text in enumerate(MARKERS)}
        self._bytes += [text.encode() for text in MARKERS]
        longest_first = sorted(map(re.escape, self.phrases), key=len, reverse=True)
        self._split = re.compile("|".join([*longest_first, _WORD]), re.S)
        self._word = functools.lru_cache(maxsize=65_536)(self._encode_word)

    def __len__(self) -> int:
        return len(self._bytes)

    def id_of(self, marker: str) -> int:
        """The id of a marker, e.g. ``<|im_end|>``."""
        return self._marker[marker]

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """Ids of marked text."""
        ids: list[int] = []
        for piece in pieces:
            if piece.is_marker:
                ids.append(self._marker[piece.text])
            else:
                for chunk in self._split.findall(piece.text):
                    ids.extend(self._word(chunk))
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of these ids; a character may span several."""
        return b"".join(self._bytes[token] for token in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids; bytes that form no character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON; another process reads the whole of it or nothing."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps({"merges": self.merges, "phrases": self.phrases}))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file is missing or holds something else.
        """
        try:
            held = json.loads(path.read_text())
            return cls([(left, right) for left, right in held["merges"]], held["phrases"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"no tokenizer can be read: {error}", file=str(path)) from error

    def _encode_word(self, chunk: str) -> tuple[int, ...]:
        if chunk in self._phrase:
            return (self._phrase[chunk],)
        ids = list(chunk.encode())
        while len(ids) > 1:
            pairs = itertools.pairwise(ids)
            merged, at = min(
                ((self._rank.get(pair, len(self._bytes)), at) for at, pair in enumerate(pairs))
            )
            if merged == len(self._bytes):
                break
            ids[at : at + 2] = [merged]
        return tuple(ids)


def train_tokenizer(*, seed: int = 0, merges: int = 640) -> Tokenizer:
    """Learn byte pairs from a seeded sample of names and the world's own words."""
    chance = random.Random(seed)
    words: Counter[str] = Counter()
    for _ in range(6000):
        words.update(re.findall(_WORD, draw_name(chance, held_out=False)))
    for word in _closed_words():
        words[word] += 1000
    return Tokenizer(_learn_merges(words, merges), _phrases())


def _closed_words() -> set[str]:
    texts = [*NOUNS, *(form for forms in VERBS.values() for form in forms), *VERBS]
    texts += [text for kind in PARAMETERS for text in (kind.name, *kind.choices, kind.phrase)]
    texts += [*OPENERS, *CLOSERS, NO_CALL_TEXT, "user assistant system tool functions string"]
    return {word for text in texts for word in re.findall(_WORD, text)}


def _phrases() -> list[str]:
    asked = [
        part
        for kind in PARAMETERS
        for part in kind.phrase.split("{}")
        if " " in part.strip(" ") or part.startswith(" ")
    ]
    spoken = [*OPENERS, *(closer for closer in CLOSERS if len(closer) > 1), " a ", " and then "]
    written = [
        '[{"type":"function","function":{"name":"', '"]}}},{"type":"function","function":{"name":"',
        '","description":"', '","parameters":{"type":"object","properties":{"',
        '":{"type":"string"},"', '":{"type":"integer"},"', '":{"type":"string"}},"required":["',
        '":{"type":"integer"}},"required":["', '":{"type":"string","enum":["', '"]},"',
        '"]}},"required":["', '"]}}}]', '","', "functions.", ":0", ":1", '{"', '": "', '": ',
        '", "', ', "', '"}', "tool_declare", DEFAULT_SYSTEM, NO_CALL_TEXT,
    ]  # fmt: skip
    return sorted({part for part in [*asked, *spoken, *written] if len(part) > 1})


def _learn_merges(words: Counter[str], count: int) -> list[tuple[int, int]]:
    """The ``count`` most frequent pairs, one after another; ties go to the smaller ids."""
    split = {word: list(word.encode()) for word in words if len(word.encode()) > 1}
    pairs: Counter[tuple[int, int]] = Counter()
    holders: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    for word, ids in split.items():
        for pair in itertools.pairwise(ids):
            pairs[pair] += words[word]
            holders[pair].add(word)
    merges: list[tuple[int, int]] = []
    while len(merges) < count and any(pairs.values()):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in holders.pop(best):
            old, new = split[word], _merged(split[word], best, 255 + len(merges))
            split[word] = new
            for pair in itertools.pairwise(old):
                pairs[pair] -= words[word]
            for pair in itertools.pairwise(new):
                pairs[pair] += words[word]
                holders[pair].add(word)
        del pairs[best]
    return merges


def _merged(ids: list[int], pair: tuple[int, int], token: int) -> list[int]:
    merged: list[int] = []
    for value in ids:
        # Only a token that is still single may pair up: in "aaa" the first two do.
        if merged and (merged[-1], value) == pair:
            merged[-1] = token
        else:
            merged.append(value)
    return merged
