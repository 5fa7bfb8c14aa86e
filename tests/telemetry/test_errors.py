"""Events to errors, from lists of events alone: what counts, whose it is, and what is one group."""

import msgspec
import pytest

from services.telemetry.errors import Facts, Occurrence, fold, trace_of
from shared.codec import Recorded
from shared.events import (
    ClaimExpired,
    DevServerExited,
    InstallFailed,
    PreviewFailed,
    PreviewRestarted,
    PreviewWarningRaised,
    VmBootFailed,
    VmHealthCheckFailed,
    VmLost,
)

from .world import (
    Story,
    acquired,
    detected,
    dev_started,
    failed,
    install_started,
    ready,
    requested,
    restarted,
    synced,
    up_to_ready,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def errors_of(story: Story) -> list[Occurrence]:
    return fold({}, story.recorded())[1]


def facts_of(story: Story) -> list[Facts]:
    return fold({}, story.recorded())[0]


def begun(preview: str = "p1", owner: str = "ann") -> Story:
    """Up to an install that has begun."""
    story = Story(1_000).tell(requested(preview, owner)).tell(acquired(preview), detected(preview), after_s=1)
    return story.tell(synced(preview), install_started(preview), after_s=1)


def install_failed(preview: str) -> InstallFailed:
    return InstallFailed(preview_id=preview, attempt=1, exit_code=1, code="install_failed", message="why")


def test_a_failed_preview_is_one_error_with_all_that_is_known_of_it() -> None:
    """The install that failed is the same error."""
    failure = msgspec.structs.replace(failed("p1"), fingerprint="feed")
    story = begun().tell(install_failed("p1"), failure, after_s=3)
    records = story.recorded()
    records[-1] = traced(records[-1])
    (error,) = fold({}, records)[1]

    assert error == Occurrence(
        seq=len(records),
        at=1_005.0,
        fingerprint=error.fingerprint,
        type="PreviewFailed",
        code="install_failed",
        step="installing",
        framework="vite",
        message="why",
        project_id="project-of-p1",
        preview_id="p1",
        owner="ann",
        attempt=1,
        vm_id="vm-of-p1",
        trace_id=TRACE,
    )
    assert len(error.fingerprint) == 16


def traced(recorded: Recorded) -> Recorded:
    meta = msgspec.structs.replace(recorded.meta, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    return msgspec.structs.replace(recorded, meta=meta)


@pytest.mark.parametrize("traceparent", ["", "00", "00-short-00f067aa0ba902b7-01", f"{TRACE}"])
def test_without_a_trace_there_is_none(traceparent: str) -> None:
    assert trace_of(traceparent) == ""


def fingerprint(event: PreviewFailed, story: Story | None = None) -> str:
    (error,) = errors_of((story or begun()).tell(event))
    return error.fingerprint


def test_the_same_cause_is_one_group_whoever_has_it() -> None:
    """What differs in type, code, step, framework or cause is another."""
    event = msgspec.structs.replace(failed("p1"), fingerprint="feed")
    one = fingerprint(event)

    theirs = msgspec.structs.replace(event, preview_id="p2", message="sealed otherwise")
    assert fingerprint(theirs, begun("p2", "bob")) == one
    for change in ({"code": "disk_full"}, {"step": "waiting_server"}, {"fingerprint": "beef"}, {"fingerprint": ""}):
        assert fingerprint(msgspec.structs.replace(event, **change)) != one
    other = Story(1_000).tell(requested("p1"), acquired("p1"), detected("p1", framework="nextjs"))
    assert fingerprint(event, other) != one


def test_a_failure_from_before_fingerprints_is_grouped_by_what_it_has() -> None:
    """Its message is sealed, and differs from project to project."""
    assert fingerprint(failed("p1")) == fingerprint(msgspec.structs.replace(failed("p1"), message="sealed otherwise"))


def test_memory_that_ran_out_is_an_error_although_the_preview_goes_on() -> None:
    ended = DevServerExited(preview_id="p1", attempt=1, exit_code=137, signal=None, code="out_of_memory")
    anew = PreviewRestarted(preview_id="p1", attempt=2, reason="out_of_memory", files_version=1, memory_mb=2048)
    (error,) = errors_of(begun().tell(dev_started("p1"), ended, anew))

    assert (error.type, error.code, error.step, error.attempt) == (
        "PreviewRestarted",
        "out_of_memory",
        "waiting_server",
        1,
    )


def test_a_lost_vm_is_its_preview_s_and_no_other_group_for_what_ran_in_it() -> None:
    """One that nobody held is nobody's. The silence's length does not matter."""
    lost = VmLost(vm_id="vm-of-p1", preview_id="p1", detail="silent for 31 s")
    (held,) = errors_of(begun().tell(lost))
    (idle,) = errors_of(Story().tell(VmLost(vm_id="vm-9", preview_id=None, detail="silent for 7 s")))

    assert (held.type, held.code, held.owner, held.preview_id, held.vm_id) == (
        "VmLost",
        "vm_lost",
        "ann",
        "p1",
        "vm-of-p1",
    )
    assert (idle.owner, idle.preview_id, idle.vm_id) == ("", "", "vm-9")
    assert held.fingerprint == idle.fingerprint


def test_a_failed_boot_is_nobody_s() -> None:
    def booted(vm: str, message: str) -> Occurrence:
        (error,) = errors_of(Story().tell(VmBootFailed(vm_id=vm, code="boot_failed", message=message)))
        return error

    one, same = booted("vm-1", "port 4000 is taken"), booted("vm-2", "port 4001 is taken")
    assert (one.type, one.owner, one.vm_id, one.message) == ("VmBootFailed", "", "vm-1", "port 4000 is taken")
    assert one.fingerprint == same.fingerprint
    assert booted("vm-3", "no disk").fingerprint != one.fingerprint


def test_what_ended_nothing_is_no_error() -> None:
    """An expired claim and a failed install end in `PreviewFailed`; a retried install, a missed check and a page with
    errors in a preview that is there are none."""
    story = begun().tell(
        ClaimExpired(preview_id="p1", waited_s=60),
        PreviewWarningRaised(preview_id="p1", attempt=1, code="lockfile_mismatch", message="m"),
        install_failed("p1"),
        VmHealthCheckFailed(vm_id="vm-of-p1", failures=1, detail="silent"),
        msgspec.structs.replace(ready("p1"), with_errors=True),
    )
    assert errors_of(story) == []


def test_a_second_event_of_the_same_revision_counts_for_nothing() -> None:
    """Two writers got through: the lower sequence won, here as in every fold."""
    records = begun().tell(failed("p1")).recorded()
    again = msgspec.structs.replace(records[-1], seq=records[-1].seq + 1)
    assert len(fold({}, [*records, again])[1]) == 1


def test_a_failure_of_a_preview_that_is_not_known_any_more_is_still_an_error() -> None:
    (error,) = errors_of(Story().tell(failed("p1")))
    assert (error.preview_id, error.owner) == ("p1", "")


def test_batches_give_what_the_whole_gives() -> None:
    """Wherever the log is cut."""
    story = up_to_ready(begun("p2", "bob"), "p1").tell(failed("p2"), restarted("p2", 2, lost=True), failed("p2", 2))
    records = story.recorded()
    whole = fold({}, records)
    for cut in range(len(records) + 1):
        first, found = fold({}, records[:cut])
        newest = {each.preview_id: each for each in sorted(first, key=lambda each: each.attempt)}
        second, more = fold(newest, records[cut:])
        known = {(each.preview_id, each.attempt): each for each in [*first, *second]}
        assert known == {(each.preview_id, each.attempt): each for each in whole[0]}
        assert found + more == whole[1]


def test_facts_tell_what_made_an_attempt_slow() -> None:
    warning = PreviewWarningRaised(preview_id="p1", attempt=1, code="lockfile_mismatch", message="m")
    story = (
        begun()
        .tell(warning, install_started("p1"))
        .tell(restarted("p1", 2, lost=True), acquired("p1", vm="vm-2", from_pool=False))
    )
    first, second = facts_of(story)

    assert (first.began, first.step, first.from_pool, first.retried) == ("requested", "installing", True, True)
    assert (second.began, second.attempt, second.vm_id, second.from_pool, second.retried) == (
        "vm_lost",
        2,
        "vm-2",
        False,
        False,
    )
    assert (second.framework, second.step, second.install) == ("vite", "acquiring_vm", "")
