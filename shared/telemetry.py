"""Spans and log lines: set up once per process. Without an OTLP endpoint spans cost nothing, and what is not sampled little."""

import asyncio
import json
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.settings import Common

_LOG_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

BURST = 50
"""Traces that may begin at once: a page, its previews, and a pool that fills."""
_propagator = TraceContextTextMapPropagator()
_PLAIN = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class _Use:
    """What makes this process's spans."""

    tracer: Tracer | None = None
    begins: Callable[[], bool] = staticmethod(lambda: True)


_current = _Use()


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


def use(tracer: Tracer | None, begins: Callable[[], bool] = lambda: True) -> None:
    """Make spans with this tracer from here on; None: none. `begins`: asked whether a trace that nobody else has begun is to be
    traced."""
    _current.tracer, _current.begins = tracer, begins


class Budget:
    """So many traces a second, more in a burst: a flood is traced in samples, and what people do, whole."""

    def __init__(self, per_s: float, burst: int = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left, self._at = float(burst), clock()

    def __call__(self) -> bool:
        """Whether there is one left, which is taken."""
        now = self._clock()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._per_s), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def carrier() -> str:
    """The current span as a `traceparent`; empty when there is none."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def is_traced() -> bool:
    """Whether there is a current span, sampled or not."""
    return trace.get_current_span().get_span_context().is_valid


def context_of(traceparent: str) -> SpanContext | None:
    """The span that a `traceparent` names; None where it names none."""
    if not traceparent:
        return None
    plain = _PLAIN.fullmatch(traceparent)
    if plain is not None:  # as we write it: there is one for each message, and the propagator takes five times as long
        known = SpanContext(int(plain[1], 16), int(plain[2], 16), True, TraceFlags(int(plain[3], 16)))
        return known if known.is_valid else None
    found = trace.get_current_span(_propagator.extract({"traceparent": traceparent}, Context())).get_span_context()
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
    """A span below `parent`, a `traceparent`; empty: it begins a trace; None: below the current span, if there is one.
    `links`: other spans that it follows from, as `traceparent`. An exception marks it as failed, with a code and no message.
    Its block may end it earlier than itself, where what it goes on with has no end in sight."""
    if _current.tracer is None:
        yield INVALID_SPAN
        return
    above = (
        trace.get_current_span().get_span_context() if parent is None else context_of(parent) or INVALID_SPAN_CONTEXT
    )
    if not (above.trace_flags.sampled if above.is_valid else _current.begins()):
        # Not traced. It is still said so to whoever is asked to do something, or each would begin a trace of its own.
        untraced = NonRecordingSpan(above if above.is_valid else _unsampled())
        token = context.attach(trace.set_span_in_context(untraced))
        try:
            yield untraced
        finally:
            context.detach(token)
        return
    linked = [Link(each) for each in map(context_of, links) if each is not None and each.trace_flags.sampled]
    inside = trace.set_span_in_context(NonRecordingSpan(above), Context())
    current = _current.tracer.start_span(
        name, inside, kind, dict(attributes), linked, record_exception=False, set_status_on_exception=False
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


def _unsampled() -> SpanContext:
    return SpanContext(random.getrandbits(128) or 1, random.getrandbits(64) or 1, is_remote=False)
