"""Calls in the host's own field, read as candidates: names come in pieces, or swallow calls."""

from collections.abc import Sequence

from kimiya.core.exchange import Defect, Repair
from kimiya.taming.arguments import decoded
from kimiya.taming.calls import Toolbox
from kimiya.taming.findings import Candidate, Finding, excerpt
from kimiya.taming.grammar import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, CONTROL
from kimiya.taming.names import is_opaque
from kimiya.taming.scanner import Scanner


def joined_name(pieces: Sequence[str], declared: frozenset[str]) -> str:
    """A name from its deltas: fragments are joined, repetitions are not.

    >>> joined_name(["re", "ad"], frozenset({"read"})), joined_name(["read", "read"], frozenset())
    ('read', 'read')
    """
    whole = "".join(pieces)
    if whole in declared or not pieces:
        return whole
    if all(piece == pieces[0] for piece in pieces):
        return pieces[0]
    last = pieces[-1]
    is_growing = all(last.startswith(piece) for piece in pieces)
    return last if is_growing or (last in declared and whole not in declared) else whole


def candidates_of(
    pieces: Sequence[str], call_id: str, arguments: str, toolbox: Toolbox
) -> list[Finding]:
    """What one native call holds: usually one candidate, sometimes several glued together."""
    name = joined_name(pieces, toolbox.names.declared)
    if "{" in name:
        return _from_name(name, call_id, arguments, toolbox)
    if CONTROL.search(arguments) and not _is_json(arguments):
        text = f"{CALL_BEGIN}{name}{ARGUMENT_BEGIN}{arguments}"
        found = _scanned(text, toolbox, "arguments")
        return [_with_id(one, call_id) for one in found] if _calls(found) == 1 else found
    header = name
    if name not in toolbox.names.declared and is_opaque(name.strip()):
        resolved = toolbox.names.resolve(call_id) if call_id else None
        if resolved is not None and resolved.names:
            header = call_id
    raw = excerpt(f"{name}({arguments})")
    return [Candidate(header, arguments, "name", "native", call_id=call_id, raw=raw)]


def _from_name(name: str, call_id: str, arguments: str, toolbox: Toolbox) -> list[Finding]:
    if arguments.strip() not in ("", "{}"):
        return [Defect("conflicting_calls", "arguments in the name and beside it", excerpt(name))]
    end = "" if CALL_END in name else CALL_END if _is_json(name[name.find("{") :]) else ""
    found = _scanned(CALL_BEGIN + name + end, toolbox, "name")
    if not any(isinstance(one, Candidate | Defect) for one in found):
        found.append(Defect("truncated_call", "a name holds a call that breaks off", excerpt(name)))
    good = bool(call_id) and "{" not in call_id and _calls(found) == 1
    return [_with_id(one, call_id if good else "") for one in found]


def _scanned(text: str, toolbox: Toolbox, channel: str) -> list[Finding]:
    scanner = Scanner(toolbox.lexicon, "name" if channel == "name" else "arguments")
    found: list[Finding] = []
    for one in [*scanner.feed(text), *scanner.close()]:
        if not isinstance(one, str):
            found.append(one)
        elif one.strip():
            found.append(Repair("stray_text", f"dropped {excerpt(one.strip())!r}", "name"))
    return found


def _calls(found: list[Finding]) -> int:
    return sum(isinstance(one, Candidate) for one in found)


def _with_id(one: Finding, call_id: str) -> Finding:
    if not isinstance(one, Candidate):
        return one
    return Candidate(
        one.header, one.arguments, one.channel, "native_glued", one.fields, one.is_closed,
        call_id=call_id, raw=one.raw,
    )  # fmt: skip


def _is_json(text: str) -> bool:
    try:
        decoded(text)
    except ValueError:
        return False
    return True
