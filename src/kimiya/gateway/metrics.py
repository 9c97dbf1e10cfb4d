"""What the gateway counts, on a page Prometheus reads.

Labels come from closed sets (fronts, configured targets, codes), never from what a client wrote.
"""

import asyncio
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kimiya.pipeline import Report


def _count_tasks() -> float:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0  # the page is being read outside any loop


M = TypeVar("M", Counter, Histogram)

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one gateway process."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._children: dict[tuple[object, ...], Any] = {}
        registry = self._registry
        self.requests = Counter(
            "kimiya_requests",
            "Requests answered, by front, target and status.",
            ("front", "target", "status"),
            registry=registry,
        )
        self.in_flight = Gauge("kimiya_in_flight", "Requests being answered.", registry=registry)
        tasks = Gauge("kimiya_tasks", "Tasks of the event loop.", registry=registry)
        tasks.set_function(_count_tasks)
        self.duration = Histogram(
            "kimiya_request_duration_seconds",
            "Seconds from the request to its last byte.",
            ("front",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_event = Histogram(
            "kimiya_first_event_seconds",
            "Seconds from the request to its first content.",
            ("front",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "kimiya_tokens", "Tokens, by target and class.", ("target", "kind"), registry=registry
        )
        self.cost = Counter(
            "kimiya_cost_usd", "US dollars of priced calls.", ("target",), registry=registry
        )
        self.unpriced = Counter(
            "kimiya_unpriced_calls", "Calls without a known price.", ("target",), registry=registry
        )
        self.verdicts = Counter(
            "kimiya_verdicts", "Turns by verdict.", ("target", "verdict"), registry=registry
        )
        self.repairs = Counter("kimiya_repairs", "Repairs by code.", ("code",), registry=registry)
        self.adjustments = Counter(
            "kimiya_adjustments", "Adjustments by code.", ("code",), registry=registry
        )
        self.attempts = Counter(
            "kimiya_attempts",
            "Attempts at a target, by error (`none` answered).",
            ("target", "error"),
            registry=registry,
        )

    def observe(self, front: str, status: int, report: Report | None) -> None:
        """Count one answered request."""
        target = report.target if report is not None and report.target else "none"
        self._child(self.requests, front, target, str(status)).inc()
        if report is None:
            return
        self._child(self.duration, front).observe(report.duration_s)
        if report.first_event_s is not None:
            self._child(self.first_event, front).observe(report.first_event_s)
        for attempt in report.attempts:
            self._child(self.attempts, attempt.target, attempt.error or "none").inc()
        if report.target:
            self._child(self.verdicts, target, report.verdict.outcome).inc()
        for repair in report.verdict.repairs:
            self._child(self.repairs, repair.code).inc()
        for adjustment in report.adjustments:
            self._child(self.adjustments, adjustment.code).inc()
        self._observe_usage(target, report)

    def _observe_usage(self, target: str, report: Report) -> None:
        usage = report.usage
        if usage is None:
            return
        self._child(self.tokens, target, "input").inc(usage.input_tokens)
        self._child(self.tokens, target, "output").inc(usage.output_tokens)
        if usage.cache_read_tokens:
            self._child(self.tokens, target, "cache_read").inc(usage.cache_read_tokens)
        if usage.cache_write_tokens:
            self._child(self.tokens, target, "cache_write").inc(usage.cache_write_tokens)
        if report.cost_usd is None:
            self._child(self.unpriced, target).inc()
        else:
            self._child(self.cost, target).inc(float(report.cost_usd))

    def _child(self, metric: M, *labels: str) -> M:
        """A metric under its labels; looked up once, because the library's look-up takes a lock."""
        key = (id(metric), *labels)
        if key not in self._children:
            self._children[key] = metric.labels(*labels)
        child: M = self._children[key]
        return child

    def page(self) -> bytes:
        """The page, in Prometheus' text format."""
        return generate_latest(self._registry)
