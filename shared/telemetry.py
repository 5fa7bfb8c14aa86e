"""OpenTelemetry and logging: set up once per process. Without an OTLP endpoint spans cost next to nothing."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from shared.settings import Common

EXPORT_TIMEOUT_S = 5.0
_LOG_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_tracer = trace.get_tracer("drape")
_meter = metrics.get_meter("drape")

process_duration = _meter.create_histogram(
    "messaging.process.duration",
    unit="s",
    description="Time to decide a command or to react to an event",
    explicit_bucket_boundaries_advisory=[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10],
)
append_conflicts = _meter.create_counter(
    "drape.append.conflicts", unit="{conflict}", description="Appends that another writer was ahead of"
)
duplicate_revisions = _meter.create_counter(
    "drape.fold.duplicate_revisions",
    unit="{event}",
    description="Events ignored because their revision was folded before",
)
pool_reconciled = _meter.create_counter(
    "drape.pool.reconciled",
    unit="{vm}",
    description="What the comparison of the provider's list with the log had to put right, by kind",
)
replay_duration = _meter.create_histogram(
    "drape.replay.duration", unit="s", description="From a replica's start to a state that is live"
)
snapshot_size = _meter.create_histogram(
    "drape.snapshot.size", unit="By", description="A service's state as it was written, before compression"
)
preview_ready_duration = _meter.create_histogram(
    "drape.preview.ready.duration",
    unit="s",
    description="From the request to a preview that answers through the gateway",
    explicit_bucket_boundaries_advisory=[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 120, 300],
)


http_request_duration = _meter.create_histogram(
    "http.server.request.duration",
    unit="s",
    description="Time to answer a request to the API; streams and previews are not in it",
    explicit_bucket_boundaries_advisory=[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10],
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then whatever `extra` gave, and the trace if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _LOG_RECORD_FIELDS})
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = format(span.trace_id, "032x")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(service: str, settings: Common) -> Callable[[], None]:
    """Logging to standard error, and OTLP where an endpoint is set. Gives what flushes and closes it (it blocks)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=settings.drape_log_level.upper(), handlers=[handler], force=True)
    # nats-py reports what it also hands to our callbacks.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    if not settings.otel_exporter_otlp_endpoint:
        return lambda: None
    return _export(service, settings)


def _export(service: str, settings: Common) -> Callable[[], None]:
    # Imported here: it costs 0.3 s that a process without OTLP need not pay.
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create(
        {
            "service.name": f"drape-{service}",
            "service.namespace": "drape",
            "service.instance.id": settings.drape_instance,
        }
    )
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S), schedule_delay_millis=1000)
    )
    trace.set_tracer_provider(tracers)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=EXPORT_TIMEOUT_S), export_interval_millis=10_000)
    meters = MeterProvider(resource=resource, metric_readers=[reader])
    metrics.set_meter_provider(meters)

    def close() -> None:
        tracers.shutdown()
        meters.shutdown(timeout_millis=EXPORT_TIMEOUT_S * 1000)

    return close


def carrier() -> str:
    """The current span as a `traceparent`; empty when there is none."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers.get("traceparent", "")


@contextmanager
def span(
    name: str, kind: SpanKind, traceparent: str, attributes: Mapping[str, str | int | float | bool]
) -> Iterator[Span]:
    """A span that continues the trace which `traceparent` names; an exception marks it as failed."""
    parent = propagate.extract({"traceparent": traceparent}) if traceparent else None
    with _tracer.start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes=dict(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except asyncio.CancelledError:
            raise
        except Exception as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(Status(StatusCode.ERROR, getattr(error, "code", type(error).__name__)))
            raise
