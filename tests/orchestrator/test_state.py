"""The orchestrator's state is what the log says, and nothing else."""

import msgspec
import pytest

from services.orchestrator.app import definition
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import STEP_OF, Preview, step_of
from services.orchestrator.state import FORGET_AFTER_S, initial
from shared.definition import digest, replay
from shared.events import ClaimExpired, Event, ProjectDeleted
from tests.builders import (
    PREVIEW,
    PROJECT,
    STEPS,
    VM,
    dev_server_exited,
    files_changed,
    files_synced,
    install_failed,
    install_skipped,
    preview_failed,
    preview_requested,
    preview_restarted,
    preview_stopped,
    project_created,
    project_detected,
    story,
    vm_acquired,
    vm_booted,
    vm_creation_started,
    vm_lost,
    vm_released,
    warning_raised,
)
from tests.spec import AT, Past, given

ORCHESTRATOR = definition(OrchestratorConfig())
STATUSES = (
    ("requested", "preparing"),
    ("detected", "preparing"),
    ("acquired", "syncing"),
    ("synced", "synced"),
    ("installing", "installing"),
    ("installed", "installed"),
    ("booting", "booting"),
    ("confirming", "confirming"),
    ("ready", "ready"),
)


def preview(*past: Past) -> Preview:
    return given(ORCHESTRATOR, *past).state.previews[PREVIEW]


@pytest.mark.parametrize(("until", "status"), STATUSES)
def test_each_event_moves_the_preview_on(until: str, status: str) -> None:
    """And every status has a step that a person is told."""
    now = preview(*story(until))
    assert now.status == status
    assert step_of(now) == STEP_OF[status]


@pytest.mark.parametrize(
    ("past", "status", "told"),
    [
        ([*story("installing"), install_failed()], "install_failed", "installing"),
        ([*story("booting"), dev_server_exited()], "exited", "waiting_server"),
        ([*story("installing"), preview_failed()], "failed", "failed"),
        ([*story("ready"), preview_stopped()], "stopped", "stopped"),
    ],
)
def test_ends(past: list[Event], status: str, told: str) -> None:
    """A person is never told the name of a status that only lasts for an append."""
    now = preview(*past)
    assert (now.status, step_of(now)) == (status, told)


@pytest.mark.parametrize("order", [(project_detected(), vm_acquired()), (vm_acquired(), project_detected())])
def test_the_files_go_in_once_project_and_vm_are_known(order: tuple[Event, Event]) -> None:
    """Whichever came last, it is the one that joins; alone, neither does."""
    spec = given(ORCHESTRATOR, *story("requested"), *order)
    now = spec.state.previews[PREVIEW]
    assert (now.status, now.joined_seq) == ("syncing", spec.log[-1].seq)
    assert preview(*story("requested"), order[0]).status == "preparing"


def test_the_first_vm_is_kept() -> None:
    """Where the pool gave two, the later one goes back and is not missed."""
    now = preview(*story("acquired"), vm_acquired(2), vm_released(2))
    assert now.vm is not None
    assert now.vm.vm_id == VM


def test_a_failed_preview_holds_its_vm_until_that_is_released_or_lost() -> None:
    """For the next try; a stopped one holds nothing."""
    failed = [*story("booting"), preview_failed(step="waiting_server")]
    assert preview(*failed).vm is not None
    assert preview(*failed, vm_released()).vm is None
    assert preview(*failed, vm_lost()).vm is None
    assert preview(*story("booting"), preview_stopped()).vm is None


def test_a_restart_in_place_keeps_the_vm_and_what_is_installed_in_it() -> None:
    now = preview(*story("ready"), preview_restarted(2, in_place=True))
    assert (now.status, now.attempt, now.in_place, now.installed, now.found) == (
        "preparing",
        2,
        True,
        "fingerprint",
        None,
    )
    assert now.vm is not None
    assert preview(*story("ready"), preview_restarted(2)).installed == ""


def test_a_restart_starts_from_nothing_but_what_it_is() -> None:
    """VM, detection, steps and warnings are the last attempt's."""
    now = preview(*story("ready"), warning_raised(), (AT + 9, preview_restarted(2)))
    assert (now.status, now.attempt, now.vm, now.found, now.steps, now.warned) == ("preparing", 2, None, None, {}, ())
    assert (now.requested_at, now.attempt_at, now.requested_by, now.vm_losses) == (AT, AT + 9, "given", 0)
    assert preview(*story("ready"), preview_restarted(2, "vm_lost")).vm_losses == 1


def test_an_ended_preview_holds_nothing() -> None:
    """Its project is free for another, and what the pool says of it no longer matters."""
    state = given(ORCHESTRATOR, *story("ready"), preview_stopped(), vm_acquired(2)).state
    assert (state.previews[PREVIEW].vm, state.projects[PROJECT].live) == (None, None)


def test_the_end_of_an_old_preview_leaves_the_live_one() -> None:
    past = [*story("ready"), preview_stopped(), preview_requested("preview-2"), preview_failed()]
    assert given(ORCHESTRATOR, *past).state.projects[PROJECT].live == "preview-2"


def test_an_ended_preview_is_forgotten_after_its_grace() -> None:
    """By the log's time, when the next one comes; the project's count goes on, so that no id comes twice."""
    past: list[Past] = [*story("ready"), preview_stopped()]
    early = given(ORCHESTRATOR, *past, (AT + FORGET_AFTER_S - 1, preview_requested("preview-2"))).state
    late = given(ORCHESTRATOR, *past, (AT + FORGET_AFTER_S, preview_requested("preview-2"))).state
    assert (set(early.previews), set(early.ended)) == ({PREVIEW, "preview-2"}, {PREVIEW})
    assert (set(late.previews), set(late.ended), late.projects[PROJECT].previews) == ({"preview-2"}, set(), 2)


def test_a_restarted_preview_is_not_forgotten() -> None:
    past: list[Past] = [*story("ready"), preview_stopped(), preview_restarted(2)]
    state = given(ORCHESTRATOR, *past, (AT + 10 * FORGET_AFTER_S, preview_requested("other", "other"))).state
    assert (state.ended, PREVIEW in state.previews) == ({}, True)


def test_a_deleted_project_is_gone() -> None:
    assert given(ORCHESTRATOR, *story("ready"), ProjectDeleted(project_id=PROJECT)).state.projects == {}


def test_a_sync_of_an_edit_only_raises_the_version() -> None:
    """It ends no step, and an older version never comes back. Which manifest that is, is not known here."""
    before, now = preview(*story("ready")), preview(*story("ready"), files_synced(version=3), files_synced(version=2))
    assert now == msgspec.structs.replace(before, files_version=3, manifest="")


def test_durations_are_remembered_by_framework() -> None:
    """A running mean that leans to the newest, so that progress knows what to expect."""
    past: list[Past] = [*story("installing")]
    state = given(ORCHESTRATOR, *past, (AT + 10, story("installed")[-1])).state
    assert state.history_s["vite"]["installing"] == 10.0


def test_an_exit_that_an_older_version_wrote_has_a_reason_all_the_same() -> None:
    """It named no cause: words and a hint, and never Python's `None` in them."""
    failed = preview(*story("booting"), dev_server_exited(exit_code=None)).failure
    assert (failed.code, bool(failed.hint)) == ("dev_server_exited", True)
    assert "None" not in failed.message


# --- replay -------------------------------------------------------------------------------------------------------

WHOLE: list[Past] = [
    *story("ready"),
    files_changed(2),
    files_synced(version=2),
    dev_server_exited(),
    preview_failed(),
    preview_restarted(2),
    ClaimExpired(preview_id=PREVIEW, waited_s=1.0),
    project_created("project-2"),
    preview_requested("preview-2", "project-2"),
    install_skipped(),
]


@pytest.mark.parametrize("length", range(1, len(WHOLE) + 1))
def test_replay_gives_the_same_state(length: int) -> None:
    """After every event: equal digests from fresh states."""
    log = given(ORCHESTRATOR, *WHOLE[:length]).log
    assert digest(replay(ORCHESTRATOR, log)) == digest(replay(ORCHESTRATOR, log))


def test_a_revision_seen_before_is_ignored() -> None:
    """The lower sequence won, here as everywhere; whatever the log says twice counts once."""
    log = given(ORCHESTRATOR, *story("confirming")).log
    assert digest(replay(ORCHESTRATOR, [*log, *log])) == digest(replay(ORCHESTRATOR, log))
    doubled = [each for pair in zip(log, log, strict=True) for each in pair]
    assert digest(replay(ORCHESTRATOR, doubled)) == digest(replay(ORCHESTRATOR, log))


def test_an_unknown_event_is_skipped_but_its_revision_counts() -> None:
    log = given(ORCHESTRATOR, *story("ready")).log
    unknown = msgspec.structs.replace(log[-1], type="PreviewAdmired", event=None)
    assert replay(ORCHESTRATOR, [*log[:-1], unknown, log[-1]]).previews[PREVIEW].status == "confirming"


def test_events_of_others_and_of_the_unknown_change_nothing() -> None:
    """VMs that no preview holds, previews that the log does not begin."""
    past = [vm_creation_started(1), vm_booted(1), project_detected(), files_synced(), preview_failed()]
    assert digest(given(ORCHESTRATOR, *past).state) == digest(initial())


def test_a_fresh_state_shares_nothing_with_another() -> None:
    given(ORCHESTRATOR, *story("ready"))
    assert (initial().previews, initial().projects, initial().history_s) == ({}, {}, {})


def test_the_story_has_a_status_for_each_step() -> None:
    assert tuple(until for until, _ in STATUSES) == STEPS
