"""Calls in other dialects: XML tags, JSON envelopes, Kimi K3, DeepSeek's leftovers.

Each reader takes the whole text of one region and gives what it says, or ``None`` where the text is
not exactly of that dialect: half-read calls are worse than none.
"""

import html
import re
from typing import Any, cast

import msgspec

from kimiya.core.messages import JsonValue

Wrapped = tuple[str, str]
"""Name and raw arguments."""
Fielded = tuple[str, str | None, dict[str, str] | None]
"""Name, and either raw JSON arguments or the fields one by one."""

_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "tool_input")
_NAME_KEYS = ("name", "tool", "tool_name", "function_name", "function")
_IGNORED_KEYS = frozenset({"id", "type", "index", "call_id", "tool_call_id"})


def decoded(text: str) -> JsonValue:
    """JSON text as a value; ``None`` where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None


def unwrap(text: str) -> list[Wrapped] | None:
    """The calls a JSON envelope holds; ``None`` where it is just JSON.

    >>> unwrap('{"name": "read", "arguments": {"path": "a"}}')
    [('read', '{"path":"a"}')]
    >>> unwrap('{"name": "Ada", "age": 36}') is None
    True
    """
    value = decoded(text)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if list(fields) == ["tool_calls"] and isinstance(fields["tool_calls"], list):
            value = cast("JsonValue", fields["tool_calls"])
    elements: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    calls = [_envelope(element) for element in elements]
    return [call for call in calls if call] if calls and all(calls) else None


def _envelope(value: JsonValue) -> Wrapped | None:
    if not isinstance(value, dict):
        return None
    fields = {k: v for k, v in cast("dict[str, Any]", value).items() if k not in _IGNORED_KEYS}
    if isinstance(fields.get("function"), dict) and len(fields) == 1:
        return _envelope(fields["function"])
    names = [fields.pop(key) for key in _NAME_KEYS if isinstance(fields.get(key), str)]
    bodies = [fields.pop(key) for key in _ARGUMENT_KEYS if isinstance(fields.get(key), dict | str)]
    if len(names) != 1 or len(bodies) != 1 or fields:
        return None
    body = bodies[0]
    text = body if isinstance(body, str) else msgspec.json.encode(body).decode()
    return names[0], text


# XML --------------------------------------------------------------------------------------------

_INVOKE = re.compile(
    r"<(?:antml:)?invoke\s+name=[\"']([^\"'<>]{1,128})[\"']\s*>(.*?)</(?:antml:)?invoke>", re.S
)
_PARAMETER = re.compile(
    r"<(?:antml:)?parameter\s+name=[\"']([^\"'<>]{1,128})[\"'][^<>]*>(.*?)</(?:antml:)?parameter>",
    re.S,
)
_FUNCTION = re.compile(r"<function=[\"']?([^\"'<>\s]{1,128})[\"']?\s*>(.*?)</function>", re.S)
_NAMED_PARAMETER = re.compile(
    r"<parameter=[\"']?([^\"'<>\s]{1,128})[\"']?\s*>(.*?)</parameter>", re.S
)
_CHILD = re.compile(r"<([A-Za-z_][\w.\-]{0,63})>(.*?)</\1>", re.S)
_WRAPPER = re.compile(
    r"\A<(?P<tag>(?:antml:)?function_calls|tool_calls?|tool_use|function_call)>(?P<body>.*)</(?P=tag)>\Z",
    re.S,
)


def xml_calls(text: str) -> list[Fielded] | None:
    """The calls a closed XML region holds, or ``None`` where any of it cannot be read.

    >>> xml_calls('<function=read>{"path": "a"}</function>')
    [('read', '{"path": "a"}', None)]
    >>> xml_calls('<invoke name="read"><parameter name="path">a</parameter></invoke>')
    [('read', None, {'path': 'a'})]
    """
    text = text.strip()
    wrapped = _WRAPPER.match(text)
    body = wrapped.group("body").strip() if wrapped else text
    for pattern, fields in ((_INVOKE, _PARAMETER), (_FUNCTION, _NAMED_PARAMETER)):
        if pattern.search(body):
            return _tagged(body, pattern, fields)
    if body.startswith(("{", "[")):
        return [(name, arguments, None) for name, arguments in unwrap(body) or []] or None
    return _labelled(body) if wrapped else _named_tag(body)


def _labelled(body: str) -> list[Fielded] | None:
    """``<name>read</name><arguments>{...}</arguments>`` within a wrapper, or a named tag there."""
    _, fields = _inner(body, _CHILD)
    said = {key: value.strip() for key, value in (fields or {}).items()}
    name = said.pop("name", said.pop("tool_name", ""))
    if name and len(said) == 1 and next(iter(said)) in _ARGUMENT_KEYS:
        return [(name, next(iter(said.values())), None)]
    return _named_tag(body)


def _tagged(body: str, calls: re.Pattern[str], fields: re.Pattern[str]) -> list[Fielded] | None:
    if calls.sub("", body).strip():
        return None
    read = [(m.group(1), *_inner(m.group(2), fields)) for m in calls.finditer(body)]
    out: list[Fielded] = []
    for name, arguments, values in read:
        if arguments is None and values is None:
            return None
        out.append((name, arguments, values))
    return out


def _inner(body: str, fields: re.Pattern[str]) -> tuple[str | None, dict[str, str] | None]:
    stripped = body.strip()
    if stripped.startswith("{"):
        return stripped, None
    found = fields.findall(body)
    if fields.sub("", body).strip() or len({name for name, _ in found}) < len(found):
        return None, None
    return None, {name: _value(value) for name, value in found}


def _value(text: str) -> str:
    """A field's text: one line break after the opening and before the closing tag is layout."""
    if text.startswith("\n"):
        text = text[1:]
        text = text[:-1] if text.endswith("\n") else text
    return html.unescape(text) if "&" in text and "<" not in text else text


def _named_tag(body: str) -> list[Fielded] | None:
    """``<read><path>a</path></read>``, and the same within ``<tool_use>``."""
    outer = _CHILD.fullmatch(body)
    if outer is None:
        return None
    name, inner = outer.group(1), outer.group(2)
    arguments, fields = _inner(inner, _CHILD)
    if fields and set(fields) in ({"name", "arguments"}, {"name", "parameters"}, {"name", "input"}):
        rest = next(value for key, value in fields.items() if key != "name")
        return [(fields["name"].strip(), rest.strip(), None)]
    return [(name, arguments, fields)] if arguments is not None or fields is not None else None


# Kimi K3 ----------------------------------------------------------------------------------------

K3_END = re.compile(r"<\|close\|>\s*(?:tools|message)\s*<\|sep\|>")
_K3_CALL = re.compile(
    r"<\|open\|>\s*call\s+tool=\"([^\"]{1,128})\"(?:\s+index=\"\d+\")?\s*<\|sep\|>(.*?)"
    r"<\|close\|>\s*call\s*<\|sep\|>",
    re.S,
)
_K3_ARGUMENT = re.compile(
    r"<\|open\|>\s*argument\s+key=\"([^\"]{1,128})\"(?:\s+type=\"(\w+)\")?\s*<\|sep\|>(.*?)"
    r"<\|close\|>\s*argument\s*<\|sep\|>",
    re.S,
)
_K3_FRAME = re.compile(
    r"<\|(?:open|close)\|>\s*(?:tools|message|response)(?:\s+[\w=\"]+)*\s*<\|sep\|>"
)


def k3_calls(text: str) -> list[tuple[str, dict[str, JsonValue]]] | None:
    """The calls of a K3 tools block, or ``None`` where anything in it is damaged.

    >>> k3_calls('<|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|><|open|>argument '
    ...          'key="n" type="number"<|sep|>5<|close|>argument<|sep|><|close|>call<|sep|>'
    ...          '<|close|>tools<|sep|>')
    [('f', {'n': 5})]
    """
    calls: list[tuple[str, dict[str, JsonValue]]] = []
    if _K3_FRAME.sub("", _K3_CALL.sub("", text)).strip():
        return None
    for call in _K3_CALL.finditer(text):
        inner = call.group(2)
        if _K3_ARGUMENT.sub("", inner).strip():
            return None
        fields: dict[str, JsonValue] = {}
        for argument in _K3_ARGUMENT.finditer(inner):
            key, kind, value = argument.group(1), argument.group(2), argument.group(3)
            if key in fields:
                return None
            read = value if kind in (None, "string") else decoded(value)
            if read is None and value.strip() != "null":
                return None
            fields[key] = read
        calls.append((call.group(1), fields))
    return calls or None


# DeepSeek ---------------------------------------------------------------------------------------

_FENCED_CALL = re.compile(r"\A\s*([^\s`{]{1,128})\s*\n```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.S)


def deepseek(header: str, arguments: str | None) -> tuple[str, str | None]:
    """Header and arguments as Kimi writes them: DeepSeek V3 puts a kind before the name.

    >>> deepseek("function", 'read\\n```json\\n{"path": "a"}\\n```')
    ('read', '{"path": "a"}')
    """
    if header.strip() == "function" and arguments is not None:
        found = _FENCED_CALL.match(arguments)
        if found:
            return found.group(1), found.group(2)
    return header, arguments
