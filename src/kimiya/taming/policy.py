"""What follows from what was found in a turn: one table.

``accept`` leaves the turn as it is, ``repair`` passes the mended turn, ``retry`` asks again
with the broken turn left out, ``fail`` gives up at once. A defect without a row is retried: what
nobody has thought about is never shown as whole.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from kimiya.core.exchange import Defect

Action = Literal["accept", "repair", "retry", "fail"]
Hint = Literal["plain", "constrain", "no_tools"]

LOOP_RETRY_AT = 6
"""Identical calls with identical results in a row, this one included, from which the turn is asked
again (kimi-code reminds at 3, 5 and 8)."""
LOOP_FAIL_AT = 12
"""The same, from which the conversation is given up (kimi-code stops at 12)."""


class Rule(Struct, frozen=True):
    """One row."""

    action: Action
    why: str
    """A sentence for people."""
    hint: Hint = "plain"
    """How to ask again: as before, with constrained decoding, or for prose without tools."""


POLICY: Mapping[str, Rule] = {
    "undeclared_tool": Rule("retry", "the model called a tool nobody declared", "constrain"),
    "ambiguous_call": Rule("retry", "a call fits no one tool alone", "constrain"),
    "truncated_call": Rule("retry", "a call was cut before its end", "constrain"),
    "bad_arguments": Rule("retry", "arguments cannot be read in exactly one way", "constrain"),
    "invalid_arguments": Rule("retry", "arguments do not fit the tool's schema", "constrain"),
    "marker_in_arguments": Rule("retry", "a control marker stands in an argument", "constrain"),
    "damaged_dialect": Rule("retry", "a call in another dialect is damaged", "constrain"),
    "bare_arguments": Rule("retry", "arguments were typed without saying which tool", "constrain"),
    "announced_without_call": Rule("retry", "calls were announced and none came", "constrain"),
    "unclosed_quote": Rule("retry", "a call stands in a quotation that never closes", "constrain"),
    "conflicting_calls": Rule("retry", "two versions of one call disagree", "constrain"),
    "cut_prose": Rule("retry", "an argument typed as prose was cut", "constrain"),
    "call_too_long": Rule("retry", "a call is longer than any tool takes", "plain"),
    "reply_too_long": Rule("retry", "the reply runs on behind its calls", "plain"),
    "no_tools_declared": Rule("retry", "the model calls though no tool is declared", "no_tools"),
    "empty_turn": Rule("retry", "the turn is empty"),
    "think_only": Rule("retry", "the turn ends after its reasoning"),
    "padding": Rule("retry", "the turn is padding"),
    "cut_stream": Rule("retry", "the stream ended before the model said why it stopped"),
    "call_loop": Rule("retry", "the same call gave the same result again and again"),
    "endless_loop": Rule("fail", "the same call gave the same result too often to go on"),
    "invented_result": Rule("repair", "the model wrote its own call's result"),
}


def ruling(defects: Iterable[Defect]) -> tuple[Action, Rule | None, Defect | None]:
    """What a turn's defects come to: the gravest action, its row and the defect behind it.

    >>> ruling([])[0], ruling([Defect("undeclared_tool", "x")])[0], ruling([Defect("?", "x")])[0]
    ('accept', 'retry', 'retry')
    """
    gravest: tuple[Action, Rule | None, Defect | None] = ("accept", None, None)
    for defect in defects:
        rule = POLICY.get(defect.code, _UNKNOWN)
        if _GRAVITY[rule.action] > _GRAVITY[gravest[0]]:
            gravest = (rule.action, rule, defect)
    return gravest


_UNKNOWN = Rule("retry", "something unknown is wrong with the turn")
_GRAVITY: Mapping[Action, int] = {"accept": 0, "repair": 1, "retry": 2, "fail": 3}
