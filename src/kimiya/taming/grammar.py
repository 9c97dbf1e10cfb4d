"""What broken replies are made of: control markers and foreign tags, as data.

A row of ``MARKERS`` is one control token and the part it plays. ``Lexicon`` adds what one request
declares: its tool names, and the ways a call can open without any marker. Nothing here decides;
``scanner`` walks, ``calls`` judges. The only module of this room that knows vendors' tokens.

Sources, read 2026-11-22: MoonshotAI/Kimi-Vendor-Verifier tokenizer_config.json (K2 tokens and
ids), MoonshotAI/Kimi-K2 docs/tool_call_guidance.md, DeepSeek-V3 chat template, K3 templates as
quoted by can1357/oh-my-pi#8495.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

MarkKind = Literal[
    "section_begin",
    "section_end",
    "call_begin",
    "argument_begin",
    "call_end",
    "turn_end",
    "role",
    "answer_role",
    "middle",
    "k3",
    "odd",
    "think",
    "think_end",
]

CALL_BEGIN = "<|tool_call_begin|>"
ARGUMENT_BEGIN = "<|tool_call_argument_begin|>"
CALL_END = "<|tool_call_end|>"

_K2: Mapping[str, MarkKind] = {
    "<|tool_calls_section_begin|>": "section_begin",
    "<|tool_calls_section_end|>": "section_end",
    "<|tool_call_section_begin|>": "section_begin",
    "<|tool_call_section_end|>": "section_end",
    "<|tool_calls_begin|>": "section_begin",
    "<|tool_calls_end|>": "section_end",
    CALL_BEGIN: "call_begin",
    ARGUMENT_BEGIN: "argument_begin",
    "<|tool_call_arguments_begin|>": "argument_begin",
    CALL_END: "call_end",
    # No tokenizer has this one; clients expect it and models that read their prompts write it.
    "<|tool_call_argument_end|>": "odd",
    "<|tool_call_arguments_end|>": "odd",
}
_TURNS: Mapping[str, MarkKind] = {
    "<|im_end|>": "turn_end",
    "<|im_start|>": "odd",
    "<|im_user|>": "role",
    "<|im_system|>": "role",
    "<|im_assistant|>": "answer_role",
    "<|im_middle|>": "middle",
    "<|start_header_id|>": "odd",
    "<|end_header_id|>": "odd",
    "<|media_begin|>": "odd",
    "<|media_content|>": "odd",
    "<|media_end|>": "odd",
    "<|media_pad|>": "odd",
}
_SEEN_IN_NAMES: Mapping[str, MarkKind] = {
    "<|tooluse_begin|>": "odd",
    "<|tooluse_end|>": "odd",
    "<|tool_use_begin|>": "odd",
    "<|tool_use_end|>": "odd",
    "<|ASSISTANT|>": "odd",
    "<|USER|>": "odd",
    "<|SYSTEM|>": "odd",
    "<|assistant|>": "odd",
    "<|reasoning|>": "odd",
    "<|/reasoning|>": "odd",
    "<|tool_response|>": "odd",
}
_K3: Mapping[str, MarkKind] = {"<|open|>": "k3", "<|sep|>": "k3", "<|close|>": "k3"}
_DEEPSEEK: Mapping[str, MarkKind] = {
    "<｜tool▁calls▁begin｜>": "section_begin",
    "<｜tool▁calls▁end｜>": "section_end",
    "<｜tool▁call▁begin｜>": "call_begin",
    "<｜tool▁sep｜>": "argument_begin",
    "<｜tool▁call▁end｜>": "call_end",
    "<｜tool▁outputs▁begin｜>": "odd",
    "<｜tool▁outputs▁end｜>": "odd",
    "<｜end▁of▁sentence｜>": "turn_end",
    "<｜begin▁of▁sentence｜>": "odd",
}
_THINKING: Mapping[str, MarkKind] = {
    "<think>": "think",
    "</think>": "think_end",
    "<reasoning>": "think",
    "</reasoning>": "think_end",
}

MARKERS: Mapping[str, MarkKind] = {
    **_K2,
    **_TURNS,
    **_SEEN_IN_NAMES,
    **_K3,
    **_DEEPSEEK,
    **_THINKING,
}
"""Every control token this room knows, and the part it plays."""

REPLY_TAGS: frozenset[str] = frozenset({"<reasoning>", "</reasoning>"})
"""Think tags that are ordinary words elsewhere: they count only where a reply begins with one."""

CONTROL_TOKENS: tuple[str, ...] = tuple(t for t in MARKERS if t not in _THINKING)
"""What may never reach a client's text nor stand in an argument; think tags are merely removed."""

CALL_KINDS: frozenset[MarkKind] = frozenset(
    {"section_begin", "section_end", "call_begin", "argument_begin", "call_end"}
)

CONTROL = re.compile("|".join(re.escape(t) for t in sorted(CONTROL_TOKENS, key=len, reverse=True)))
"""Finds a control token anywhere."""

LOOSE_CONTROL = re.compile(r"<[|｜]/?[\w▁ ]{1,40}[|｜]>|</?think>")
"""Anything shaped like a control token, known or not; names are cleaned of it."""

REGION_MARK = re.compile(r"<[|｜]/?[\w▁]{1,40}+[|｜]>")
"""Shape of a marker inside a call; looked up in ``MARKERS``."""

_SPACES = ("", "antml:")
"""Namespaces the tags of Anthropic's old prompt format are seen in."""

FOREIGN_TAGS: Mapping[str, str] = {
    **{f"<{space}function_calls>": f"</{space}function_calls>" for space in _SPACES},
    **{f"<{space}invoke ": f"</{space}invoke>" for space in _SPACES},
    "<tool_call>": "</tool_call>",
    "<tool_calls>": "</tool_calls>",
    "<tool_use>": "</tool_use>",
    "<function_call>": "</function_call>",
    "<function=": "</function>",
}
"""XML openings of other dialects Kimi drifts into, and what closes each."""

STRAY_TAGS: frozenset[str] = frozenset(FOREIGN_TAGS.values())
"""Closing tags that mean nothing alone; dropped right after a recovered call."""

ANNOUNCEMENTS: tuple[str, ...] = (
    "Using tool: ",
    "Using tool ",
    "Calling tool: ",
    "Calling tool ",
    "Calling function: ",
    "Using function: ",
    "Running tool: ",
    "Tool call: ",
    "Tool: ",
)
"""How a line opens that names a tool, with the call as JSON after it."""

ENVELOPE_KEYS: frozenset[str] = frozenset(
    {"name", "tool", "tool_name", "function", "function_name", "tool_calls"}
)
"""First keys of a JSON object that wraps a call."""

_MARK = r"[|｜]/?[\w▁]{1,40}+[|｜]>"
_BARE = r"functions[._:](?=[\w.\-/]{1,128}+(?::\d{0,6}+)?[ \t]*+\n?[ \t]*+(?:[{<]|\Z)|\Z)"
_BRACE = r"\{(?=\s{0,16}+(?:[\"}]|\Z))|\[(?=\s{0,16}+(?:\{|\Z))"


def _alternatives(words: Iterable[str]) -> str:
    """Words as one regular expression, sorted by their first letter so that few are tried."""
    heads: dict[str, list[str]] = {}
    for word in sorted(set(words), key=len, reverse=True):
        heads.setdefault(word[0], []).append(re.escape(word[1:]))
    return "|".join(f"{re.escape(head)}(?:{'|'.join(tails)})" for head, tails in heads.items())


def _tag_names() -> list[str]:
    return [tag.strip("<>= ") for tag in (*FOREIGN_TAGS, *STRAY_TAGS, *_THINKING)]


_WORD = "functions"
FUNCTION_PREFIXES: tuple[str, ...] = tuple(_WORD[:n] for n in range(len(_WORD), 0, -1))
"""Longest first, so that the first that ends a text is the one to hold back."""

BARE_HEADER = re.compile(r"functions[._:]([\w.\-/]{1,128}+)(?::\d{0,6}+)?[ \t]*\n?[ \t]*")
"""A call's header whose markers a server swallowed; a ``{`` or the argument marker must follow."""


def _prefixes(literals: Iterable[str]) -> frozenset[str]:
    return frozenset(word[:n] for word in literals for n in range(1, len(word)))


_FIXED_PREFIXES = _prefixes([*MARKERS, *FOREIGN_TAGS, *STRAY_TAGS])


class Lexicon:
    """The grammar of one request: fixed markers plus the names it declares."""

    def __init__(self, names: tuple[str, ...], starts: tuple[str, ...]) -> None:
        self.names = frozenset(names)
        """Declared tool names."""
        self.has_tools = bool(names)
        self.starts = starts
        """Where an argument typed as prose opens: literals that begin a line."""
        tags = _alternatives(_tag_names())
        self.reasoning_trigger = re.compile(rf"<(?:{_MARK}|(?:{tags})[>= ])")
        """What may open something in reasoning: a call without markers there is a thought."""
        tags = _alternatives([*_tag_names(), *names])
        self.text_trigger = re.compile(rf"<(?:{_MARK}|(?:{tags})[>= ])|{_BRACE}|{_BARE}")
        """What may open something in visible text, when tools are declared."""
        self.name_tags = frozenset(f"<{name}>" for name in names)
        self.prefixes = _FIXED_PREFIXES | _prefixes(self.name_tags) if names else _FIXED_PREFIXES
        """Every proper prefix of a marker or tag: what may be held back at a cut."""
        self._line_prefixes = _prefixes(f"{name}:0" for name in names) | _prefixes(
            [*starts, *(ANNOUNCEMENTS if names else ())]
        )

    def opens_line(self, text: str) -> bool:
        """Whether a line that starts so may become a call: ``NAME:3``, an announcement, a start."""
        if text in self._line_prefixes or text in self.starts:
            return True
        name, colon, rest = text.partition(":")
        if colon and name in self.names:
            return not rest.strip("0123456789 \t\n") and rest.count("\n") < 2 and len(rest) < 40
        return self.has_tools and len(text) < 200 and announced(text) is not None

    def line_header(self, text: str) -> str | None:
        """The tool that a line such as ``NAME:3`` or ``Using tool: NAME`` names, or ``None``."""
        name, colon, rest = text.partition(":")
        if colon and name in self.names and rest.strip().isdigit():
            return text.strip()
        said = announced(text)
        return said if said and said in self.names else None


def announced(text: str) -> str | None:
    """The name an announcing line gives; ``""`` while it may still come; ``None`` if it is none.

    >>> announced("Using tool: shell"), announced("Using tools"), announced("Using tool: a b")
    ('shell', None, None)
    """
    for head in ANNOUNCEMENTS:
        if text.startswith(head):
            name = text[len(head) :].strip(" \t\n`*:")
            if not any(char.isspace() for char in name) and text.count("\n") < 2:
                return name
    return None


@lru_cache(maxsize=512)
def lexicon(names: tuple[str, ...], starts: tuple[str, ...] = ()) -> Lexicon:
    """The lexicon of a set of names, built once."""
    return Lexicon(names, starts)
