"""What a call's arguments say: exact mends, or a refusal.

A mend is made only where every reader would make the same one: the text has one reading and the
mend names it. Anything else (an open string, a missing value, an unescaped quote) is refused, and
the turn is asked again. Mends change the text, never the decoded values, so numbers keep their
spelling.
"""

import json
import re
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from kimiya.core.messages import JsonValue

Fault = Literal["bad_arguments", "truncated_call"]

_FENCE = re.compile(r"\A```(?:json|JSON)?[ \t]*\n?(.*?)\n?```\Z", re.S)
_SIGN = re.compile(r'["\\{}\[\],\x00-\x1f]|[^\s"\\{}\[\],\x00-\x1f]+')
_IN_STRING = re.compile(r'["\\\x00-\x1f\x7f]')
_ESCAPE = re.compile(r'["\\/bfnrt]|u[0-9a-fA-F]{4}')
_DRIVE = re.compile(r"[A-Za-z]:\\|\\\\[A-Za-z]")
_CONTROL_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_CLOSERS = {"{": "}", "[": "]"}
_MAX_CLOSERS = 4


class Read(Struct, frozen=True):
    """Arguments that could be read."""

    value: dict[str, JsonValue]
    text: str
    """Valid JSON of ``value``, as near to the model's own text as it can be."""
    mends: tuple[str, ...] = ()
    """Codes of what was mended, in order."""
    rest: str = ""
    """What stood after the arguments."""
    is_completed: bool = False
    """Closing brackets were added, though the model never said that the call was complete."""


class Refused(Struct, frozen=True):
    """Arguments that cannot be read in exactly one way."""

    fault: Fault
    detail: str


def decoded(text: str) -> JsonValue:
    """JSON text as a value.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        # Lone surrogates and huge numbers are JSON all the same.
        return _slow(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")


def _slow(text: str) -> JsonValue:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read(raw: str, *, is_closed: bool) -> Read | Refused:
    """Read the raw text of one call's arguments.

    Args:
        raw: The text, as the model wrote it.
        is_closed: The model itself said that the call is complete.

    >>> read('{"a": 1}', is_closed=True).text
    '{"a": 1}'
    >>> read('{"a": "x" ', is_closed=True).text, read('{"a": "x', is_closed=True).fault
    ('{"a": "x"}', 'truncated_call')
    """
    try:
        value = decoded(raw)
    except ValueError:
        return _mended(raw.strip(), is_closed=is_closed)
    if isinstance(value, dict):
        return Read(cast("dict[str, Any]", value), raw)
    if value is None:
        return Read({}, "{}", ("empty_arguments",))
    if isinstance(value, str) and value.strip()[:1] == "{":
        inner = read(value, is_closed=is_closed)
        if isinstance(inner, Read) and not inner.rest:
            mends = ("double_encoded", *inner.mends)
            return Read(inner.value, inner.text, mends, is_completed=inner.is_completed)
        return Refused("bad_arguments", "a JSON text within a JSON text is damaged")
    return Refused("bad_arguments", f"arguments are {type(value).__name__}, not an object")


def _mended(text: str, *, is_closed: bool) -> Read | Refused:
    if not text:
        return Read({}, "{}", ("empty_arguments",))
    fenced = _FENCE.match(text)
    if fenced:
        inner = read(fenced.group(1).strip(), is_closed=True)
        if isinstance(inner, Read):
            return Read(inner.value, inner.text, ("fenced_arguments", *inner.mends), inner.rest)
        return inner
    if text[0] != "{":
        if text[0] == '"':
            return _encoded(text, is_closed=is_closed)
        return Refused("bad_arguments", "arguments do not begin with a brace")
    walk = _Walk(text)
    if walk.fault is not None:
        return Refused(walk.fault, walk.detail)
    mends = list(walk.mends)
    fixed = "".join(walk.out)
    if walk.stack:
        problem = _unclosable(walk, is_closed=is_closed)
        if problem is not None:
            return Refused("truncated_call", problem)
        fixed = fixed.rstrip() + "".join(_CLOSERS[sign] for sign in reversed(walk.stack))
        mends.append("missing_brace")
    try:
        value = decoded(fixed)
    except ValueError as error:
        return Refused("bad_arguments", f"not JSON: {error}")
    if not isinstance(value, dict):
        return Refused("bad_arguments", "arguments are no object")
    found = Read(cast("dict[str, Any]", value), fixed, tuple(mends), text[walk.end :].strip(),
                 is_completed=bool(walk.stack) and not is_closed)  # fmt: skip
    return _followed(found, is_closed=is_closed) if found.rest else found


def _encoded(text: str, *, is_closed: bool) -> Read | Refused:
    """A JSON string that holds the arguments, with something after it."""
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        return Refused("truncated_call", "a JSON text within a JSON text does not end")
    inner = read(value, is_closed=is_closed) if isinstance(value, str) else None
    if not isinstance(inner, Read) or inner.rest:
        return Refused("bad_arguments", "a JSON text within a JSON text is damaged")
    return Read(inner.value, inner.text, ("double_encoded", *inner.mends), text[end:].strip())


def _followed(found: Read, *, is_closed: bool) -> Read | Refused:
    """Arguments with something after them: a repetition, a stray brace, a remark."""
    rest = found.rest
    if rest[0] == "{":
        again = read(rest, is_closed=is_closed)
        if isinstance(again, Refused) or again.rest:
            return Refused("bad_arguments", "two argument objects, the second one damaged")
        if again.value == found.value:
            return Read(found.value, found.text, (*found.mends, "repeated_arguments"))
        if not found.value:
            return Read(again.value, again.text, (*again.mends, "empty_object_before"))
        return Refused("bad_arguments", "two different argument objects")
    if not rest.strip("}] \t\n"):
        return Read(found.value, found.text, (*found.mends, "extra_brace"))
    if rest[0] in '",:0123456789[':
        return Refused("bad_arguments", "the object goes on after its last brace")
    return found


def _unclosable(walk: "_Walk", *, is_closed: bool) -> str | None:
    """Why the open brackets cannot be closed; ``None`` where they can, in one way."""
    if len(walk.stack) > (_MAX_CLOSERS if is_closed else 1):
        return "several brackets are open"
    if walk.last in ('"value"', "}", "]"):
        return None
    if walk.last == "word" and (is_closed or not walk.ends_open):
        return None  # a number may go on behind a cut, but not behind a marker
    return "it stops where a value should come"


class _Walk:
    """One pass over damaged JSON: the same text with its strings made valid, and how it ended."""

    def __init__(self, text: str) -> None:
        self.out: list[str] = []
        self.mends: list[str] = []
        self.stack: list[str] = []
        self.end = len(text)
        self.fault: Fault | None = None
        self.detail = ""
        self.last = ""
        """The last sign: a bracket, ``,``, ``:``, ``"key"``, ``"value"`` or ``word``."""
        self.ends_open = False
        """The text ends in a bare word, which may have been longer."""
        self._text = text
        self._walk()

    def _fail(self, fault: Fault, detail: str) -> None:
        self.fault, self.detail = fault, detail

    def _mend(self, code: str) -> None:
        if code not in self.mends:
            self.mends.append(code)

    def _walk(self) -> None:
        text, at = self._text, 0
        while self.fault is None:
            found = _SIGN.search(text, at)
            if found is None:
                self.out.append(text[at:])
                return
            self.out.append(text[at : found.start()])
            sign, at = found.group(), found.end()
            if sign == '"':
                at = self._string(found.start())
            elif sign in "{[":
                self.stack.append(sign)
                self.out.append(sign)
                self.last = sign
            elif sign in "}]":
                if self._close(sign):
                    self.end = at
                    return
            elif sign == ",":
                self.out.append(sign)
                self.last = ","
            elif sign[0] < " ":
                self.out.append(sign if sign in "\t\n\r" else "")
            elif sign == "\\":
                self._fail("bad_arguments", "a backslash outside a string")
            else:
                self.out.append(sign)
                self.last = ":" if sign[-1] == ":" else "word"
                self.ends_open = at == len(text) and sign not in ("true", "false", "null")

    def _close(self, sign: str) -> bool:
        if not self.stack or _CLOSERS[self.stack[-1]] != sign:
            self._fail("bad_arguments", f"{sign!r} closes nothing")
            return False
        if self.last == ",":
            self._drop_comma()
        self.stack.pop()
        self.out.append(sign)
        self.last = sign
        return not self.stack

    def _drop_comma(self) -> None:
        while self.out and self.out[-1] != ",":
            self.out.pop()
        self.out.pop()
        self._mend("trailing_comma")

    def _string(self, start: int) -> int:
        """Copy one string from its opening quote, mending it; give where it ends."""
        text, at = self._text, start + 1
        pieces: list[str] = []
        invalid = valid = False
        while True:
            found = _IN_STRING.search(text, at)
            if found is None:
                self._fail("truncated_call", "a string does not end")
                return len(text)
            pieces.append(text[at : found.start()])
            sign, at = found.group(), found.end()
            if sign == '"':
                break
            if sign == "\\":
                escape = _ESCAPE.match(text, at)
                if escape is None:
                    if text[at : at + 1] == "'":
                        self._fail("bad_arguments", "an escaped apostrophe has two readings")
                        return len(text)
                    invalid = True
                    pieces.append("\\\\")
                else:
                    valid = valid or escape.group()[0] in "bfnrtu"
                    pieces.append("\\" + escape.group())
                    at = escape.end()
            else:
                self._mend("raw_control_characters")
                pieces.append(_CONTROL_ESCAPES.get(sign, f"\\u{ord(sign):04x}"))
        body = "".join(pieces)
        if invalid:
            self._mend("bad_escape")
            if valid and _DRIVE.match(text, start + 1):
                # A path on Windows has no line breaks: no backslash in it was an escape.
                body = text[start + 1 : at - 1].replace("\\\\", "\\").replace("\\", "\\\\")
        self.out.append(f'"{body}"')
        following = text[at:].lstrip()[:1]
        self.last = '"key"' if following == ":" else '"value"'
        if self.last == '"value"' and following not in ("", ",", "}", "]") and self.stack:
            self._fail("bad_arguments", "an unescaped quote inside a string")
        if self.last == '"value"' and following == "" and self._is_key(start):
            self.last = '"key"'
        return at

    def _is_key(self, start: int) -> bool:
        """Whether the string at ``start`` stands where a key is due."""
        before = self._text[:start].rstrip()[-1:]
        return bool(self.stack) and self.stack[-1] == "{" and before in "{,"
