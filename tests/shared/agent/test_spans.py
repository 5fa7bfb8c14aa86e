"""What an agent measures is told once, to the trace that asked for it; and of what it tells only what can be trusted counts."""

import secrets
import time

import pytest
from msgspec.structs import replace
from opentelemetry.trace import StatusCode

from shared import agent_spans
from shared.agent.client import AgentClient, AgentError
from shared.agent.protocol import JobSpec, JobStatus, SpanReport
from shared.agent.spans import ENDED_MAX, Spans

from .world import RunningAgent, contents_of, sync_of

TRACE, OTHER = secrets.token_hex(16), secrets.token_hex(16)


def parent(trace: str = TRACE, flags: str = "01") -> str:
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"


class Asking:
    """A client of the agent whose requests belong to `trace`; keeps the spans that it is given."""

    def __init__(self, agent: RunningAgent, trace: str) -> None:
        self.spans: list[SpanReport] = []
        own = agent.client
        self.client = AgentClient(
            agent.url,
            own._headers["Authorization"].removeprefix("Bearer "),
            own._session,
            trace=lambda: trace,
            on_spans=lambda _, spans: self.spans.extend(spans),
        )


async def test_files_and_jobs_are_measured_below_who_asked(agent: RunningAgent) -> None:
    """With their ends, their codes and numbers; nobody else gets them, and nobody twice."""
    asked = parent()
    asking, other = Asking(agent, asked), Asking(agent, parent(OTHER))
    await asking.client.sync_files(sync_of(1, {"geheim.txt": b"x"}), contents_of({"geheim.txt": b"x"}))
    await asking.client.start_job("install-1", JobSpec(argv=("{python}", "-c", "raise SystemExit(3)")))
    await other.client.wait_job("install-1")
    assert other.spans == []
    await asking.client.wait_job("install-1")
    await asking.client.wait_job("install-1")

    assert [(each.name, each.error) for each in asking.spans] == [("sync files", ""), ("run install", "job_failed")]
    assert {each.parent for each in asking.spans} == {asked}
    assert asking.spans[0].facts == {"written": 1, "deleted": 0, "unchanged": 0}
    assert asking.spans[1].facts == {"exit_code": 3}
    assert all(each.age_s >= 0 and 0 < each.duration_s < 60 for each in asking.spans)
    assert "geheim" not in repr(asking.spans)


@pytest.mark.parametrize("trace", ["", parent(flags="00"), "nonsense-01"], ids=["none", "not sampled", "nonsense"])
async def test_where_nobody_traces_nothing_is_measured(agent: RunningAgent, trace: str) -> None:
    """An answer is what it was before there were spans."""
    asking = Asking(agent, trace)
    result = await asking.client.sync_files(sync_of(1, {"a": b"x"}), contents_of({"a": b"x"}))

    assert (result.spans, asking.spans) == ((), [])


async def test_a_refusal_is_told_with_the_next_answer(agent: RunningAgent) -> None:
    """By its code."""
    asking = Asking(agent, parent(flags="03"))
    with pytest.raises(AgentError, match="content_missing"):
        await asking.client.sync_files(sync_of(1, {"a": b"x"}), contents_of({}))
    await asking.client.sync_files(sync_of(1, {"a": b"x"}), contents_of({"a": b"x"}))

    assert [each.error for each in asking.spans] == ["content_missing", ""]


def test_what_nobody_fetches_gives_way() -> None:
    """A trace that is never asked in again does not fill the VM."""
    spans, asked = Spans(), parent()
    for _ in range(ENDED_MAX + 10):
        spans.begin("sync files", asked).end()

    assert len(spans.take(asked)) == ENDED_MAX
    assert spans.take(asked) == ()


def test_an_older_agent_gives_none() -> None:
    """Its answers lack the field."""
    assert JobStatus(id="j", state="running", started_at=0.0).spans == ()


# --- on the control plane's side ----------------------------------------------------------------------------------

REPORT = SpanReport(
    name="run install", parent=parent(), span_id="00f067aa0ba902b7", age_s=2.0, duration_s=3.0, facts={"exit_code": 0}
)


def taken(*reports: SpanReport, asked: str = parent()) -> list[agent_spans.Measured]:
    found: list[agent_spans.Measured] = []
    agent_spans.export_with(found.extend)
    try:
        agent_spans.take(asked, reports)
    finally:
        agent_spans.export_with(lambda _: None)
    return found


def test_times_are_put_on_our_clock() -> None:
    """By age and duration, whatever the VM's clock says."""
    now_ns = time.time_ns()
    [measured] = taken(REPORT)

    assert abs(measured.end_ns - (now_ns - 2_000_000_000)) < 1_000_000_000
    assert measured.end_ns - measured.start_ns == 3_000_000_000
    assert (f"{measured.context.trace_id:032x}", measured.parent.span_id) == (TRACE, int(REPORT.parent[36:52], 16))
    assert measured.attributes == {"drape.agent.exit_code": 0}
    assert measured.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    "forged",
    [
        replace(REPORT, parent=parent(OTHER)),
        replace(REPORT, parent="x"),
        replace(REPORT, name="whatever it likes"),
        replace(REPORT, span_id="0" * 16),
        replace(REPORT, duration_s=float("nan")),
        replace(REPORT, age_s=-1.0),
        replace(REPORT, duration_s=1e12),
    ],
    ids=["another's trace", "no parent", "a name", "no id", "not a number", "the future", "for ever"],
)
def test_what_cannot_be_is_dropped(forged: SpanReport) -> None:
    """A VM runs what its owner wants: it gets no span into another's trace, and no text into its own."""
    assert taken(forged) == []
    assert len(taken(forged, REPORT)) == 1


def test_only_known_facts_and_codes_get_through() -> None:
    """Others are left out, or `other`."""
    [measured] = taken(replace(REPORT, facts={"secret": 1, "exit_code": 7}, error="Some <b>text</b>"))

    assert measured.attributes == {"drape.agent.exit_code": 7, "error.type": "other"}
    assert measured.status.status_code is StatusCode.ERROR
    assert len(taken(*[REPORT] * 1000)) == agent_spans.REPORTS_MAX
