"""Spans and log lines: set up once per process. Without an OTLP endpoint spans cost nothing, and what is not sampled little."""

import asyncio
import json
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from functools import lru_cache

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
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
PARENTS_MAX = 1024
"""What was read of a `traceparent` is remembered: each is read several times here."""
Attributes = Mapping[str, str | int | float | bool]
_propagator = TraceContextTextMapPropagator()
_PLAIN = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_NOTHING = nullcontext(INVALID_SPAN)


class _Here:
    """A span, or what stands for one that is not sampled. Kept beside OpenTelemetry's own context, in which looking it up,
    attaching and detaching takes several times as long; that one is set for what is sampled."""

    __slots__ = ("_context", "sampled", "traceparent")

    def __init__(self, traceparent: str, *, sampled: bool, context: SpanContext | None = None) -> None:
        self.traceparent = traceparent
        self.sampled = sampled
        self._context = context

    @property
    def context(self) -> SpanContext:
        """The same for OpenTelemetry; made when it is wanted, for most are not sampled and only passed on."""
        if self._context is None:
            _, trace_id, span_id, flags = self.traceparent.split("-")
            self._context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
        return self._context

    @staticmethod
    def of(span: SpanContext) -> "_Here":
        """As the SDK has it."""
        told = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
        return _Here(told, sampled=span.trace_flags.sampled, context=span)


_here: ContextVar[_Here | None] = ContextVar("drape_span", default=None)


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
        here = _here.get()
        if here is not None:
            _, line["trace_id"], line["span_id"], _ = here.traceparent.split("-")
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
    here = _here.get()
    return here.traceparent if here is not None else ""


def is_traced() -> bool:
    """Whether there is a current span, sampled or not."""
    return _here.get() is not None


def sampled_here() -> SpanContext | None:
    """The current span, where it is sampled."""
    here = _here.get()
    return here.context if here is not None and here.sampled else None


def context_here() -> Context:
    """The current span as OpenTelemetry wants it, sampled or not."""
    here = _here.get()
    return trace.set_span_in_context(NonRecordingSpan(here.context), Context()) if here is not None else Context()


def context_of(traceparent: str) -> SpanContext | None:
    """The span that a `traceparent` names; None where it names none."""
    found = _named(traceparent)
    return found.context if found is not None else None


@lru_cache(PARENTS_MAX)
def _named(traceparent: str) -> _Here | None:
    if not traceparent:
        return None
    plain = _PLAIN.fullmatch(traceparent)
    if plain is not None:  # as we write it: there is one for each message, and the propagator takes many times as long
        return _Here(traceparent, sampled=bool(int(plain[1], 16) & TraceFlags.SAMPLED))
    inside = _propagator.extract({"traceparent": traceparent}, Context())
    found = trace.get_current_span(inside).get_span_context()
    return _Here.of(found) if found.is_valid else None


@contextmanager
def apart() -> Iterator[None]:
    """Nothing in the block belongs to a trace that is under way here."""
    token, outer = _here.set(None), context.attach(Context())
    try:
        yield
    finally:
        context.detach(outer)
        _here.reset(token)


def span(
    name: str,
    kind: SpanKind,
    parent: str | None,
    attributes: Attributes | Callable[[], Attributes],
    links: Iterable[str] = (),
) -> AbstractContextManager[Span]:
    """A span below `parent`, a `traceparent`; empty: it begins a trace; None: below the current span, if there is one.
    `attributes`: a callable is asked only where the span is sampled. `links`: other spans that it follows from, as
    `traceparent`. An exception marks it as failed, with a code and no message. Its block may end it earlier than itself,
    where what it goes on with has no end in sight."""
    if _current.tracer is None:
        return _NOTHING
    above = _here.get() if parent is None else _named(parent)
    if above is None:
        if not _current.begins():
            return _Unsampled(_unsampled())
    elif not above.sampled:
        return _Unsampled(above)
    return _sampled(_current.tracer, name, kind, above, attributes() if callable(attributes) else attributes, links)


class _Unsampled:
    """A block that is not traced. It is still said so to whoever is asked to do something, or each would begin a trace of its
    own."""

    __slots__ = ("_above", "_token")
    _token: Token[_Here | None]

    def __init__(self, above: _Here) -> None:
        self._above = above

    def __enter__(self) -> Span:
        self._token = _here.set(self._above)
        return INVALID_SPAN

    def __exit__(self, *_: object) -> None:
        _here.reset(self._token)


@contextmanager
def _sampled(
    tracer: Tracer, name: str, kind: SpanKind, above: _Here | None, attributes: Attributes, links: Iterable[str]
) -> Iterator[Span]:
    linked = [Link(each.context) for each in map(_named, links) if each is not None and each.sampled]
    inside = trace.set_span_in_context(NonRecordingSpan(above.context), Context()) if above is not None else Context()
    current = tracer.start_span(
        name, inside, kind, dict(attributes), linked, record_exception=False, set_status_on_exception=False
    )
    token = _here.set(_Here.of(current.get_span_context()))
    try:
        with trace.use_span(current, end_on_exit=False, record_exception=False, set_status_on_exception=False):
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
        _here.reset(token)


def _unsampled() -> _Here:
    return _Here(f"00-{random.getrandbits(128) or 1:032x}-{random.getrandbits(64) or 1:016x}-00", sampled=False)
