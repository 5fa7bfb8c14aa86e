"""`drape bench replay` on a NATS of its own, with few events."""

from deploy.bench import replay
from deploy.doctor.replaying import DEFINITIONS

EVENTS = 1_500


async def test_the_bench_measures_each_service_on_the_log_that_it_made() -> None:
    """The bench itself refuses a start that did not take the snapshot, or came to another state."""
    told: list[str] = []
    figures = await replay.measure(EVENTS, told.append)

    assert [row.service for row in figures.rows] == list(DEFINITIONS)
    assert {row.events for row in figures.rows} == {figures.events} == {EVENTS}
    assert all(row.snapshot_bytes > 0 and row.replay_s > 0 and row.restore_s > 0 for row in figures.rows)
    assert figures.read_events_per_s > 0
    assert len(told) == 2 + len(DEFINITIONS)
