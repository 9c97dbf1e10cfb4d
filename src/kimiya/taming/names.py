"""Which declared tool a header means: prefix, index, case and separators drift, the name does not.

A header is what stands where a name should: ``functions.read:3``, ``Functions_WriteFile:3``,
``functions-read-files-5-w53hn`` or an id of the client's that the model copied from its history.
``resolve`` gives every declared tool it may mean. It never guesses: a word that is no declared name
in any of these forms is *undeclared*; only what cannot be a name at all (a uuid, ``call_1jDJ``) is
*opaque*, and then the arguments must tell.
"""

import re
from functools import lru_cache

from msgspec import Struct

from kimiya.taming.grammar import LOOSE_CONTROL

_PREFIX = re.compile(
    r"\A(?:functions?|tools?|tool_calls?|func|default_api)\s*[._:/\-\s]\s*(?=\S)", re.IGNORECASE
)
_GLUED_PREFIX = re.compile(r"\Afunctions?(?=[A-Za-z_])", re.IGNORECASE)
_COLON_INDEX = re.compile(r"\s*:\s*\d{1,6}\Z")
_INDEX = re.compile(r"\s*[:._#\-\s]\s*\d{1,6}\Z")
_GLUED_INDEX = re.compile(r"\d{1,6}\Z")
_RANDOM_SUFFIX = re.compile(r"[-_.:]\d{1,6}[-_][A-Za-z0-9]{4,40}\Z")
_TRAILING_NAME = re.compile(r"[-_.:]\d{1,6}[-_.:](?=[A-Za-z])")

_UUID = re.compile(r"\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_FOREIGN_ID = re.compile(
    r"\A(?:tool)?(?:toolu_|tooluse_|chatcmpl-tool-|tool_use_id|fc_[0-9a-f]{8}|ctc_|call_\w*\d|call-\w*\d)"
)
_SHORT_ID = re.compile(r"\A[A-Za-z]{1,3}[-_]?\d{1,6}\Z")
_RANDOM = re.compile(r"\A(?=[^_.\-]*\d)(?=[^_.\-]*[A-Za-z])[A-Za-z0-9]{10,}\Z")
_NO_NAME_SIGN = re.compile(r"[@#%&!?*+~^|\\]")


class Resolution(Struct, frozen=True):
    """What a header may mean."""

    names: tuple[str, ...] = ()
    """Declared tools it may name, nothing preferred."""
    is_exact: bool = False
    """It is a declared name to the letter."""
    is_opaque: bool = False
    """It is an id of someone's, no name at all."""
    hints: frozenset[str] = frozenset()
    """Declared names that stand inside an opaque id: it may mean no other."""


def plain(name: str) -> str:
    """A name without case and separators.

    >>> plain("Write-File") == plain("write_file") == plain("writeFile")
    True
    """
    return "".join(char for char in name.lower() if char.isalnum())


class Names:
    """The declared names of one request, ready to be recognised."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.declared = frozenset(names)
        self.declared_in_order = names
        self._by_plain: dict[str, tuple[str, ...]] = {}
        for name in names:
            self._by_plain[plain(name)] = (*self._by_plain.get(plain(name), ()), name)

    def resolve(self, header: str) -> Resolution:
        """Every declared tool a header may mean.

        >>> names = Names(("read", "write_file"))
        >>> names.resolve("read").is_exact, names.resolve("Functions_WriteFile:3").names
        (True, ('write_file',))
        >>> names.resolve("read_v2").names, names.resolve("call_1jDJ9").is_opaque
        ((), True)
        """
        if header in self.declared:
            return Resolution((header,), is_exact=True)
        said = _without_control(header)
        if said in self.declared:
            return Resolution((said,))
        if said is None:
            return Resolution()
        found = self._canonical(said) or self._drifted(said)
        if found:
            return Resolution(found)
        bare = _PREFIX.sub("", said)
        if is_opaque(bare) or is_opaque(_COLON_INDEX.sub("", bare)):
            return Resolution(is_opaque=True, hints=self._hints(said))
        return Resolution()

    def _canonical(self, said: str) -> tuple[str, ...]:
        """``functions.NAME:IDX`` and its parts, to the letter."""
        bare = _PREFIX.sub("", said)
        for form in (bare, _COLON_INDEX.sub("", bare), _COLON_INDEX.sub("", said)):
            if form in self.declared:
                return (form,)
        return ()

    def _drifted(self, said: str) -> tuple[str, ...]:
        bare = _PREFIX.sub("", said)
        forms = [said, bare, _COLON_INDEX.sub("", bare), _INDEX.sub("", bare)]
        is_prefixed = bare != said
        glued = _GLUED_PREFIX.sub("", said)
        if glued != said:
            is_prefixed = True
            forms += [glued, _INDEX.sub("", glued), _GLUED_INDEX.sub("", glued)]
        if is_prefixed:
            forms += [_GLUED_INDEX.sub("", bare), _RANDOM_SUFFIX.sub("", bare)]
        stripped = _COLON_INDEX.sub("", bare)
        forms += [stripped[stripped.rfind(sign) + 1 :] for sign in "./" if sign in stripped]
        if mimic := _TRAILING_NAME.search(bare):
            tail = bare[mimic.end() :]
            if tail in self.declared:
                forms.append(tail)
        found: list[str] = []
        for form in forms:
            key = plain(form)
            found += [name for name in self._by_plain.get(key, ()) if key and name not in found]
        return tuple(found)

    def _hints(self, said: str) -> frozenset[str]:
        words = re.split(r"[-_.:/\s]", said)
        return frozenset(n for n in self.declared if n in words or (n in said and len(n) > 4))


def _without_control(header: str) -> str | None:
    """The header without control tokens; ``None`` where two names stand between them."""
    pieces = [piece.strip(" \t\r\n\"'`") for piece in LOOSE_CONTROL.split(header)]
    said = [piece for piece in pieces if piece]
    if len(said) > 1 and all(_COLON_INDEX.match(piece) is None for piece in said[1:]):
        return None
    return said[0] if said else ""


def is_opaque(said: str) -> bool:
    """Whether this is somebody's id and cannot be meant as a name.

    >>> [is_opaque(s) for s in ("7", "kc7", "weird@id", "read_files_v2", "execute", "deploy2")]
    [True, True, True, False, False, False]
    """
    if not said or said.isdigit() or _UUID.match(said) or _FOREIGN_ID.match(said):
        return True
    if _SHORT_ID.match(said) or _RANDOM.match(said):
        return True
    return bool(_NO_NAME_SIGN.search(said)) and not said.endswith(")")


@lru_cache(maxsize=512)
def names_of(names: tuple[str, ...]) -> Names:
    """The recogniser of a set of names, built once."""
    return Names(names)
