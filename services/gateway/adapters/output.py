"""Reads what a preview printed: its end, the lines that an error names, and pages from any offset on."""

from typing import Any

import msgspec
from aiohttp import web

from services.gateway import views
from services.gateway.adapters.terminal import plain
from services.gateway.state import Preview
from shared.errors import Invalid
from shared.output import LogBatch, LogLine
from shared.ports import PreviewLogs

Json = dict[str, Any]

FIRST_SPAN = 64
SPAN_GROWTH = 8
BATCHES_READ_MAX = 1000
LINES_READ_MAX = 10_000
"""Lines of one answer, but for the last batch, which is not cut."""
ATTEMPT_CHARS_MAX = 9


class LogFilter(msgspec.Struct, frozen=True):
    """Which lines a reader wants; an empty `steps`, an `attempt` of None: all of them."""

    steps: frozenset[str] = frozenset()
    attempt: int | None = None

    def takes(self, step: str, attempt: int) -> bool:
        """True for a line of this step and attempt."""
        return (not self.steps or step in self.steps) and self.attempt in (None, attempt)

    def __call__(self, line: LogLine) -> bool:
        return self.takes(line.step, line.attempt)


def filter_of(request: web.Request) -> LogFilter:
    """`?step=install,install_retry&attempt=2`. Raises `Invalid` naming what is wrong."""
    steps = frozenset(filter(None, request.query.get("step", "").split(",")))
    unknown = sorted(steps.difference(views.LOG_STEPS))
    if unknown:
        raise Invalid(
            "bad_step", f"No step {unknown[0][:64]!r} prints anything.", f"Steps: {', '.join(views.LOG_STEPS)}."
        )
    attempt = request.query.get("attempt", "")
    if attempt and (not attempt.isdecimal() or len(attempt) > ATTEMPT_CHARS_MAX):
        raise Invalid("bad_attempt", "`attempt` is a whole number, counted from 1.")
    return LogFilter(steps, int(attempt) if attempt else None)


async def page(logs: PreviewLogs, preview: Preview, after: int, wanted: LogFilter) -> Json:
    """The lines after the batch `after`, as many as one answer holds; `next` is where the rest begins. `cut` names
    what is no longer kept."""
    batches = await logs.read(preview.preview_id, after, BATCHES_READ_MAX)
    lines: list[Json] = []
    reached = after
    for batch in batches:
        lines += [views.log_view(line) for line in batch.lines if wanted(line)]
        reached = batch.seq
        if len(lines) >= LINES_READ_MAX:
            break
    cut = await cut_before(logs, preview, after, batches)
    return {"lines": lines, "next": reached, **({"cut": cut} if cut is not None else {})}


async def cut_before(logs: PreviewLogs, preview: Preview, after: int, batches: list[LogBatch]) -> Json | None:
    """What a reader who has read up to `after` can't read any more. `batches`: what was read after it."""
    oldest = batches[:1] if after == 0 else await logs.read(preview.preview_id, 0, 1)
    return views.cut_view(preview, oldest[0] if oldest else None, after)


async def tail_of(logs: PreviewLogs, preview: Preview, lines_max: int) -> tuple[list[LogLine], list[LogLine]]:
    """The last lines of this attempt's output, and those that its error names, which may be further up.

    Those are without a terminal's colours, for they are shown on pages. Reads backwards from the end, further each time,
    so that a long log costs no more than a short one.
    """
    last = await logs.last(preview.preview_id)
    if last is None:
        return [], []
    span = FIRST_SPAN
    while True:
        after = max(0, last.seq - span)
        batches = await logs.read(preview.preview_id, after, span)
        lines = [line for batch in batches for line in batch.lines if line.attempt == preview.attempt]
        evidence = views.evidence_lines(preview, lines)
        wanted = len(set(preview.error.evidence)) if preview.error is not None else 0
        earlier = bool(batches) and batches[0].lines[:1] != () and batches[0].lines[0].attempt < preview.attempt
        if after == 0 or earlier or (len(lines) >= lines_max and len(evidence) >= wanted):
            return lines[-lines_max:], [msgspec.structs.replace(each, text=plain(each.text)) for each in evidence]
        span *= SPAN_GROWTH
