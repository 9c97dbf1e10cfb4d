"""GBNF, the grammar llama.cpp holds its tokens to: literals, and rules that stand by themselves.

Everything here is text for the engine; ``schema_grammar`` builds JSON Schemas out of it.
"""

JSON_RULES = {
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" ["\\/bfnrt]',
    "string": r'"\"" char* "\""',
    "natural": r'"0" | [1-9] [0-9]{0,14}',
    "integer": r'"-"? natural',
    "unsigned": r'natural ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "number": r'"-"? unsigned',
    "boolean": r'"true" | "false"',
    "null": r'"null"',
    "array": r'"[" (value (", " value)*)? "]"',
    "object": r'"{" (string ": " value (", " string ": " value)*)? "}"',
    "value": "object | array | string | number | boolean | null",
}
"""JSON without schema. Integers have fifteen digits at most, so that every reader holds them
exactly; the only blanks follow a comma or a colon, for a weak model gets lost in white space."""

_MAX_DIGITS = 15


def literal(text: str) -> str:
    r"""``text`` as a GBNF literal.

    >>> literal('{"a": ')
    '"{\\"a\\": "'
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\x00") + '"'


def unlike(start: str, prefix: str) -> dict[str, str]:
    """Rules for every text that does not begin with ``start``, the empty one included.

    >>> unlike("ab", "text")
    {'text': '([^a] .* | "a" text-1)?', 'text-1': '([^b] .*)?'}
    """
    rules: dict[str, str] = {}
    for place, char in enumerate(start):
        name = prefix if place == 0 else f"{prefix}-{place}"
        last = place == len(start) - 1
        on = "" if last else f" | {literal(char)} {prefix}-{place + 1}"
        rules[name] = f"([^{char}] .*{on})?"
    return rules


def integers(low: int | None, high: int | None) -> str:
    """An expression for the integers from ``low`` to ``high``, both included.

    An open end goes on to fifteen digits. The caller makes sure that ``low <= high``.

    >>> integers(0, 7), integers(-1, 12)
    ('[0-7]', '"-" "1" | [0-9] | "1" [0-2]')
    """
    limit = 10**_MAX_DIGITS - 1
    least = -limit if low is None else low
    most = limit if high is None else high
    below = _naturals(max(1, -most), -least) if least < 0 else []
    above = _naturals(max(0, least), most) if most >= 0 else []
    return " | ".join([f'"-" {digits}' for digits in below] + above)


def _naturals(low: int, high: int) -> list[str]:
    """One expression for each number of digits."""
    found: list[str] = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        least = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        most = min(high, 10**digits - 1)
        found += _same_length(str(least), str(most))
    return found


def _same_length(low: str, high: str) -> list[str]:
    """Expressions for the digit strings from ``low`` to ``high``, all of one length."""
    if not low:
        return [""]
    first, last, rest = low[0], high[0], len(low) - 1
    if first == last:
        return [_joined(f'"{first}"', more) for more in _same_length(low[1:], high[1:])]
    found: list[str] = []
    inner_first, inner_last = int(first), int(last)
    if low[1:] != "0" * rest:
        found += [_joined(f'"{first}"', more) for more in _same_length(low[1:], "9" * rest)]
        inner_first += 1
    topped = high[1:] != "9" * rest
    if topped:
        inner_last -= 1
    if inner_first <= inner_last:
        choice = (
            f'"{inner_first}"' if inner_first == inner_last else f"[{inner_first}-{inner_last}]"
        )
        found.append(_joined(choice, f"[0-9]{{{rest}}}" if rest else ""))
    if topped:
        found += [_joined(f'"{last}"', more) for more in _same_length("0" * rest, high[1:])]
    return found


def _joined(left: str, right: str) -> str:
    return f"{left} {right}" if right else left
