"""Arguments typed as prose: a tool says how its argument looks when the model types it instead.

Weaker models answer with the document instead of calling the tool that takes it: a Marp deck
appears in the chat as text. A ``ProseRule`` declares the start of such a text; the engine then
stops showing it, makes the call, and never shows half of it. A client declares it beside the tool
(``"x-kimiya-prose": {"argument": "markdown", "start": "---", "pattern": "..."}``), an operator in
the configuration for clients that know nothing of it.

``{"json": true}`` declares instead that a bare JSON object which fits this tool's schema, and no
other's, is its arguments.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

from msgspec import Struct

from kimiya.core.exchange import ToolSpec
from kimiya.core.messages import JsonValue
from kimiya.errors import ConfigError

DECLARATION = "x-kimiya-prose"
"""The field beside a tool's name that declares its prose."""

_WINDOW_CHARS = 2000
"""How much of a text may be held back until its pattern must have matched."""


class ProseRule(Struct, frozen=True):
    """How one argument of one tool looks when it is typed as text.

    >>> deck = ProseRule("make_deck", "markdown", "---", r"---\\n(?:[\\w-]+:.*\\n)*marp:\\s*true")
    >>> deck.confirmed("---\\ntheme: gaia\\nmarp: true\\n", final=False)
    True
    >>> deck.confirmed("---\\nJust a rule", final=True)
    False
    """

    tool: str
    argument: str = ""
    start: str = ""
    """Literal text that opens it, at the start of a line."""
    pattern: str | None = None
    """Regular expression that must match from the start on, within 2,000 characters."""
    reject: str | None = None
    """Regular expression that, matching from the start on, says at once that it is none."""
    end: str | None = None
    """Regular expression that ends it and belongs to what follows; none: the reply's end."""
    json: bool = False
    """The whole argument object is typed as bare JSON; the other fields are then unused."""

    def confirmed(self, text: str, *, final: bool) -> bool | None:
        """Whether ``text``, which begins with ``start``, is the argument; ``None`` if not clear."""
        head = text[:_WINDOW_CHARS]
        if self.pattern is None or _compiled(self.pattern).match(head):
            return True
        if final or len(text) >= _WINDOW_CHARS:
            return False
        if self.reject is not None and _compiled(self.reject).match(head):
            return False
        return None

    def end_in(self, text: str) -> int | None:
        """Where the argument ends in ``text``; ``None`` where it does not."""
        if self.end is None:
            return None
        found = _compiled(self.end).search(text)
        return found.start() if found else None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def marp_deck(tool: str, argument: str = "markdown") -> ProseRule:
    """The rule for a tool that takes a Marp deck: front matter that holds ``marp: true``."""
    return ProseRule(
        tool,
        argument,
        start="---",
        pattern=r"---[ \t]*\n(?:[^\n]*\n){0,40}?[ \t]*marp:[ \t]*true",
        reject=(
            r"---(?:[ \t]*[^\s]|[ \t]*\n(?:[ \t]*\n|[\w-]+[ \t]*:[^\n]*\n)*"
            r"(?:---|[^\w\s#\n]|\w[^:\n]*\n))"
        ),
    )


def rule_from(tool: str, declared: JsonValue) -> ProseRule:
    """Read one declaration.

    Raises:
        ConfigError: A field is missing, of the wrong type, or no regular expression.
    """
    key = f"{DECLARATION} of tool {tool!r}"
    if not isinstance(declared, dict):
        raise ConfigError("must be an object", key=key)
    fields = cast("dict[str, Any]", declared)
    if fields.get("json") is True:
        return ProseRule(tool, json=True)
    if fields.get("kind") == "marp":
        return marp_deck(tool, str(fields.get("argument", "markdown")))
    for name in ("argument", "start"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise ConfigError(f"needs {name!r}, a text", key=key)
    for name in ("pattern", "reject", "end"):
        source = fields.get(name)
        if source is None:
            continue
        try:
            re.compile(source)
        except (re.error, TypeError) as error:
            raise ConfigError(f"{name!r} is no regular expression: {error}", key=key) from error
    known = {n: fields.get(n) for n in ("argument", "start", "pattern", "reject", "end")}
    return ProseRule(tool, **cast("dict[str, Any]", known))


def rules_of(
    tools: Iterable[ToolSpec], configured: Mapping[str, JsonValue] | None = None
) -> tuple[ProseRule, ...]:
    """The rules that hold for these tools: their own declarations before configured ones.

    Raises:
        ConfigError: A declaration cannot be read.
    """
    found: list[ProseRule] = []
    for tool in tools:
        declared = tool.extras.get(DECLARATION) if tool.extras else None
        if declared is None and configured:
            declared = configured.get(tool.name)
        if declared is not None:
            found.append(rule_from(tool.name, declared))
    return tuple(found)
