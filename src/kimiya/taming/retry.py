"""What is sent when a turn is asked again: the same prefix, and less freedom to break it again.

The broken turn never enters the history, so the host's cached prefix stays. Where the card offers
constrained decoding, the second attempt is held to the declared schemas: ``structural_tag`` and
``guided_json`` hosts (vLLM, SGLang) take the tools' grammar, others a forced tool choice where they
accept one. Where no tool was declared and the model called all the same, tools are switched off.
"""

from typing import Any

import msgspec

from kimiya.catalog.card import ModelCard
from kimiya.core.exchange import AutoChoice, NoChoice, Request, RequiredChoice, ToolSpec, Verdict
from kimiya.taming.policy import ruling

replace = msgspec.structs.replace

_OPENAI = "openai_chat"


def asked_again(request: Request, verdict: Verdict, card: ModelCard) -> Request:
    """The request of the next attempt at the same target.

    Args:
        request: As it was sent, tamed and adapted.
        verdict: Of the attempt that failed.
        card: The target's.
    """
    _, rule, _ = ruling(verdict.defects)
    hint = rule.hint if rule is not None else "plain"
    if hint == "no_tools":
        return replace(request, tool_choice=NoChoice()) if request.tools else request
    if hint != "constrain" or not request.tools:
        return request
    if card.grammar == "structural_tag":
        return _constrained(request, {"response_format": _structural_tag(request.tools)})
    if card.grammar == "guided_json":
        return _constrained(request, {"guided_json": _any_call(request.tools)})
    is_free = request.tool_choice is None or isinstance(request.tool_choice, AutoChoice)
    if is_free and card.forced_tool_choice == "yes":
        return replace(request, tool_choice=RequiredChoice())
    return request


def _constrained(request: Request, fields: dict[str, Any]) -> Request:
    """The request with fields only an OpenAI-speaking host reads."""
    if request.dialect not in ("", _OPENAI):
        return replace(request, dialect=_OPENAI, extras=fields)
    return replace(request, dialect=_OPENAI, extras={**request.extras, **fields})


def _parameters(tool: ToolSpec) -> Any:
    return tool.parameters if tool.parameters is not None else {"type": "object"}


def _structural_tag(tools: tuple[ToolSpec, ...]) -> dict[str, Any]:
    """Kimi's own call grammar as a structural tag: free text, and calls held to their schemas."""
    tags = [
        {
            "begin": f"<|tool_call_begin|>functions.{tool.name}:",
            "content": {
                "type": "sequence",
                "elements": [
                    {"type": "regex", "pattern": r"\d+"},
                    {"type": "const_string", "value": "<|tool_call_argument_begin|>"},
                    {"type": "json_schema", "json_schema": _parameters(tool)},
                ],
            },
            "end": "<|tool_call_end|>",
        }
        for tool in tools
    ]
    triggered = {"type": "triggered_tags", "triggers": ["<|tool_call_begin|>"], "tags": tags}
    return {"type": "structural_tag", "format": triggered}


def _any_call(tools: tuple[ToolSpec, ...]) -> dict[str, Any]:
    """A JSON Schema of one call of any declared tool, as a JSON envelope the engine unwraps."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": _parameters(tool)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in tools
        ]
    }
