"""Kimi K2's chat format: messages and tools in, marked text out, and calls read back.

A prompt is a list of `Piece`: markers stand apart from text all the way to the tokenizer, so that
the same characters inside a user's message or a tool's result stay text and can forge nothing.
Source: the chat template of Kimi-K2-Instruct and its tool-call guidance (MoonshotAI/Kimi-K2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kimiya.errors import ConfigError
from kimiya.training.nano.tasks import Call, Task

__all__ = [
    "DEFAULT_SYSTEM",
    "MARKERS",
    "MalformedReply",
    "Piece",
    "read_calls",
    "render_answer",
    "render_prompt",
    "text_of",
]

MARKERS = (
    "[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>",
    "<|im_middle|>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
    "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
    "<think>", "</think>", "[UNK]", "[PAD]",
)  # fmt: skip
"""K2's control tokens, in the order of their ids there."""

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."

_SECTION = re.compile(
    r"(?P<text>.*?)<\|tool_calls_section_begin\|>(?P<calls>.+)<\|tool_calls_section_end\|>", re.S
)
_CALL = re.compile(
    r"<\|tool_call_begin\|>functions\.(?P<name>[^\s<]+):(?P<index>\d+)"
    r"<\|tool_call_argument_begin\|>(?P<arguments>.*?)<\|tool_call_end\|>",
    re.S,
)


@dataclass(frozen=True)
class Piece:
    """A marker, or text between markers."""

    text: str
    is_marker: bool = False


class MalformedReply(ValueError):
    """The model's text is not in Kimi's grammar; the message says where."""


def text_of(pieces: Iterable[Piece]) -> str:
    """The pieces as one string, for people and for tests."""
    return "".join(piece.text for piece in pieces)


def render_prompt(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> list[Piece]:
    """The prompt of a chat: tools, messages, and the mark after which the assistant speaks.

    Args:
        messages: as in a chat request: ``role`` and ``content``, ``tool_calls`` of an assistant,
            ``tool_call_id`` of a tool. A missing system message becomes the model's own.
        tools: as in a chat request; keys are put in one order, so that a client's habits do not
            change the prompt.

    Raises:
        ConfigError: a role is unknown, or a part of a content is no text.
    """
    pieces: list[Piece] = []
    if tools:
        declared = json.dumps(
            [_ordered(tool) for tool in tools], separators=(",", ":"), ensure_ascii=False
        )
        pieces += _block("system", "tool_declare", [Piece(declared)])
    if not messages or messages[0].get("role") != "system":
        pieces += _block("system", "system", [Piece(DEFAULT_SYSTEM)])
    for index, message in enumerate(messages):
        pieces += _message(message, f"messages[{index}]")
    return [*pieces, _mark("im_assistant"), Piece("assistant"), _mark("im_middle")]


def render_answer(task: Task, *, first_index: int = 0) -> list[Piece]:
    """What the assistant should say to ``task``: its calls or its text, then ``<|im_end|>``."""
    if not task.calls:
        return [Piece(task.text), _mark("im_end")]
    numbered = [
        (f"functions.{call.name}:{index}", json.dumps(call.arguments, ensure_ascii=False))
        for index, call in enumerate(task.calls, first_index)
    ]
    return [*_call_section(numbered), _mark("im_end")]


def read_calls(reply: str) -> tuple[str, tuple[Call, ...]]:
    """The text and the calls of a reply (without its ``<|im_end|>``).

    Strict on purpose: this is the judge of the model, not the tamer of its replies.

    Raises:
        MalformedReply: anything but plain text, or text followed by one whole section.
    """
    if "<|" not in reply:
        return reply, ()
    section = _SECTION.fullmatch(reply)
    if section is None or "<|" in section["text"]:
        raise MalformedReply("markers that form no section")
    calls: list[Call] = []
    end = 0
    for match in _CALL.finditer(section["calls"]):
        if match.start() != end:
            raise MalformedReply(f"text between calls at {end}")
        if int(match["index"]) != len(calls):
            raise MalformedReply(f"call {len(calls)} is numbered {match['index']}")
        calls.append(Call(match["name"], _object(match["arguments"])))
        end = match.end()
    if end != len(section["calls"]) or not calls:
        raise MalformedReply(f"no call at {end}")
    return section["text"], tuple(calls)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise MalformedReply(f"arguments are no JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedReply("arguments are no object")
    return value


def _mark(name: str) -> Piece:
    return Piece(f"<|{name}|>", is_marker=True)


def _block(kind: str, name: str, content: list[Piece]) -> list[Piece]:
    return [_mark(f"im_{kind}"), Piece(name), _mark("im_middle"), *content, _mark("im_end")]


def _message(message: Mapping[str, Any], path: str) -> list[Piece]:
    role = message.get("role")
    content = _content(message.get("content"), path)
    match role:
        case "system" | "user":
            return _block(role, str(message.get("name") or role), content)
        case "assistant":
            calls = [
                (str(call["id"]), str(call["function"]["arguments"]))
                for call in message.get("tool_calls") or ()
            ]
            section = _call_section(calls) if calls else []
            return _block("assistant", "assistant", [*content, *section])
        case "tool":
            heading = Piece(f"## Return of {message.get('tool_call_id', '')}\n")
            return _block("system", str(message.get("name") or "tool"), [heading, *content])
        case _:
            raise ConfigError(f"{role!r} is no role of a chat", key=f"{path}.role")


def _content(content: Any, path: str) -> list[Piece]:
    match content:
        case None | "":
            return []
        case str():
            return [Piece(content)]
        case [*parts] if all(isinstance(part, Mapping) and "text" in part for part in parts):
            return [Piece("".join(part["text"] for part in parts))]
        case _:
            raise ConfigError("only text can be rendered", key=f"{path}.content")


def _call_section(calls: Iterable[tuple[str, str]]) -> list[Piece]:
    pieces = [_mark("tool_calls_section_begin")]
    for call_id, arguments in calls:
        pieces += [
            _mark("tool_call_begin"),
            Piece(call_id),
            _mark("tool_call_argument_begin"),
            Piece(arguments),
            _mark("tool_call_end"),
        ]
    return [*pieces, _mark("tool_calls_section_end")]


def _ordered(value: Any) -> Any:
    """Known keys of a declaration first and in one order, the others after them as they came."""
    if isinstance(value, Mapping):
        known = ("type", "function", "name", "description", "parameters", "properties", "required")
        keys = sorted(value, key=lambda key: known.index(key) if key in known else len(known))
        is_names = "type" not in value and "function" not in value and "name" not in value
        return {key: _ordered(value[key]) for key in (value if is_names else keys)}
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in value]
    return value
