"""The acceptance rule: a call passes when exactly one declared tool fits, and not otherwise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec
from msgspec import Struct

from kimiya.core.exchange import Defect, Repair, ToolSpec
from kimiya.core.messages import JsonValue
from kimiya.core.schema import Schema, compiled
from kimiya.taming.arguments import Read, Refused, read
from kimiya.taming.findings import Candidate, excerpt
from kimiya.taming.grammar import CONTROL, lexicon
from kimiya.taming.names import Resolution, names_of
from kimiya.taming.prose import ProseRule

if TYPE_CHECKING:
    from kimiya.taming.grammar import Lexicon
    from kimiya.taming.names import Names


class Meant(Struct, frozen=True):
    """A call the model meant, as it may be shown."""

    name: str
    arguments: str
    repairs: tuple[Repair, ...] = ()
    call_id: str = ""
    """The id it came with, or ``""``."""
    is_native: bool = False
    """It came in the host's own field, not from text."""
    header: str = ""
    rest: str = ""
    """What stood after an unclosed call's arguments: text of the channel."""
    channel: str = "content"


class Toolbox:
    """The tools of one request: names, schemas, prose rules. Schemas are compiled when needed."""

    def __init__(self, tools: Sequence[ToolSpec], prose: tuple[ProseRule, ...] = ()) -> None:
        self._tools = {tool.name: tool for tool in tools}
        declared = tuple(self._tools)
        self.names: Names = names_of(declared)
        starts = tuple(rule.start for rule in prose if rule.start)
        self.lexicon: Lexicon = lexicon(declared, starts)
        self.prose = tuple(rule for rule in prose if rule.start and rule.tool in self._tools)
        self.json_tools = frozenset(r.tool for r in prose if r.json and r.tool in self._tools)

    def __bool__(self) -> bool:
        return bool(self._tools)

    def schema(self, name: str) -> Schema:
        """The compiled schema of a declared tool."""
        return compiled(self._tools[name].parameters)

    def properties(self) -> frozenset[str]:
        """Every property name any tool declares."""
        return frozenset(key for name in self._tools for key in self.schema(name).properties)

    def fitting(self, value: dict[str, JsonValue]) -> tuple[str, ...]:
        """The tools these keys could be meant for, required ones or not."""
        keys = list(value)
        return tuple(name for name in self._tools if self.schema(name).accepts_keys(keys))

    def settle(self, candidate: Candidate) -> Meant | Defect:
        """Decide what a candidate is."""
        header = candidate.header
        where = "name" if candidate.channel == "name" else candidate.channel
        if not self._tools:
            return Defect("no_tools_declared", "a call, though no tool is declared", header)
        resolution = self.names.resolve(header)
        if not resolution.names and not resolution.is_opaque:
            return Defect("undeclared_tool", f"no declared tool is called {header.strip()!r}"[:200],
                          excerpt(candidate.raw))  # fmt: skip
        found = self._read(candidate)
        if isinstance(found, Refused):
            return Defect(found.fault, found.detail, excerpt(candidate.arguments))
        if CONTROL.search(found.text) or _hidden_control(found):
            return Defect("marker_in_arguments", "a control marker stands inside an argument",
                          excerpt(candidate.arguments))  # fmt: skip
        chosen = self._choose(resolution, found, candidate)
        if isinstance(chosen, Defect):
            return chosen
        name, value, mends = chosen
        repairs = [Repair(code, _SAID.get(code, code), "arguments") for code in mends]
        if name != header and not self._is_usual(candidate, name):
            code = "name_from_arguments" if resolution.is_opaque else "name_mended"
            repairs.insert(0, Repair(code, f"{header.strip()[:80]!r} means {name!r}", where))
        text = found.text if value is found.value else dumped(value)
        return Meant(name, text, tuple(repairs), candidate.call_id, candidate.dialect == "native",
                     header, found.rest, candidate.channel)  # fmt: skip

    @staticmethod
    def _is_usual(candidate: Candidate, name: str) -> bool:
        """Whether the header is just what Kimi's raw form asks for."""
        head, _, index = candidate.header.strip().rpartition(":")
        return candidate.channel in ("content", "reasoning") and (
            head == f"functions.{name}" and index.isdigit()
        )

    def _read(self, candidate: Candidate) -> Read | Refused:
        if candidate.fields is not None:
            return Read(dict(candidate.fields), dumped(candidate.fields))
        is_native = candidate.dialect == "native"
        if not (candidate.is_closed or is_native or candidate.arguments.strip()):
            return Refused("truncated_call", "the reply ends before the arguments")
        return read(candidate.arguments, is_closed=candidate.is_closed)

    def _choose(
        self, resolution: Resolution, found: Read, candidate: Candidate
    ) -> tuple[str, dict[str, JsonValue], list[str]] | Defect:
        """The one tool that fits, with its arguments."""
        raw = excerpt(candidate.raw or candidate.arguments)
        names = resolution.names
        if resolution.is_opaque:
            names = self.fitting(found.value)
            if not found.value or len(names) != 1:
                return Defect("ambiguous_call" if names else "undeclared_tool",
                              f"{candidate.header.strip()[:60]!r} is no name, and the arguments "
                              f"fit {len(names)} tools", raw)  # fmt: skip
            if resolution.hints and names[0] not in resolution.hints:
                return Defect("ambiguous_call", "the id names one tool, the arguments another", raw)
        fits: list[tuple[str, dict[str, JsonValue], list[str]]] = []
        problem = ""
        for name in names:
            mended = self._fit(name, found, candidate)
            if isinstance(mended, str):
                problem = problem or f"{name}: {mended}"
            else:
                fits.append(mended)
        if len(fits) == 1:
            return fits[0]
        if fits:
            return Defect("ambiguous_call", f"may mean {', '.join(names)}"[:200], raw)
        return Defect("invalid_arguments", problem[:200], raw)

    def _fit(
        self, name: str, found: Read, candidate: Candidate
    ) -> tuple[str, dict[str, JsonValue], list[str]] | str:
        schema = self.schema(name)
        mends = list(found.mends)
        value = found.value
        if candidate.dialect == "kimi_k2_header" and schema.properties:
            return "the call has no arguments"
        if found.is_completed and (schema.is_open or set(schema.properties) - set(value)):
            return "cut before its end"
        problem = schema.problem(value)
        if problem is not None:
            better = schema.coerced(value)
            if schema.problem(better) is not None or not isinstance(better, dict):
                return problem
            if candidate.fields is None:
                mends.append("coerced")
            value = cast("dict[str, JsonValue]", better)
        return name, value, mends


def _hidden_control(found: Read) -> bool:
    """Whether a marker stands in the decoded values though not in the text (``\\u003c``)."""
    return "\\u" in found.text and bool(CONTROL.search(dumped(found.value)))


def dumped(value: JsonValue) -> str:
    """A value as compact JSON text."""
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeError, RecursionError, OverflowError, TypeError):
        import json

        return json.dumps(value, separators=(",", ":"))


_SAID: dict[str, str] = {
    "empty_arguments": "no arguments were sent: read as an empty object",
    "fenced_arguments": "took the arguments out of a code fence",
    "double_encoded": "the arguments were JSON within a JSON string",
    "raw_control_characters": "escaped raw line breaks or control characters inside a string",
    "bad_escape": "kept the backslash of an escape JSON does not know",
    "trailing_comma": "dropped a comma before a closing bracket",
    "missing_brace": "closed brackets the model left open at the end",
    "repeated_arguments": "the same object stood there twice",
    "empty_object_before": "dropped an empty object before the arguments",
    "extra_brace": "dropped a closing bracket too many",
    "coerced": "gave a value the type its schema asks for",
}
