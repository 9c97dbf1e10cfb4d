"""Chooses what to say to a request, and fills the blanks in it.

A choice depends on the request alone, but for ``request N`` and ``once``, which count what the host
has answered: scripts of tool loops then play the same however clients interleave.
"""

import re
from collections.abc import Mapping
from typing import assert_never

import msgspec
from msgspec import Struct

from kimiya.core.exchange import Request
from kimiya.core.messages import Text, ToolResult
from kimiya.providers.simulated.script import (
    Condition,
    Declares,
    Fact,
    HasResult,
    Matches,
    Nth,
    Script,
    ScriptedReply,
    Streamed,
    Turn,
)

_BLANK = re.compile(r"\{(user|system|result|model|turn|request|[1-9])\}")


class Situation(Struct, frozen=True):
    """A request as conditions and blanks see it."""

    request: Request
    number: int
    """Of the request, counted by the host from 1."""
    turn: int
    """Of the model's reply, counted in the conversation from 1."""
    texts: Mapping[str, str]
    """By subject: the last user's text, the system's, the newest results', the model's name."""
    has_result: bool


class Choice(Struct, frozen=True):
    """A reply, and what fills its blanks."""

    reply: ScriptedReply
    blanks: Mapping[str, str]


def situation_of(request: Request, number: int) -> Situation:
    """Look at a request once for all conditions."""
    newest = _newest_results(request)
    users = [message for message in request.messages if message.role == "user"]
    texts = {
        "user": users[-1].text if users else "",
        "system": "\n".join(
            message.text for message in request.messages if message.role in ("system", "developer")
        ),
        "result": "\n".join(_result_text(result) for result in newest),
        "model": request.model,
    }
    spoken = sum(message.role == "assistant" for message in request.messages)
    return Situation(request, number, spoken + 1, texts, bool(newest))


def choose(script: Script, situation: Situation, said: frozenset[int]) -> Choice | None:
    """The first reply whose conditions hold, unless it is ``once`` and its line is in ``said``."""
    for reply in script.replies:
        if reply.is_once and reply.line in said:
            continue
        blanks: dict[str, str] = {
            **situation.texts,
            "turn": str(situation.turn),
            "request": str(situation.number),
        }
        if all(_holds(condition, situation, blanks) for condition in reply.conditions):
            return Choice(reply, blanks)
    return None


def filled(template: str, blanks: Mapping[str, str], *, default: str | None = None) -> str:
    """Put what is known into ``{user}``, ``{1}`` and the like; leave every other brace alone.

    >>> filled('{"path": "{1}", "to": {user}}', {"1": "a.txt"})
    '{"path": "a.txt", "to": {user}}'
    """

    def fill(match: re.Match[str]) -> str:
        value = blanks.get(match[1], default)
        return match[0] if value is None else value

    return _BLANK.sub(fill, template)


def filled_json(template: str, blanks: Mapping[str, str]) -> str:
    """As ``filled``, for blanks inside JSON strings: what is put in is escaped.

    >>> filled_json('{"text": "{user}"}', {"user": 'say "hi"'})
    '{"text": "say \\\\"hi\\\\""}'
    """
    return filled(template, {name: _escaped(value) for name, value in blanks.items()})


def _escaped(text: str) -> str:
    return msgspec.json.encode(text).decode()[1:-1]


def _newest_results(request: Request) -> list[ToolResult]:
    """What tools gave since the model last spoke."""
    newest: list[ToolResult] = []
    for message in reversed(request.messages):
        if message.role == "assistant":
            break
        newest = [*message.tool_results, *newest]
    return newest


def _result_text(result: ToolResult) -> str:
    return "".join(part.text for part in result.content if isinstance(part, Text))


def _holds(condition: Condition, situation: Situation, blanks: dict[str, str]) -> bool:
    return _is_fact(condition.fact, situation, blanks) != condition.is_negated


def _is_fact(fact: Fact, situation: Situation, blanks: dict[str, str]) -> bool:
    match fact:
        case Matches():
            found = fact.pattern.search(situation.texts[fact.subject])
            if found is not None:
                groups = enumerate(found.groups(default=""), 1)
                blanks.update({str(number): text for number, text in groups})
            return found is not None
        case HasResult():
            return situation.has_result
        case Declares():
            names = [tool.name for tool in situation.request.tools]
            return bool(names) if fact.name is None else fact.name in names
        case Turn():
            return situation.turn == fact.number
        case Nth():
            return situation.number == fact.number
        case Streamed():
            return situation.request.stream
        case _:
            assert_never(fact)
