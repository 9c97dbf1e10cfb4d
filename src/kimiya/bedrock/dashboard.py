"""A CloudWatch dashboard of what Kimiya counts beside what Bedrock counts.

Two sources that ought to agree: where they do not, something called Bedrock past Kimiya. Ours are
in our own namespace (``metrics``), Bedrock's in ``AWS/Bedrock`` by ``ModelId``. Without a list of
models every graph searches for those that were called, so that a new model needs no new dashboard.

Source: "Dashboard Body Structure and Syntax", CloudWatch API reference; metric names from the
Bedrock user guide's page on monitoring (2026-11-22).
"""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from kimiya.bedrock.metrics import NAMESPACE, EmfFormat
from kimiya.errors import ConfigError

JsonObject: TypeAlias = dict[str, Any]
BEDROCK = "AWS/Bedrock"
_MODEL = re.compile(r"[A-Za-z0-9.:/_-]{1,1011}")
"""Nothing that would end a quotation in a search expression."""
_WIDTH, _HEIGHT = 8, 6
"""Three graphs to a row of the 24 columns there are."""
_PERIOD_S = 300


class _Graph(Struct, frozen=True):
    """One graph: the same metrics of every model, from one source."""

    title: str
    source: str
    """``ours`` or ``bedrock``."""
    metrics: tuple[str, ...]
    stat: str = "Sum"


_GRAPHS = (
    _Graph("Dollars", "ours", ("CostUSD",)),
    _Graph("Dollars saved", "ours", ("SavedByCachingUSD", "SavedByRoutingUSD")),
    _Graph("Calls, failures, retries", "ours", ("Calls", "Failures", "Retries")),
    _Graph("Cache tokens (Kimiya)", "ours", ("CacheReadTokens", "CacheWriteTokens")),
    _Graph(
        "Cache tokens (Bedrock)",
        "bedrock",
        ("CacheReadInputTokens", "CacheWriteInputTokens"),
    ),
    _Graph("Repairs and unpriced calls", "ours", ("Repairs", "UnpricedCalls")),
    _Graph("Tokens in and out (Kimiya)", "ours", ("FreshInputTokens", "OutputTokens")),
    _Graph("Tokens in and out (Bedrock)", "bedrock", ("InputTokenCount", "OutputTokenCount")),
    _Graph("Quota used (tokens a minute)", "bedrock", ("EstimatedTPMQuotaUsage",), "Maximum"),
    _Graph("Time to first token, p90 (Kimiya)", "ours", ("TimeToFirstToken",), "p90"),
    _Graph("Time to first token, p90 (Bedrock)", "bedrock", ("TimeToFirstToken",), "p90"),
    _Graph(
        "Bedrock: invocations and what went wrong",
        "bedrock",
        (
            "Invocations",
            "InvocationThrottles",
            "InvocationClientErrors",
            "InvocationServerErrors",
        ),
    ),
)


def dashboard(region: str, *, namespace: str = NAMESPACE, models: Sequence[str] = ()) -> JsonObject:
    """The body of a dashboard, as PutDashboard takes it.

    Args:
        region: Where the metrics are.
        namespace: Of ours.
        models: Ids to show; empty shows every one that was called.

    Raises:
        ConfigError: A namespace CloudWatch does not take, or what is no model id.
    """
    EmfFormat(namespace)
    for model in models:
        if not _MODEL.fullmatch(model):
            raise ConfigError(
                f"{model[:80]!r} is no model id",
                key="--model",
                remedy="Write an id or ARN as AWS lists it",
            )
    widgets = [_head(), _hit_rate(region, namespace)]
    for index, graph in enumerate(_GRAPHS):
        widgets.append(
            {
                "type": "metric",
                "x": index % 3 * _WIDTH,
                "y": 8 + index // 3 * _HEIGHT,
                "width": _WIDTH,
                "height": _HEIGHT,
                "properties": {
                    **_frame(graph.title, region),
                    "stat": graph.stat,
                    "metrics": _metrics(graph, namespace, models),
                },
            }
        )
    return {"widgets": widgets}


def _head() -> JsonObject:
    text = (
        "## Kimiya and Bedrock\n"
        "Written by `kimiya bedrock dashboard --apply`, which writes over changes made here."
    )
    return {
        "type": "text",
        "x": 0,
        "y": 0,
        "width": 24,
        "height": 2,
        "properties": {"markdown": text},
    }


def _hit_rate(region: str, namespace: str) -> JsonObject:
    """The one figure to watch: how much of the input came out of a cache."""
    ours = [namespace, "CacheReadTokens", {"id": "r", "visible": False}]
    input_ = [namespace, "InputTokens", {"id": "i", "visible": False}]
    fresh = _search(BEDROCK, ("ModelId",), "InputTokenCount", "Sum")
    reads = _search(BEDROCK, ("ModelId",), "CacheReadInputTokens", "Sum")
    writes = _search(BEDROCK, ("ModelId",), "CacheWriteInputTokens", "Sum")
    share = "100*SUM({r})/(SUM({f})+SUM({r})+SUM({w}))".format(f="bf", r="br", w="bw")
    return {
        "type": "metric",
        "x": 0,
        "y": 2,
        "width": 24,
        "height": _HEIGHT,
        "properties": {
            **_frame("Input read from a cache, %", region),
            "stat": "Sum",
            "yAxis": {"left": {"min": 0, "max": 100}},
            "metrics": [
                ours,
                input_,
                [{"expression": "100*r/i", "label": "Kimiya", "id": "k"}],
                [{"expression": fresh, "id": "bf", "visible": False}],
                [{"expression": reads, "id": "br", "visible": False}],
                [{"expression": writes, "id": "bw", "visible": False}],
                [{"expression": share, "label": "Bedrock", "id": "b"}],
            ],
        },
    }


def _frame(title: str, region: str) -> JsonObject:
    return {"title": title, "region": region, "view": "timeSeries", "period": _PERIOD_S}


def _metrics(graph: _Graph, namespace: str, models: Sequence[str]) -> list[list[Any]]:
    is_ours = graph.source == "ours"
    space = namespace if is_ours else BEDROCK
    names = ("Provider", "Model") if is_ours else ("ModelId",)
    if not models:
        found = [
            {"expression": _search(space, names, metric, graph.stat), "id": f"e{at}"}
            for at, metric in enumerate(graph.metrics)
        ]
        return [[expression] for expression in found]
    if not is_ours:
        return [[space, metric, "ModelId", model] for model in models for metric in graph.metrics]
    # The provider's name is the user's own, so ours are searched for by model.
    return [
        [
            {
                "expression": _search(space, names, metric, graph.stat, f' Model="{model}"'),
                "id": f"e{at}m{number}",
            }
        ]
        for number, model in enumerate(models)
        for at, metric in enumerate(graph.metrics)
    ]


def _search(space: str, dimensions: Sequence[str], metric: str, stat: str, more: str = "") -> str:
    """A search expression over every value of some dimensions."""
    schema = ",".join((space if space == BEDROCK else f'"{space}"', *dimensions))
    return f"SEARCH('{{{schema}}} MetricName=\"{metric}\"{more}', '{stat}', {_PERIOD_S})"
