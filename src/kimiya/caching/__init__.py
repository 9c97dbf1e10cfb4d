"""Caching: where breakpoints go, what keeps a host from caching, and which replica remembers.

The seam the pipeline stands on:

* ``Planner.plan`` before a call is sent, ``Planner.observe`` after it has ended well;
* ``SingleFlight`` for calls that would write the same prefix at once;
* ``affinity_key`` and ``Pins`` for hosts of several replicas.

Nothing here does I/O or knows the time.
"""

from kimiya.caching.affinity import Pins, affinity_key, ranked
from kimiya.caching.history import MemoryHistory, PrefixHistory
from kimiya.caching.planner import Planned, Planner, PrefixKeys
from kimiya.caching.single_flight import Go, SingleFlight, WaitFor

__all__ = [
    "Go",
    "MemoryHistory",
    "Pins",
    "Planned",
    "Planner",
    "PrefixHistory",
    "PrefixKeys",
    "SingleFlight",
    "WaitFor",
    "affinity_key",
    "ranked",
]
