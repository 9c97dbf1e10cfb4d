"""The path of one call, and the only place that knows its order.

::

    Request -> taming.prepare -> catalog.adapt -> provider -> Tamer -> events

``Pipeline.stream`` starts a ``Call``: an asynchronous iterator of tame, serial events whose
``report`` says what was done. ``Pipeline.complete`` is the same path folded to a whole reply.
"""

from kimiya.pipeline.call import Call, HoldReasoning
from kimiya.pipeline.pipeline import Pipeline, Router
from kimiya.pipeline.ready import Ready, make_ready
from kimiya.pipeline.report import Attempt, Outcome, Report, TokenCount

__all__ = [
    "Attempt",
    "Call",
    "HoldReasoning",
    "Outcome",
    "Pipeline",
    "Ready",
    "Report",
    "Router",
    "TokenCount",
    "make_ready",
]
