"""Markers that are talked about: named in a sentence, or shown after all with their teeth drawn."""

import re

from kimiya.taming.grammar import REGION_MARK

_WORDS = re.compile(r"[^\W\d]+[.,;:!?)]*\s+[^\W\d]+")
_ATTEMPT = re.compile(r"functions?[._:]|:\s?\d|[{}]")


def looks_called(header: str, arguments: str | None) -> bool:
    """Whether a region without declared tools is an attempt to call, not a mention."""
    said = (arguments if arguments is not None else header).strip()
    if arguments is None:
        return bool(re.search(r"\{|functions?[._:]\w|:\d", said))
    return said.startswith(("{", '"', "`")) or bool(_ATTEMPT.search(header))


def is_mention(raw: str) -> bool:
    """Whether a marker that opens nothing is named in a sentence."""
    text = REGION_MARK.sub(" ", raw)
    return bool(_WORDS.search(text)) and not _ATTEMPT.search(text)


def neutral(text: str) -> str:
    """Text with its markers made harmless and still readable: ``<|`` becomes ``<¦``.

    >>> neutral("the <|im_end|> token")
    'the <¦im_end¦> token'
    """
    return REGION_MARK.sub(lambda m: f"<¦{m.group()[2:-2]}¦>", text)
