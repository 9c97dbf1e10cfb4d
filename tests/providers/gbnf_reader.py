"""GBNF read for tests: says which texts a grammar accepts, and makes such texts by seeded chance.

Independent of ``providers.gbnf``, which only writes grammars.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r'\s*(?:(?P<literal>"(?:\\.|[^"\\])*")|(?P<klass>\[(?:\\.|[^\]\\])*\])|(?P<name>[a-z][a-z0-9-]*)'
    r"|(?P<repeat>\{\d+(?:,\d*)?\})|(?P<mark>[()|?*+.]))"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_DEEP = 12
"""Below this depth the cheapest alternative is taken, so that recursive grammars end."""
_ALPHABET = 'aZ09 é日{}[]:,"\\/-_.<>t'


@dataclass(frozen=True)
class Node:
    """``kind`` is literal, klass, name, seq, alt or repeat."""

    kind: str
    text: str = ""
    children: tuple["Node", ...] = ()
    low: int = 0
    high: int | None = 0


class Gbnf:
    """One grammar."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Node] = {}
        for line in text.split("\n"):
            name, _, body = line.partition("::=")
            self.rules[name.strip()] = _Parser(body).whole()
        self._costs = self._fixed_costs()

    def accepts(self, text: str) -> bool:
        """Whether the whole of ``text`` can be derived from ``root``."""
        return any(end == len(text) for end in self._ends(self.rules["root"], text, 0))

    def sample(self, chance: random.Random) -> str:
        """A text the grammar accepts."""
        return self._make(self.rules["root"], chance, 0)

    def _ends(self, node: Node, text: str, start: int) -> Iterator[int]:
        match node.kind:
            case "literal":
                if text.startswith(node.text, start):
                    yield start + len(node.text)
            case "klass":
                if start < len(text) and re.fullmatch(node.text, text[start], re.S):
                    yield start + 1
            case "name":
                yield from self._ends(self.rules[node.text], text, start)
            case "alt":
                for child in node.children:
                    yield from self._ends(child, text, start)
            case "seq":
                yield from self._sequence(node.children, text, start)
            case _:
                yield from self._repeats(node, text, start)

    def _sequence(self, children: tuple[Node, ...], text: str, start: int) -> Iterator[int]:
        if not children:
            yield start
            return
        for middle in self._ends(children[0], text, start):
            yield from self._sequence(children[1:], text, middle)

    def _repeats(self, node: Node, text: str, start: int) -> Iterator[int]:
        reached, seen = {start}, {start} if node.low == 0 else set[int]()
        count = 0
        while reached and (node.high is None or count < node.high):
            reached = {e for at in reached for e in self._ends(node.children[0], text, at)}
            count += 1
            if count >= node.low:
                fresh = reached - seen
                if not fresh and node.high is None:
                    break
                seen |= reached
        yield from sorted(seen, reverse=True)

    def _make(self, node: Node, chance: random.Random, depth: int) -> str:
        match node.kind:
            case "literal":
                return node.text
            case "klass":
                fitting = [
                    c for c in _ALPHABET + "bcdefhknoruE" if re.fullmatch(node.text, c, re.S)
                ]
                fitting += [c for c in "012345678" if re.fullmatch(node.text, c)]
                return chance.choice(fitting)
            case "name":
                return self._make(self.rules[node.text], chance, depth + 1)
            case "alt":
                children = node.children
                if depth > _DEEP:
                    children = (min(children, key=self._cost),)
                return self._make(chance.choice(children), chance, depth)
            case "seq":
                return "".join(self._make(child, chance, depth) for child in node.children)
            case _:
                high = node.low + 3 if node.high is None else min(node.high, node.low + 3)
                count = node.low if depth > _DEEP else chance.randint(node.low, high)
                return "".join(self._make(node.children[0], chance, depth) for _ in range(count))

    def _fixed_costs(self) -> dict[str, float]:
        self._costs = dict.fromkeys(self.rules, float("inf"))
        for _ in self.rules:
            fresh = {name: 1 + self._cost(node) for name, node in self.rules.items()}
            if fresh == self._costs:
                break
            self._costs = fresh
        return self._costs

    def _cost(self, node: Node) -> float:
        match node.kind:
            case "literal" | "klass":
                return 0
            case "name":
                return self._costs[node.text]
            case "alt":
                return min(self._cost(child) for child in node.children)
            case "seq":
                return sum(self._cost(child) for child in node.children)
            case _:
                return self._cost(node.children[0]) if node.low else 0


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            assert found is not None, f"not GBNF: {text[at:]!r}"
            self._tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()
        self._at = 0

    def whole(self) -> Node:
        node = self._alternatives()
        assert self._at == len(self._tokens), f"left over: {self._tokens[self._at :]}"
        return node

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _alternatives(self) -> Node:
        choices = [self._sequence()]
        while self._peek() == ("mark", "|"):
            self._at += 1
            choices.append(self._sequence())
        return choices[0] if len(choices) == 1 else Node("alt", children=tuple(choices))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._peek()[0] != "end" and self._peek() not in (("mark", "|"), ("mark", ")")):
            items.append(self._repeated(self._item()))
        return Node("seq", children=tuple(items))

    def _item(self) -> Node:
        kind, text = self._peek()
        self._at += 1
        if kind == "literal":
            return Node("literal", _unescaped(text[1:-1]))
        if kind in ("klass", "name"):
            return Node(kind, text)
        if (kind, text) == ("mark", "."):
            return Node("klass", ".")
        assert (kind, text) == ("mark", "("), f"unexpected {text!r}"
        inner = self._alternatives()
        assert self._peek() == ("mark", ")")
        self._at += 1
        return inner

    def _repeated(self, item: Node) -> Node:
        kind, text = self._peek()
        if kind == "repeat":
            low, comma, high = text[1:-1].partition(",")
            self._at += 1
            most = int(low) if not comma else int(high) if high else None
            return Node("repeat", children=(item,), low=int(low), high=most)
        bounds = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        if kind != "mark" or text not in bounds:
            return item
        self._at += 1
        least, most = bounds[text]
        return Node("repeat", children=(item,), low=least, high=most)


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if code[0] == "x" else _ESCAPES.get(code, code)

    return re.sub(r"\\(x[0-9A-Fa-f]{2}|.)", one, text)
