"""Which fault strikes which request: chance with a seed, or the script's own word.

The draw for a request depends on the seed and on the request's number alone, so the same seed and
the same order of requests give the same faults, whatever the requests say. At most one fault
strikes a request; with rates that sum to less than one the rest stay clean.
"""

import random
from collections.abc import Mapping

from msgspec import Struct

from kimiya.providers.simulated.damage import FORMS, Clean, Damaged

FAMILIES = "ABCDEFGHIJK"
"""Ways the model breaks; see ``damage``."""

OUTAGES = ("429", "5xx", "stall", "cut")
"""Ways the host breaks: too many requests, its own failure, silence, a broken connection."""


class Struck(Struct, frozen=True):
    """A fault that happened."""

    fault: str
    """Name of the outage, or of the form of damage."""
    damaged: Damaged | None = None
    """What is sent instead, where the reply itself is damaged."""


def check_fault(name: str) -> str:
    """The name, if it is one.

    >>> check_fault("B"), check_fault("F.comma"), check_fault("429")
    ('B', 'F.comma', '429')

    Raises:
        ValueError: No fault is called that.
    """
    if name in FORMS or name in OUTAGES or (len(name) == 1 and name in FAMILIES):
        return name
    raise ValueError(f"no fault is called {name!r}")


def chance(seed: int, number: int, purpose: str = "") -> random.Random:
    """The dice of one request; the same for the same seed and number, in every process."""
    return random.Random(f"{seed}:{number}:{purpose}")


def drawn(rates: Mapping[str, float], rng: random.Random) -> str | None:
    """The fault that strikes, or ``None``."""
    draw, reached = rng.random(), 0.0
    for fault, rate in rates.items():
        reached += rate
        if draw < reached:
            return fault
    return None


def strike(fault: str, clean: Clean, rng: random.Random) -> Struck | None:
    """Let a fault befall a reply; ``None`` where none of its forms can befall this one."""
    if fault in OUTAGES:
        return Struck(fault)
    names = [
        name
        for name, form in FORMS.items()
        if fault in (name, name.partition(".")[0]) and form.befalls(clean)
    ]
    if not names:
        return None
    name = rng.choice(names)
    return Struck(name, FORMS[name].damage(clean, rng))
