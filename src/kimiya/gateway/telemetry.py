"""OpenTelemetry spans in the GenAI vocabulary, where the extra is installed and an exporter is set.

One span a call, made when it has ended, so that nothing is added to the path of its events. Names
follow the GenAI semantic conventions (opentelemetry.io, read 2026-11).
"""

import time
from typing import TYPE_CHECKING

from kimiya.pipeline import Report

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class Telemetry:
    """Records finished calls as spans."""

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer

    @classmethod
    def from_environment(cls) -> "Telemetry | None":
        """Spans to the SDK's configured exporter; ``None`` without the extra ``kimiya[otel]``."""
        try:
            from opentelemetry import trace
        except ImportError:
            return None
        return cls(trace.get_tracer("kimiya"))

    def record(self, front: str, status: int, report: Report) -> None:
        """One call that has ended."""
        end_ns = time.time_ns()
        start_ns = end_ns - int(report.duration_s * 1e9)
        span = self._tracer.start_span(f"chat {report.model}", start_time=start_ns)
        provider, _, model_id = report.target.partition(":")
        attributes: dict[str, str | int | float | bool] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": report.model,
            "gen_ai.response.model": model_id,
            "http.response.status_code": status,
            "kimiya.front": front,
            "kimiya.verdict": report.verdict.outcome,
            "kimiya.attempts": len(report.attempts),
        }
        if report.usage is not None:
            attributes["gen_ai.usage.input_tokens"] = report.usage.input_tokens
            attributes["gen_ai.usage.output_tokens"] = report.usage.output_tokens
        for key, value in attributes.items():
            span.set_attribute(key, value)
        span.end(end_time=end_ns)
