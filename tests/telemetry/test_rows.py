"""Events to rows: what the projection writes, from lists of events alone."""

import msgspec
import pytest

from services.telemetry.rows import Attempt, project
from shared.codec import Meta, Recorded
from shared.events import (
    InstallFailed,
    PreviewResumed,
    PreviewSuspended,
    PreviewWarningRaised,
    VmBooted,
)

from .world import (
    Story,
    acquired,
    created,
    detected,
    dev_ready,
    dev_started,
    failed,
    install_started,
    installed,
    ready,
    recorded,
    requested,
    restarted,
    skipped,
    stopped,
    synced,
    up_to_ready,
)


def rows_of(story: Story) -> list[Attempt]:
    """All rows that the story leads to."""
    return project({}, story.recorded())


def test_a_ready_preview_has_all_its_figures() -> None:
    """Outcome, times, and seconds of every step."""
    (row,) = rows_of(up_to_ready(Story(1_000), "p1"))

    assert (
        row.status,
        row.framework,
        row.version,
        row.package_manager,
        row.install,
        row.from_pool,
    ) == ("ready", "vite", "7.0.0", "npm", "completed", True)
    assert (row.requested_at, row.attempt_at, row.ready_at, row.ended_at) == (1_000.0, 1_000.0, 1_007.5, None)
    assert (
        row.total_s,
        row.vm_s,
        row.acquire_s,
        row.sync_s,
        row.install_s,
        row.boot_s,
        row.confirm_s,
    ) == (7.5, 1.0, 1.0, 1.0, 3.0, 2.0, 0.5)


def test_ready_has_the_last_word_on_its_steps() -> None:
    """Where the orchestrator's own figures differ, they count; a step that nobody knows is left out."""
    story = up_to_ready(Story(1_000), "p1")
    story.told[-1] = (1_007.5, ready("p1", total_s=7.5, steps={"installing": 2.75, "dreaming": 1.0}))

    (row,) = rows_of(story)

    assert row.install_s == 2.75


@pytest.mark.parametrize("vm_first", [True, False])
def test_the_first_step_ends_with_the_later_of_vm_and_detection(vm_first: bool) -> None:
    """They run side by side; files can go in once both are there."""
    first, second = (acquired("p1"), detected("p1")) if vm_first else (detected("p1"), acquired("p1"))
    (row,) = rows_of(Story(1_000).tell(requested("p1")).tell(first, after_s=1).tell(second, after_s=2))

    assert (3.0, 1.0 if vm_first else 3.0) == (row.acquire_s, row.vm_s)


def test_a_skipped_install_takes_no_time() -> None:
    """It is counted as skipped, and has no seconds that would blur the others'."""
    story = Story().tell(requested("p1"), acquired("p1"), detected("p1"), synced("p1"), skipped("p1"))
    (row,) = rows_of(story)

    assert (row.install, row.install_s) == ("skipped", None)


def test_a_failed_preview_says_why_and_keeps_the_steps_that_ended() -> None:
    """Code, message and step of the failure; the step that failed has no seconds."""
    story = Story(1_000).tell(requested("p1")).tell(acquired("p1"), detected("p1"), after_s=1)
    story.tell(synced("p1"), install_started("p1"), after_s=1)
    story.tell(InstallFailed(preview_id="p1", attempt=1, exit_code=1, code="npm_failed", message="m"), after_s=4)
    (row,) = rows_of(story.tell(failed("p1", code="npm_failed")))

    assert (
        row.status,
        row.code,
        row.message,
        row.step,
        row.install,
    ) == ("failed", "npm_failed", "why", "installing", "failed")
    assert (row.acquire_s, row.sync_s, row.install_s, row.total_s) == (1.0, 1.0, None, None)
    assert (row.ended_at, row.ready_at) == (1_006.0, None)


def test_a_preview_that_breaks_later_was_ready() -> None:
    """Both are kept: when it was ready, and why it ended."""
    (row,) = rows_of(up_to_ready(Story(1_000), "p1").tell(failed("p1", code="dev_server_exited"), after_s=60))

    assert (row.status, row.ready_at, row.ended_at) == ("failed", 1_007.5, 1_067.5)


def test_a_stopped_preview_is_neither_ready_nor_failed() -> None:
    """It ends, without a code."""
    (row,) = rows_of(Story(1_000).tell(requested("p1")).tell(stopped("p1"), after_s=2))

    assert (row.status, row.ended_at, row.code) == ("stopped", 1_002.0, None)


def test_a_restart_is_another_row() -> None:
    """The next attempt has its own times and figures, and whose it is from the first."""
    story = up_to_ready(Story(1_000), "p1", owner="bob").tell(failed("p1"), after_s=1)
    first, second = rows_of(story.tell(restarted("p1", 2), after_s=10))

    assert (first.status, first.attempt) == ("failed", 1)
    assert (second.status, second.attempt, second.owner, second.project_id) == ("running", 2, "bob", "project-of-p1")
    assert (second.requested_at, second.attempt_at) == (1_000.0, 1_018.5)
    assert (second.framework, second.vm_id, second.total_s, second.code) == (None, None, None, None)


def test_a_restart_that_somebody_asked_for_supersedes_what_runs() -> None:
    """The attempt that it ends neither succeeded nor failed."""
    first, second = rows_of(Story(1_000).tell(requested("p1")).tell(restarted("p1", 2), after_s=3))

    assert (first.status, first.ended_at, first.code) == ("superseded", 1_003.0, None)
    assert second.status == "running"


def test_an_attempt_that_lost_its_vm_has_failed() -> None:
    """The restart that follows by itself does not hide it."""
    first, _ = rows_of(Story().tell(requested("p1"), restarted("p1", 2, lost=True)))

    assert (first.status, first.code) == ("failed", "vm_lost")


def test_reports_of_an_earlier_attempt_change_nothing() -> None:
    """A late report does not reach the attempt that runs now; its revision counts."""
    story = Story(1_000).tell(requested("p1"), restarted("p1", 2))
    before = rows_of(story)[-1]
    after = rows_of(story.tell(synced("p1", 1), failed("p1", 1), after_s=5))[-1]

    assert msgspec.structs.replace(before, rev=4) == after


def test_each_attempt_has_a_vm_of_its_own_and_keeps_the_first() -> None:
    """A second VM by mistake does not move the clock; the next attempt gets its own."""
    story = Story(1_000).tell(requested("p1")).tell(acquired("p1", vm="a"), after_s=1)
    story.tell(acquired("p1", vm="b"), after_s=1).tell(restarted("p1", 2), after_s=1)
    first, second = rows_of(story.tell(acquired("p1", vm="c", from_pool=False), after_s=4))

    assert (first.vm_id, first.vm_s, first.from_pool) == ("a", 1.0, True)
    assert (second.vm_id, second.vm_s, second.from_pool) == ("c", 4.0, False)


def test_the_provider_is_who_made_the_vm() -> None:
    """Made in these events or before them; of a VM that nobody has told of it is not known."""
    story = Story().tell(requested("p1"), requested("p2"), requested("p3"), created("new", "docker"))
    story.tell(acquired("p1", vm="new"), acquired("p2", vm="old"), acquired("p3", vm="strange"))

    assert [row.provider for row in project({}, story.recorded(), {"old": "fly"})] == ["docker", "fly", None]


@pytest.mark.parametrize("days", [29, 31])
def test_a_restart_long_after_the_end_counts_as_nobody_s(days: int) -> None:
    """30 days after it has ended nothing changes an attempt any more, so that its row may go."""
    story = Story().tell(requested("p1"), failed("p1"))
    story.tell(restarted("p1", 2), ready("p1", 2), stopped("p1"), after_s=days * 86_400.0)

    found = [(row.attempt, row.status) for row in rows_of(story)]
    assert found == ([(1, "failed"), (2, "stopped")] if days == 29 else [(1, "failed")])


def test_a_vm_that_comes_after_the_end_is_not_counted() -> None:
    """The preview had ended; the pool takes the VM back."""
    (row,) = rows_of(Story().tell(requested("p1"), stopped("p1"), acquired("p1")))

    assert (row.vm_id, row.from_pool) == (None, None)


def test_edits_are_not_a_step() -> None:
    """Only an attempt's first sync is one."""
    story = Story(1_000).tell(requested("p1"), acquired("p1"), detected("p1")).tell(synced("p1"), after_s=2)
    (row,) = rows_of(story.tell(synced("p1"), after_s=50))

    assert row.sync_s == 2.0


def test_suspended_and_resumed_is_ready_as_before() -> None:
    """Sleep changes the status and no figure."""
    story = up_to_ready(Story(), "p1")
    (before,) = rows_of(story)
    (asleep,) = rows_of(story.tell(PreviewSuspended(preview_id="p1")))
    (awake,) = rows_of(story.tell(PreviewResumed(preview_id="p1")))

    assert asleep.status == "suspended"
    assert msgspec.structs.replace(before, rev=before.rev + 2) == awake


def test_warnings_are_kept_by_code_and_bounded() -> None:
    """No more than 50 of them."""
    story = Story().tell(requested("p1"))
    story.tell(*(PreviewWarningRaised(preview_id="p1", attempt=1, code=f"w{n}", message="m") for n in range(60)))
    (row,) = rows_of(story)

    assert tuple(f"w{n}" for n in range(50)) == row.warnings


def test_an_unknown_event_is_skipped_and_its_revision_counts() -> None:
    """A newer service wrote it; what follows is folded."""
    meta = Meta(id="e", at=1.0, rev=2, correlation_id="", causation_id="", actor="")
    unknown = Recorded(seq=2, key="orchestrator.preview.p1", type="PreviewPainted", meta=meta, event=None)
    foreign = Recorded(seq=3, key="orchestrator.studio.p1", type="StudioOpened", meta=meta, event=None)
    first = recorded(requested("p1"))

    (row,) = project({}, [first, unknown, foreign])
    assert (row.status, row.rev) == ("running", 2)

    (row,) = project({}, [first, unknown, foreign, recorded(stopped("p1"), seq=4, rev=2)])
    assert row.status == "running"


def test_a_revision_counts_once() -> None:
    """Where two writers got through, the lower sequence won; a repeated request changes nothing."""
    events = [recorded(requested("p1")), recorded(failed("p1"), seq=2, rev=2), recorded(stopped("p1"), seq=3, rev=2)]
    (row,) = project({}, [*events, recorded(requested("p1", "eve"), seq=4, rev=1)])

    assert (row.status, row.owner) == ("failed", "ann")


def test_events_of_nobody_change_nothing() -> None:
    """Other aggregates' events, and those of a preview that was never requested, make no row."""
    story = Story().tell(VmBooted(vm_id="v", host="h", port=1, boot_s=0.1), synced("ghost"), acquired("ghost"))

    assert rows_of(story) == []


def test_rows_grow_from_what_is_stored() -> None:
    """Projecting batch by batch gives what projecting at once gives."""
    story = up_to_ready(Story(1_000), "p1").tell(restarted("p1", 2), after_s=5).tell(detected("p1", 2))
    story.tell(dev_started("p1", 2), dev_ready("p1", 2), installed("p1", 2), failed("p1", 2), after_s=1)
    stored: dict[tuple[str, int], Attempt] = {}
    newest: dict[str, Attempt] = {}
    for event in story.recorded():
        for row in project(newest, [event]):
            stored[row.preview_id, row.attempt] = newest[row.preview_id] = row

    assert rows_of(story) == list(stored.values())


def test_texts_fit_the_database() -> None:
    """PostgreSQL stores no NUL; nothing is longer than its limit."""
    story = Story().tell(requested("p1"), detected("p1", framework="vi\0te"), failed("p1", code="x" * 9_000))
    (row,) = rows_of(story)

    assert (row.framework, row.code) == ("vite", "x" * 2_000)
