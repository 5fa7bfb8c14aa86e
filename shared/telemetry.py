"""OpenTelemetry and logging: set up once per process. Without an OTLP endpoint spans cost next to nothing."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.settings import Common

_LOG_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_tracer = trace.get_tracer("drape")
_propagator = TraceContextTextMapPropagator()


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
            line["span_id"] = format(span.span_id, "016x")
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
    from shared.exporting import export  # it costs 0.3 s that a process without OTLP need not pay

    return export(service, settings, _LOG_RECORD_FIELDS)


def carrier() -> str:
    """The current span as a `traceparent`; empty when there is none."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers.get("traceparent", "")


def context_of(traceparent: str) -> SpanContext | None:
    """The span that a `traceparent` names; None where it names none."""
    if not traceparent:
        return None
    found = trace.get_current_span(_propagator.extract({"traceparent": traceparent})).get_span_context()
    return found if found.is_valid else None


@contextmanager
def apart() -> Iterator[None]:
    """Nothing in the block belongs to a trace that is under way here."""
    token = context.attach(Context())
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(
    name: str,
    kind: SpanKind,
    parent: str | None,
    attributes: Mapping[str, str | int | float | bool],
    links: Iterable[str] = (),
) -> Iterator[Span]:
    """A span below `parent`, a `traceparent`; empty: it begins a trace; None: below the current span. `links`: other spans
    that it follows from, as `traceparent`. An exception marks it as failed, with a code and no message. Its block may end
    it earlier than itself, where what it goes on with has no end in sight."""
    above = None if parent is None else _propagator.extract({"traceparent": parent}, Context())
    linked = [Link(each) for each in map(context_of, links) if each is not None]
    current = _tracer.start_span(
        name, above, kind, dict(attributes), linked, record_exception=False, set_status_on_exception=False
    )
    with trace.use_span(current, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        try:
            yield current
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if current.is_recording():
                code = str(getattr(error, "code", type(error).__name__))
                current.set_attribute("error.type", code)
                current.set_status(Status(StatusCode.ERROR, code))
            raise
        finally:
            if current.is_recording():
                current.end()
