"""OpenTelemetry spans in the GenAI vocabulary, where the extra is installed and an exporter is set.

One span a call, made when it has ended, so that nothing is added to the path of its events. Names
follow the GenAI semantic conventions (opentelemetry.io, read 2026-11).
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kimiya.errors import ConfigError
from kimiya.pipeline import Report

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Telemetry:
    """Records finished calls as spans."""

    def __init__(self, tracer: "Tracer", *, on_shutdown: Callable[[], None] = lambda: None) -> None:
        self._tracer = tracer
        self._on_shutdown = on_shutdown

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> "Telemetry | None":
        """Spans to the collector the standard variables name; ``None`` where they name none.

        Raises:
            ConfigError: A collector is named and the extra ``kimiya[otel]`` is not installed.
        """
        variables = os.environ if env is None else env
        if not any(variables.get(name) for name in _ENDPOINTS):
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ConfigError(
                "a collector is named, but OpenTelemetry is not installed",
                key=next(name for name in _ENDPOINTS if variables.get(name)),
                remedy="pip install 'kimiya[otel]', or unset the variable",
            ) from error
        provider = TracerProvider(resource=Resource.create({"service.name": "kimiya"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider.get_tracer("kimiya"), on_shutdown=provider.shutdown)

    def shutdown(self) -> None:
        """Send what is left."""
        self._on_shutdown()

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
