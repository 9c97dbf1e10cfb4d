"""How tool calls look as text: Kimi's own grammar, and the ones it has been seen to slip into.

Only written here, never read: what reads them is taming, and a host that damages its output must
not share code with what mends it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from kimiya.core.messages import ToolCall

SECTION_BEGIN = "<|tool_calls_section_begin|>"
SECTION_END = "<|tool_calls_section_end|>"
CALL_BEGIN = "<|tool_call_begin|>"
CALL_END = "<|tool_call_end|>"
ARGUMENTS = "<|tool_call_argument_begin|>"


def kimi_call(call: ToolCall, *, name: str | None = None, gap: str = "") -> str:
    """One call in Kimi's grammar; ``name`` stands where the id should."""
    pieces = (CALL_BEGIN, name or call.call_id, ARGUMENTS, call.arguments, CALL_END)
    return gap.join(pieces)


def kimi_section(calls: Sequence[ToolCall], *, gap: str = "") -> str:
    """Calls in Kimi's grammar, as the model writes them; ``gap`` between the marks."""
    written = (kimi_call(call, name=kimi_id(call, n), gap=gap) for n, call in enumerate(calls))
    return gap.join((SECTION_BEGIN, *written, SECTION_END))


def kimi_id(call: ToolCall, number: int = 0) -> str:
    """The id as the model writes it itself, whatever the host would make of it."""
    is_canonical = call.call_id.startswith("functions.")
    return call.call_id if is_canonical else f"functions.{call.name}:{number}"


def function_tag(call: ToolCall) -> str:
    """``<function=NAME>{…}</function>``."""
    return f"<function={call.name}>{call.arguments}</function>"


def invoke_tag(call: ToolCall) -> str:
    """Claude's older XML, a parameter an element."""
    parameters = "".join(
        f'<parameter name="{name}">{value if isinstance(value, str) else _json(value)}</parameter>'
        for name, value in _object(call.arguments).items()
    )
    return f'<function_calls><invoke name="{call.name}">{parameters}</invoke></function_calls>'


def json_call(call: ToolCall) -> str:
    """A JSON object with name and arguments, the arguments encoded twice."""
    return _json({"name": call.name, "arguments": call.arguments})


def fenced_call(call: ToolCall) -> str:
    """The same in a code fence, the arguments as an object."""
    return f"```json\n{_json({'name': call.name, 'arguments': _object(call.arguments)})}\n```"


def k3_call(call: ToolCall) -> str:
    """The grammar of Kimi K3."""
    return f'<|open|>call tool="{call.name}" index="1"<|sep|>{call.arguments}<|close|>call<|sep|>'


def deepseek_call(call: ToolCall) -> str:
    """DeepSeek's markers, with their full-width bars."""
    return (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{call.name}\n"
        f"```json\n{call.arguments}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    )


def python_literal(arguments: str) -> str:
    """Arguments as Python would print them."""
    return repr(_object(arguments))


def _object(arguments: str) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return {"input": arguments}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {"input": value}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
