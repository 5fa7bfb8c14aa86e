"""The agents' spans on this side of the wire: checked, put on this machine's clock, and handed to the exporter as `drape-agent`.

A VM runs what its owner wants: of what comes out of it only known names, numbers and the very trace that was asked in get
into anybody's traces.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared.agent.protocol import SpanReport
from shared.telemetry import context_of

KINDS = {
    "sync files": SpanKind.SERVER,
    "clean vm": SpanKind.SERVER,
    "probe dev server": SpanKind.SERVER,
    "run install": SpanKind.INTERNAL,
    "start dev server": SpanKind.INTERNAL,
    "run job": SpanKind.INTERNAL,
}
FACTS = frozenset({"written", "deleted", "unchanged", "exit_code", "status", "bytes"})
REPORTS_MAX = 64
SECONDS_MAX = 86_400.0
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Measured(NamedTuple):
    """One span of an agent, times in nanoseconds since 1970 by our clock."""

    name: str
    context: SpanContext
    parent: SpanContext
    kind: SpanKind
    attributes: Mapping[str, int | float | bool | str]
    status: Status
    start_ns: int
    end_ns: int


Sink = Callable[[Sequence[Measured]], None]
_sinks: list[Sink] = []


def export_with(sink: Sink) -> None:
    """All that is taken goes there, from here on."""
    _sinks[:] = [sink]


def take(asked: str, reports: Sequence[SpanReport]) -> None:
    """What an agent has measured, as it came with the answer to a request in the trace `asked`."""
    context = context_of(asked)
    if context is None:
        return
    now_ns = time.time_ns()
    found = [_measured(each, context, now_ns) for each in reports[:REPORTS_MAX]]
    for sink in _sinks:
        sink([each for each in found if each is not None])


def _measured(report: SpanReport, asked: SpanContext, now_ns: int) -> Measured | None:
    parent = context_of(report.parent)
    if parent is None or parent.trace_id != asked.trace_id or not _SPAN_ID.fullmatch(report.span_id):
        return None
    seconds = (report.age_s, report.duration_s)
    if report.name not in KINDS or not all(0 <= each <= SECONDS_MAX for each in seconds):
        return None
    end_ns = now_ns - int(report.age_s * 1e9)
    attributes: dict[str, int | float | bool | str] = {
        f"drape.agent.{key}": value for key, value in report.facts.items() if key in FACTS
    }
    status = Status()
    if report.error:
        attributes["error.type"] = report.error if _CODE.fullmatch(report.error) else "other"
        status = Status(StatusCode.ERROR, str(attributes["error.type"]))
    return Measured(
        name=report.name,
        context=SpanContext(parent.trace_id, int(report.span_id, 16), False, TraceFlags(TraceFlags.SAMPLED)),
        parent=parent,
        kind=KINDS[report.name],
        attributes=attributes,
        status=status,
        start_ns=end_ns - int(report.duration_s * 1e9),
        end_ns=end_ns,
    )
