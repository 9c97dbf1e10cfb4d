"""The names somebody may have meant.

``UnknownModel`` and every ``ConfigError`` about a wrong key name them.
"""

from collections.abc import Iterable


def nearest(word: str, names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Up to ``limit`` of ``names`` that look like ``word``, best first; case does not matter.

    A hostile ``word`` costs nothing: only its first 100 characters are looked at.

    >>> nearest("prot", ["host", "port", "workers"])
    ('port', 'host')
    """
    from difflib import get_close_matches  # only mistakes need it; commands start faster without

    by_folded: dict[str, str] = {}
    for name in names:
        by_folded.setdefault(name.casefold(), name)
    found = get_close_matches(word[:100].casefold(), by_folded, n=limit, cutoff=0.5)
    return tuple(by_folded[name] for name in found)
