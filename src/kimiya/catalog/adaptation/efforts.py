"""Efforts in their order, and the nearest one a host knows."""

from collections.abc import Sequence
from typing import Final

from kimiya.core.exchange import Effort

_ORDER: Final[tuple[Effort, ...]] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def nearest_effort(wanted: Effort | None, known: Sequence[Effort]) -> Effort | None:
    """The least known effort that is not below the wish; else the greatest.

    >>> nearest_effort("medium", ("low", "high", "max")), nearest_effort("max", ("low", "high"))
    ('high', 'high')
    """
    if wanted is None or wanted == "none" or not known:
        return None
    order = _ORDER.index(wanted)
    for effort in known:
        if _ORDER.index(effort) >= order:
            return effort
    return known[-1]
