"""Replies for the laws of taming: soups of everything that opens, closes, quotes or cuts a call."""

import json
from typing import Any

from hypothesis import strategies as st

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }
    for name, properties in {
        "read": {"path": {"type": "string"}},
        "write_file": {"path": {"type": "string"}, "text": {"type": "string"}},
        "count-to": {"n": {"type": "integer"}},
        "mcp__x__find.all": {"queries": {"type": "array", "items": {"type": "string"}}},
        "list_all": {},
    }.items()
]
NAMES = [tool["function"]["name"] for tool in TOOLS]

MARKERS = [
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|im_end|>",
    "<|im_user|>",
    "<|im_assistant|>",
    "<|im_middle|>",
    "<|tooluse_end|>",
    "<|open|>",
    "<|sep|>",
    "<|close|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
]
THINK = ["<think>", "</think>"]
HALVES = [
    "<|tool_calls_sec",
    "<|",
    "<",
    "|>",
    "tion_begin|>",
    "call_begin|>",
    "<|tool_",
    "im_end|>",
]
HEADERS = ["functions.read:0", "read", "functions.", "functions.count-to:12",
           " functions.write_file:1 ",
           "call_9fK2", "read:3", "deploy", "functions.list_all:4", "0", "write_file"]  # fmt: skip
BODIES = ['{"path": "a.txt"}', '{"path": "a", "text": "b"}', '{"n": "5"}', '{"n": 5}', "{}", "{",
          '{"path": "a', '"{\\"path\\": \\"x\\"}"', '{"path": "a"', '{"queries": ["a", "b"]}',
          '{"name": "read", "arguments": {"path": "a"}}', '{"function":', "```json {}```",
          '{"path": "<|tool_call_end|>"}']  # fmt: skip
FOREIGN = ["<function=read>", "</function>", "<function_calls>", "</function_calls>",
           '<invoke name="read">', "</invoke>", '<parameter name="path">', "</parameter>",
           "<tool_call>", "</tool_call>", "<read>", "</read>", "<path>", "</path>",
           "Using tool: read\n", 'call tool="read" index="1"', "tools", "message"]  # fmt: skip
PLAIN = [
    "Hello",
    " ",
    "\n",
    "Now I read it. ",
    "日本語",
    "}",
    "]",
    "1 < 2",
    ":",
    "!",
    "!!!!!!!!",
    "x" * 40,
]
QUOTES = ["`", "```", "\n```\n", '"', "'", "“"]

plain_piece = st.sampled_from(MARKERS + THINK + HALVES + HEADERS + BODIES + FOREIGN + PLAIN)
quoting_piece = st.one_of(plain_piece, st.sampled_from(QUOTES))
whole_call = st.sampled_from(
    [
        f"<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{body}<|tool_call_end|>"
        for n, name in enumerate(NAMES)
        for body in BODIES[:6]
    ]
)


def soup(piece: st.SearchStrategy[str], most: int = 12) -> st.SearchStrategy[str]:
    """A text of random pieces, whole calls among them."""
    return st.lists(st.one_of(piece, whole_call), max_size=most).map("".join)


native_call = st.fixed_dictionaries(
    {
        "index": st.sampled_from([0, 1, None]),
        "id": st.sampled_from(["", "call_1", "functions.read:0", "x y"]),
        "function": st.fixed_dictionaries(
            {
                "name": st.one_of(st.sampled_from([*NAMES, ""]), soup(plain_piece, 4)),
                "arguments": st.one_of(st.sampled_from(BODIES), soup(plain_piece, 4)),
            }
        ),
    }
)


def deltas(piece: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """A reply as OpenAI deltas over all channels."""
    one = st.one_of(
        st.fixed_dictionaries({"content": soup(piece)}),
        st.fixed_dictionaries({"reasoning_content": soup(piece)}),
        st.fixed_dictionaries({"tool_calls": st.lists(native_call, max_size=2)}),
    )
    return st.lists(one, max_size=4)


def lines(piece: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A reply as a corpus line."""
    return st.fixed_dictionaries(
        {
            "id": st.just("generated"),
            "tools": st.sampled_from([TOOLS, TOOLS, TOOLS[:1], []]),
            "deltas": deltas(piece),
            "finish_reason": st.sampled_from(["stop", "tool_calls", "length", None]),
        }
    )


def as_deltas(outcome: Any) -> list[dict[str, Any]]:
    """A tamed reply as the deltas a host would send for it."""
    out: list[dict[str, Any]] = []
    if outcome.reasoning:
        out.append({"reasoning_content": outcome.reasoning})
    if outcome.text:
        out.append({"content": outcome.text})
    for index, call in enumerate(outcome.calls):
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        out.append({"tool_calls": [{"index": index, "id": f"call_{index}", "function": function}]})
    return out
