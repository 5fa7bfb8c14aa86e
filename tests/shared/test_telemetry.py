"""Spans, log lines and their way out: bounded, quiet, and harmless where nobody takes them."""

import json
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.trace import SpanKind, StatusCode

from shared import telemetry
from shared.codec import Meta, Recorded
from shared.commands import MaintainPool
from shared.definition import Traced
from shared.errors import Refused
from shared.exporting import ExportHandler, Troubles
from shared.ports import Cause
from shared.tracing import reacting, sending
from tests.observing import linked, span_of, trace_of, tracing

ROOT = Path(__file__).parents[2]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-1] + "0"


# --- spans --------------------------------------------------------------------------------------------------------


def test_an_exception_shows_by_its_code_and_without_its_message() -> None:
    """What it says may be personal."""
    with tracing() as spans, pytest.raises(Refused), telemetry.span("work", SpanKind.INTERNAL, "", {}):
        raise Refused("some_code", "a message with a name in it")
    [span] = spans.all()

    assert span.status.status_code is StatusCode.ERROR
    assert (span.status.description, dict(span.attributes or {})) == ("some_code", {"error.type": "some_code"})
    assert span.events == ()


def test_what_is_not_sampled_makes_no_span_and_says_so_to_others() -> None:
    """Also where there is no more budget: whoever is asked for something must not begin a trace of its own."""
    with tracing() as spans:
        with telemetry.span("work", SpanKind.INTERNAL, UNSAMPLED, {}):
            assert telemetry.carrier() == UNSAMPLED
            with telemetry.span("inside", SpanKind.INTERNAL, None, {}) as inside:
                assert not inside.is_recording()
        telemetry.use(telemetry._current.tracer, lambda: False)
        with telemetry.span("root", SpanKind.INTERNAL, "", {}):
            assert telemetry.carrier().endswith("-00")
        with telemetry.span("child", SpanKind.INTERNAL, PARENT, {}):
            assert telemetry.carrier().startswith(PARENT[:35])

    assert [each.name for each in spans.all()] == ["child"]


def test_without_an_endpoint_there_is_nothing() -> None:
    """Neither a span nor a trace to carry."""
    with telemetry.span("work", SpanKind.INTERNAL, PARENT, {}) as span:
        assert not span.is_recording()
        assert telemetry.carrier() == ""


@pytest.mark.parametrize(
    ("traceparent", "names"),
    [
        (PARENT, PARENT),
        (UNSAMPLED, UNSAMPLED),
        ("cc" + PARENT[2:] + "-what-a-later-version-adds", PARENT),
        ("", None),
        ("00-" + "0" * 32 + PARENT[35:], None),
        (PARENT[:36] + "0" * 16 + PARENT[52:], None),
        (PARENT.upper(), None),
        (PARENT + "-more", None),
        ("ff" + PARENT[2:], None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(traceparent: str, names: str | None) -> None:
    """Whatever names no span counts as none."""
    found = telemetry.context_of(traceparent)
    told = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found is not None else None

    assert told == names


def test_a_flood_is_traced_in_samples() -> None:
    """So many at once, then so many a second."""
    now = [0.0]
    budget = telemetry.Budget(5.0, 10, lambda: now[0])
    at_once = sum(budget() for _ in range(1000))
    now[0] += 2.0
    later = sum(budget() for _ in range(1000))
    now[0] += 1e6
    after_a_rest = sum(budget() for _ in range(1000))

    assert (at_once, later, after_a_rest) == (10, 10, 10)


def test_a_span_may_end_before_its_block() -> None:
    """What follows is still below it."""
    with tracing() as spans, telemetry.span("early", SpanKind.CONSUMER, "", {}) as early:
        early.end()
        with telemetry.span("later", SpanKind.INTERNAL, None, {}):
            pass

    first, second = spans.all()
    assert (first.name, second.name) == ("early", "later")
    assert second.parent is not None
    assert second.parent.span_id == span_of(first)


@pytest.mark.parametrize(("after_s", "is_child"), [(599.0, True), (601.0, False)])
def test_what_comes_late_links_to_its_cause(after_s: float, is_child: bool) -> None:
    """A reaction to an old event, and a command whose cause is old."""
    meta = Meta(id="i", at=1000.0, rev=1, correlation_id="c", causation_id="x", actor="a", traceparent=PARENT)
    recorded = Recorded(seq=1, key="pool.vm.x", type="VmBooted", meta=meta, event=None)
    with tracing() as spans:
        with reacting("pool", recorded, Traced(PARENT), 3, 1000.0 + after_s):
            pass
        with sending(MaintainPool(), Cause(traceparent=PARENT, at=1000.0), 1000.0 + after_s):
            pass

    for span in spans.all():
        assert (f"{trace_of(span):032x}" == PARENT[3:35]) is is_child
        assert linked([span]) == (set() if is_child else {int(PARENT[3:35], 16)})
    assert dict(spans.all()[0].attributes or {})["drape.deliveries"] == 3


# --- log lines ----------------------------------------------------------------------------------------------------


def _logger(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("drape.test")
    logger.addHandler(handler)
    return logger


def test_lines_have_trace_and_span() -> None:
    """In the JSON on standard error, and as OTLP has them."""
    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)  # type: ignore[no-untyped-call]
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    handler = ExportHandler(provider, "WARNING", telemetry._LOG_RECORD_FIELDS)
    with tracing() as spans, telemetry.span("work", SpanKind.INTERNAL, "", {}):
        _logger(handler).info("too_low")
        _logger(handler).warning("happened", extra={"seq": 7, "shape": ("a", 1), "long": "x" * 10_000})
        line = json.loads(telemetry.JsonFormatter().format(logging.makeLogRecord({"msg": "happened"})))
    [span] = spans.all()
    [sent] = exporter.get_finished_logs()
    provider.shutdown()

    assert (line["trace_id"], line["span_id"]) == (f"{trace_of(span):032x}", f"{span_of(span):016x}")
    record = sent.log_record
    assert (record.body, record.severity_text, record.trace_id, record.span_id) == (
        "happened",
        "WARNING",
        trace_of(span),
        span_of(span),
    )
    attributes = dict(record.attributes or {})
    assert (attributes["seq"], attributes["shape"], len(str(attributes["long"]))) == (7, "('a', 1)", 2000)


def test_exporters_are_not_exported_and_complain_once_in_a_while() -> None:
    """Or a collector that is away would fill the logs with itself."""
    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)  # type: ignore[no-untyped-call]
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    handler = ExportHandler(provider, "WARNING", telemetry._LOG_RECORD_FIELDS)
    now = [0.0]
    troubles = Troubles(lambda: now[0])
    record = logging.makeLogRecord({"name": "opentelemetry.exporter.otlp", "levelno": logging.ERROR, "msg": "away"})
    handler.emit(record)
    told = [troubles.filter(record) for _ in range(3)]
    now[0] = 601.0
    told.append(troubles.filter(record))
    told.append(troubles.filter(logging.makeLogRecord({"name": "drape.runtime"})))
    provider.shutdown()

    assert exporter.get_finished_logs() == ()
    assert told == [True, False, False, True, True]


def test_a_collector_that_is_away_costs_one_line() -> None:
    """The work goes on, the end comes soon, and what could not be sent is lost."""
    code = """
        import logging, time
        from opentelemetry.trace import SpanKind
        from shared import telemetry
        from shared.settings import Common
        close = telemetry.set_up("pool", Common(otel_exporter_otlp_endpoint="http://127.0.0.1:9", drape_instance="7"))
        for _ in range(20):
            with telemetry.span("work", SpanKind.INTERNAL, "", {}):
                logging.getLogger("drape.test").warning("at_work")
        close()
        print("done")
    """
    env = {"PATH": "", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [json.loads(line) for line in ran.stderr.splitlines()]

    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
    assert sum(each["message"] == "at_work" for each in lines) == 20
    assert len({each["trace_id"] for each in lines if each["message"] == "at_work"}) == 20
    troubles = [each for each in lines if each["message"] != "at_work"]
    assert len(troubles) == 1, troubles
    assert troubles[0]["logger"].startswith("opentelemetry")
