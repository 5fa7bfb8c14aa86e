"""Traces, metrics and logs on their way out, by OTLP over HTTP. Loaded only where an endpoint is set.

Nothing waits for a collector: queues are bounded and lose what does not fit, the exporters have threads of their own, and one
that does not answer is logged once in a while. What the SDK reads of the environment (sampler, headers, compression, limits,
resource attributes) counts; our own defaults stand behind it.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence

from opentelemetry import metrics
from opentelemetry._logs import LogRecord as ExportedRecord
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shared import agent_spans, tallies, telemetry
from shared.settings import Common

DEFAULTS = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
    "OTEL_BSP_SCHEDULE_DELAY": "1000",
    "OTEL_BLRP_SCHEDULE_DELAY": "1000",
    "OTEL_METRIC_EXPORT_INTERVAL": "10000",
}
"""Sooner than the SDK's own: who has waited for a preview looks at its trace at once. Milliseconds, the first in seconds."""
CLOSE_TIMEOUT_MS = 5_000
TEXT_CHARS_MAX = 2_000
TROUBLES = ("opentelemetry", "urllib3", "requests")
"""Loggers of the exporters themselves: exporting what they say would never end."""
TROUBLE_EVERY_S = 600.0
_SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


def export(service: str, settings: Common, own_fields: frozenset[str]) -> Callable[[], None]:
    """Send all of this process's telemetry from here on. Gives what flushes and closes it, which blocks. `own_fields`: of a
    `logging.LogRecord` that nothing was added to."""
    for name, value in {**DEFAULTS, "OTEL_EXPORTER_OTLP_ENDPOINT": settings.otel_exporter_otlp_endpoint}.items():
        os.environ.setdefault(name, value)
    resource = _resource(f"drape-{service}", settings)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    spans = BatchSpanProcessor(OTLPSpanExporter())
    tracers.add_span_processor(spans)
    # Whoever sets the SDK's own sampler decides; ours bounds what a flood costs.
    own = "OTEL_TRACES_SAMPLER" in os.environ or not settings.drape_otlp_traces_per_s
    telemetry.use(
        tracers.get_tracer("drape"), (lambda: True) if own else telemetry.Budget(settings.drape_otlp_traces_per_s)
    )
    agent_spans.export_with(_Foreign(spans, _resource("drape-agent", settings)))
    tallies.count()
    reader = _Reader(OTLPMetricExporter())
    meters = MeterProvider(resource=resource, metric_readers=[reader], shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    handler = ExportHandler(loggers, settings.drape_otlp_log_level.upper(), own_fields)
    root = logging.getLogger()
    root.addHandler(handler)
    for each in root.handlers:
        each.addFilter(Troubles())

    def close() -> None:
        root.removeHandler(handler)
        telemetry.use(None)
        tracers.shutdown()
        loggers.shutdown()
        meters.shutdown(timeout_millis=CLOSE_TIMEOUT_MS)

    return close


def _resource(name: str, settings: Common) -> Resource:
    return Resource.create(
        {"service.name": name, "service.namespace": "drape", "service.instance.id": settings.drape_instance}
    )


class _Reader(PeriodicExportingMetricReader):
    """Also tells what we have counted ourselves."""

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> None:
        super()._receive_metrics(tallies.joined(metrics_data), timeout_millis, **kwargs)


class _Foreign:
    """Hands in spans that were measured elsewhere, under that place's name."""

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        self._processor = processor
        self._resource = resource

    def __call__(self, spans: Sequence[agent_spans.Measured]) -> None:
        for each in spans:
            self._processor.on_end(
                ReadableSpan(
                    name=each.name,
                    context=each.context,
                    parent=each.parent,
                    resource=self._resource,
                    attributes=each.attributes,
                    kind=each.kind,
                    status=each.status,
                    start_time=each.start_ns,
                    end_time=each.end_ns,
                )
            )


class ExportHandler(logging.Handler):
    """Log lines as OTLP has them: the message as body, what `extra` gave as attributes, trace and span of who logs."""

    def __init__(self, provider: LoggerProvider, level: str, own_fields: frozenset[str]) -> None:
        super().__init__(level)
        self._provider = provider
        self._own_fields = own_fields

    def emit(self, record: logging.LogRecord) -> None:
        """Into the queue, unless the exporters say it themselves."""
        if record.name.startswith(TROUBLES):
            return
        attributes = {key: _value(value) for key, value in vars(record).items() if key not in self._own_fields}
        if record.exc_info and record.exc_info[0] is not None:
            attributes["exception.type"] = record.exc_info[0].__name__
            attributes["exception.stacktrace"] = _value(logging.Formatter().formatException(record.exc_info))
        level = next((each for each in sorted(_SEVERITIES, reverse=True) if record.levelno >= each), logging.DEBUG)
        self._provider.get_logger(record.name).emit(
            ExportedRecord(
                timestamp=int(record.created * 1e9),
                context=telemetry.context_here(),
                severity_text=record.levelname,
                severity_number=_SEVERITIES[level],
                body=record.getMessage()[:TEXT_CHARS_MAX],
                attributes=attributes,
            )
        )


def _value(value: object) -> str | bool | int | float:
    if isinstance(value, bool | int | float):
        return value
    return str(value)[:TEXT_CHARS_MAX]


class Troubles(logging.Filter):
    """What the exporters say of a collector that does not answer: once, then not again for ten minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """False for what was said lately."""
        if not record.name.startswith(TROUBLES):
            return True
        if self._clock() - self._told_at < TROUBLE_EVERY_S:
            return False
        self._told_at = self._clock()
        return True
