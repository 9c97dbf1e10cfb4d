"""The small world the nano model speaks of: tools, parameters, how people ask, and names of things.

Everything here is data. A tool is a verb and a noun (``book_table``); a parameter has a phrase by
which a request mentions it; a name is made of syllables. Two disjoint sets are kept apart by a
hash of the text, so that no seed can mix them: *held-out tools* (verb and noun each seen in
training, never together) and *held-out values* (names and numbers never seen whole).
"""

from __future__ import annotations

import itertools
import random
import zlib
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CLOSERS",
    "NOUNS",
    "OPENERS",
    "PARAMETERS",
    "SYLLABLES",
    "VERBS",
    "ParameterKind",
    "draw_name",
    "draw_number",
    "is_held_out_tool",
    "is_held_out_value",
    "tool_names",
]

VERBS = {
    "book": ("book", "reserve"),
    "cancel": ("cancel", "drop"),
    "find": ("find", "locate"),
    "send": ("send", "forward"),
    "order": ("order", "buy"),
    "track": ("track", "follow"),
    "rate": ("rate", "review"),
    "share": ("share", "publish"),
    "check": ("check", "inspect"),
    "print": ("print",),
    "open": ("open", "unlock"),
    "move": ("move", "shift"),
    "repair": ("repair", "fix"),
    "hide": ("hide", "conceal"),
}
"""Each verb as the tool names it, and as a request may say it."""

NOUNS = (
    "table", "room", "taxi", "parcel", "report", "ticket", "song", "note", "invoice", "meeting",
    "lamp", "photo", "meal", "garden", "course", "boat", "door", "poster",
)  # fmt: skip

OPENERS = (
    "Please ", "Can you ", "Could you ", "I want to ", "I need you to ", "Help me ", "Kindly ",
    "We have to ", "I would like to ", "Now ",
)  # fmt: skip

CLOSERS = (".", "?", ", please.", ", thanks.", "!")

SYLLABLES = tuple(
    onset + vowel + coda
    for onset, vowel, coda in itertools.product(
        ("b", "br", "d", "f", "g", "k", "l", "m", "p", "s", "t", "v"), "aeiou", ("", "n", "r")
    )
)


@dataclass(frozen=True)
class ParameterKind:
    """One parameter a tool may take."""

    name: str
    type: Literal["string", "integer"]
    phrase: str
    """How a request mentions it; ``{}`` is the value."""
    choices: tuple[str, ...] = ()
    """The values of an ``enum``; empty for free ones."""


PARAMETERS = (
    ParameterKind("city", "string", " in {}"),
    ParameterKind("person", "string", " for {}"),
    ParameterKind("title", "string", " called {}"),
    ParameterKind("company", "string", " from {}"),
    ParameterKind("street", "string", " near {}"),
    ParameterKind("partner", "string", " with {}"),
    ParameterKind("code", "string", " under {}"),
    ParameterKind("guests", "integer", " for {} guests"),
    ParameterKind("minutes", "integer", " within {} minutes"),
    ParameterKind("budget", "integer", " below {} dollars"),
    ParameterKind("floor", "integer", " on floor {}"),
    ParameterKind("size", "string", " of {} size", ("small", "medium", "large")),
    ParameterKind("color", "string", " painted {}", ("red", "green", "blue", "white")),
    ParameterKind("priority", "string", " at {} priority", ("low", "normal", "high")),
)


def tool_names(*, held_out: bool) -> list[str]:
    """All names of one of the two sets, sorted."""
    names = (f"{verb}_{noun}" for verb in VERBS for noun in NOUNS)
    return sorted(name for name in names if is_held_out_tool(name) == held_out)


def is_held_out_tool(name: str) -> bool:
    """Whether training never sees this tool: about one in eight."""
    return zlib.crc32(f"tool {name}".encode()) % 8 == 0


def is_held_out_value(text: str) -> bool:
    """Whether training never sees this name or number: about one in ten."""
    return zlib.crc32(f"value {text}".encode()) % 10 == 0


def draw_name(chance: random.Random, *, held_out: bool) -> str:
    """A name of one or two capitalised words of two or three syllables."""
    while True:
        words = 2 if chance.random() < 0.2 else 1
        name = " ".join(
            "".join(chance.choices(SYLLABLES, k=2 + (chance.random() < 0.3))).capitalize()
            for _ in range(words)
        )
        if is_held_out_value(name) == held_out:
            return name


def draw_number(chance: random.Random, *, held_out: bool) -> int:
    """A number from 2 to 999, short ones more often."""
    while True:
        number = chance.randint(2, 99 if chance.random() < 0.7 else 999)
        if is_held_out_value(str(number)) == held_out:
            return number
