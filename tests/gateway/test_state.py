"""What the gateway shows is what the log says, and nothing else."""

from collections import Counter

import msgspec
import pytest

from services.gateway.app import definition
from services.gateway.config import GatewayConfig
from services.gateway.state import (
    FORGET_AFTER_S,
    REMOVED_MAX,
    STEP_OF,
    Failure,
    Preview,
    Removed,
    initial,
)
from shared.codec import Meta, Recorded
from shared.definition import digest, replay
from shared.events import (
    AppChoice,
    Event,
    PreviewResumed,
    PreviewSuspended,
    ProjectDeleted,
    ProjectEnvChanged,
    aggregate_key,
)
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    URL,
    VM,
    dev_server_exited,
    dev_server_ready,
    dev_server_started,
    files_changed,
    files_synced,
    hmr_probed,
    install_completed,
    install_skipped,
    install_started,
    preview_failed,
    preview_prepared,
    preview_ready,
    preview_requested,
    preview_restarted,
    preview_stopped,
    preview_wanted,
    project_created,
    project_detected,
    story,
    vm_acquired,
    warm_vms,
    warning_raised,
)
from tests.spec import AT, Past, given

GATEWAY = definition(GatewayConfig())


def preview(*past: Past) -> Preview:
    return given(GATEWAY, *past).state.previews[PREVIEW]


@pytest.mark.parametrize(
    ("until", "status"),
    [
        ("requested", "acquiring"),
        ("detected", "acquiring"),
        ("acquired", "syncing"),
        ("synced", "syncing"),
        ("installing", "installing"),
        ("installed", "starting"),
        ("booting", "starting"),
        ("confirming", "waiting"),
        ("ready", "ready"),
    ],
)
def test_each_event_moves_the_preview_on(until: str, status: str) -> None:
    """And every status has a step that front ends know."""
    now = preview(*story(until))
    assert now.status == status
    assert STEP_OF[now.status]


def test_what_is_known_of_a_ready_preview() -> None:
    now = preview(*story("ready"), warning_raised())
    assert (now.framework, now.package_manager, now.vm_id, now.from_pool) == ("vite", "npm", VM, True)
    assert (now.install, now.host, now.port, now.url, now.warnings) == (
        "completed",
        "127.0.0.1",
        5173,
        URL,
        (warning_raised(),),
    )


def test_an_install_that_was_not_needed() -> None:
    assert preview(*story("synced"), install_skipped()).install == "skipped"


def test_detection_may_come_after_the_vm() -> None:
    """Until both are there the files can't go in."""
    assert preview(*story("requested"), vm_acquired()).status == "acquiring"
    now = preview(*story("requested"), vm_acquired(), project_detected(), files_synced())
    assert (now.status, now.framework, list(now.steps)) == ("syncing", "vite", ["acquiring_vm", "syncing_files"])


def test_a_failure_keeps_its_reason_and_when() -> None:
    now = preview(*story("installing"), (AT + 7, preview_failed()))
    failure = Failure(code="install_failed", message="No.", hint="Look.", step="installing")
    assert (now.status, now.ended_at, now.error) == ("failed", AT + 7, failure)


def test_a_failure_keeps_its_evidence_and_the_choices() -> None:
    """And which install the evidence is of: the attempt's last one."""
    retry = msgspec.structs.replace(install_started(), job_id="install-1-retry")
    choices = (AppChoice(path="apps/a", framework="vite", name="a"),)
    failed = msgspec.structs.replace(preview_failed(), evidence=(3, 9), choices=choices)
    now = preview(*story("installing"), retry, failed)
    assert now.error is not None
    assert (now.error.evidence, now.error.choices, now.install_job) == ((3, 9), choices, "install-1-retry")


# --- errors in the project ----------------------------------------------------------------------------------------

BROKEN = msgspec.structs.replace(dev_server_ready(), with_errors=True, detail="/main.js answered 500")
SHOWN_BROKEN = msgspec.structs.replace(preview_ready(), with_errors=True)


def test_a_project_with_an_error_is_shown_as_such() -> None:
    """It has an address, and says which request failed."""
    now = preview(*story("booting"), BROKEN, SHOWN_BROKEN)
    assert (now.status, now.url, now.detail) == ("ready_with_errors", URL, "/main.js answered 500")


@pytest.mark.parametrize("mend", [dev_server_ready(), preview_ready()], ids=["answer", "ready"])
def test_a_mended_project_is_ready(mend: Event) -> None:
    """By the dev server's next answer without an error, or by another `PreviewReady`; nothing is asked for anew."""
    now = preview(*story("booting"), BROKEN, SHOWN_BROKEN, mend)
    assert (now.status, now.url, now.host, now.attempt) == ("ready", URL, "127.0.0.1", 1)
    assert preview(*story("booting"), BROKEN, SHOWN_BROKEN, dev_server_ready()).detail == ""


def test_the_socket_for_edits() -> None:
    assert preview(*story("ready"), hmr_probed()).hmr == hmr_probed()
    assert preview(*story("ready"), hmr_probed(), preview_restarted(2)).hmr is None


# --- opening early ------------------------------------------------------------------------------------------------

PREPARE = msgspec.structs.replace(preview_requested(), prepare=True, app="apps/a")
PREPARING: list[Past] = [project_created(), files_changed(), PREPARE, project_detected(), vm_acquired(), files_synced()]
PREPARED: list[Past] = [*PREPARING, install_started(), install_completed(), (AT + 6, preview_prepared())]


def test_a_preview_that_nobody_asked_for_yet() -> None:
    now = preview(*PREPARED)
    assert (now.status, now.wanted, now.app, now.status_at) == ("prepared", False, "apps/a", AT + 6)
    assert preview(*story("requested")).wanted


def test_its_time_counts_from_the_wish() -> None:
    """Whether that comes before the preparation is done, or after."""
    now = preview(*PREPARED, (AT + 60, preview_wanted()), (AT + 60, dev_server_started()))
    assert (now.status, now.wanted, now.attempt_at) == ("starting", True, AT + 60)
    early = preview(*PREPARING, (AT + 2, preview_wanted()), install_started())
    assert (early.status, early.wanted, early.attempt_at) == ("installing", True, AT + 2)


# --- in place -----------------------------------------------------------------------------------------------------


def test_a_restart_in_place_keeps_the_vm() -> None:
    """And what is known of the project, until it is found anew; not the error, not the warnings."""
    past = [*story("ready"), warning_raised(), preview_failed(), preview_restarted(2, "edited", in_place=True)]
    now = preview(*past)
    assert (now.status, now.vm_id, now.from_pool, now.url, now.framework) == ("acquiring", VM, True, URL, "vite")
    assert (now.error, now.warnings, now.host, now.install) == (None, (), "", None)
    assert preview(*past, project_detected(attempt=2)).status == "syncing"


def test_a_restart_may_name_another_app() -> None:
    """Without a name it stays at the one that was shown."""
    past = [*PREPARED, preview_restarted(2, app="apps/b")]
    assert preview(*past).app == "apps/b"
    assert preview(*past, preview_restarted(3)).app == "apps/b"


def test_the_last_change_is_remembered() -> None:
    """`changed_seq` lets a client see which of two answers is newer."""
    spec = given(GATEWAY, *story("ready"), *warm_vms(5))
    assert spec.state.previews[PREVIEW].changed_seq == len(story("ready"))


def test_sleep_and_waking() -> None:
    asleep = [*story("ready"), PreviewSuspended(preview_id=PREVIEW)]
    assert preview(*asleep).status == "suspended"
    assert preview(*asleep, PreviewResumed(preview_id=PREVIEW)).status == "ready"


def test_what_showed_an_error_shows_it_again_after_waking() -> None:
    broken = msgspec.structs.replace(dev_server_ready(), with_errors=True, detail="/ answered 500")
    shown = msgspec.structs.replace(preview_ready(), with_errors=True)
    past = [*story("booting"), broken, shown, PreviewSuspended(preview_id=PREVIEW)]
    woken = preview(*past, PreviewResumed(preview_id=PREVIEW))
    assert (woken.status, woken.detail) == ("ready_with_errors", "/ answered 500")


def test_a_late_waking_revives_nothing() -> None:
    """It was stopped meanwhile."""
    past = [*story("ready"), PreviewSuspended(preview_id=PREVIEW), preview_stopped()]
    assert preview(*past, PreviewResumed(preview_id=PREVIEW)).status == "stopped"


def test_a_sync_of_an_edit_leaves_the_status() -> None:
    assert preview(*story("ready"), files_synced(version=2)).status == "ready"


def test_a_restart_starts_from_nothing_but_what_it_is() -> None:
    """Nothing of the last attempt is shown as the new one's: address, error, warnings, machine."""
    now = preview(*story("ready"), warning_raised(), preview_failed(), (AT + 9, preview_restarted(2)))
    assert (now.status, now.attempt, now.created_at, now.attempt_at, now.ended_at) == ("acquiring", 2, AT, AT + 9, 0.0)
    assert (now.url, now.error, now.warnings, now.vm_id, now.host, now.total_s) == ("", None, (), "", "", None)


def test_an_ended_preview_is_forgotten_after_its_grace() -> None:
    """By the log's time, when the next one comes; one that was restarted is not."""
    past: list[Past] = [*story("ready"), preview_stopped()]
    later, next_one = AT + FORGET_AFTER_S, preview_requested("preview-2")
    assert set(given(GATEWAY, *past, (later - 1, next_one)).state.previews) == {PREVIEW, "preview-2"}
    assert set(given(GATEWAY, *past, (later, next_one)).state.previews) == {"preview-2"}
    assert PREVIEW in given(GATEWAY, *past, preview_restarted(2), (later, next_one)).state.previews


def test_projects() -> None:
    state = given(GATEWAY, project_created(), files_changed(1), files_changed(2, files=7)).state
    project = state.projects[PROJECT]
    assert (project.files_version, project.manifest, project.replaced) == (2, "manifest-2", {"2": "manifest-1"})
    assert (project.files, project.size_bytes) == (7, 700)


def test_a_deleted_project_leaves_only_what_is_to_be_collected() -> None:
    state = given(GATEWAY, project_created(), files_changed(1), ProjectDeleted(project_id=PROJECT)).state
    assert (state.projects, state.removed) == ({}, {PROJECT: Removed(owner=OWNER, manifest="manifest-1")})
    empty = given(GATEWAY, project_created(), ProjectDeleted(project_id=PROJECT)).state
    assert empty.removed == {PROJECT: Removed(owner=OWNER)}
    with_env = given(GATEWAY, project_created(), env_changed("sealed"), ProjectDeleted(project_id=PROJECT)).state
    assert with_env.removed == {PROJECT: Removed(owner=OWNER, env="sealed")}


def env_changed(env: str, *names: str) -> ProjectEnvChanged:
    return ProjectEnvChanged(project_id=PROJECT, env=env, names=names)


def test_variables_are_known_by_name() -> None:
    """And what was replaced by when, so that it can be collected."""
    state = given(GATEWAY, project_created(), env_changed("a", "KEY"), env_changed("b", "KEY", "MORE")).state
    project = state.projects[PROJECT]
    assert (project.env, project.env_names, project.env_replaced) == ("b", ("KEY", "MORE"), {"3": "a"})
    assert digest(given(GATEWAY, env_changed("a")).state) == digest(initial())


def test_what_is_remembered_of_deleted_projects_is_bounded() -> None:
    """The oldest go first."""
    past: list[Event] = []
    for number in range(REMOVED_MAX + 2):
        name = f"project-{number}"
        past += [project_created(name), files_changed(1, name), ProjectDeleted(project_id=name)]
    state = replay(GATEWAY, _log(past))
    assert (len(state.removed), next(iter(state.removed))) == (REMOVED_MAX, "project-2")


def _log(past: list[Event]) -> list[Recorded]:
    """Records without the codec: thousands of them."""
    meta = Meta(id="", at=AT, rev=0, correlation_id="", causation_id="", actor="")
    revisions: Counter[str] = Counter()
    log: list[Recorded] = []
    for event in past:
        key = aggregate_key(event)
        revisions[key] += 1
        new = msgspec.structs.replace(meta, rev=revisions[key])
        log.append(Recorded(seq=len(log) + 1, key=key, type=type(event).__name__, meta=new, event=event))
    return log


# --- replay -------------------------------------------------------------------------------------------------------

WHOLE: list[Past] = [
    *story("ready"),
    warning_raised(),
    files_changed(2),
    files_synced(version=2),
    dev_server_exited(),
    preview_failed(),
    preview_restarted(2),
    vm_acquired(2),
    ProjectDeleted(project_id=PROJECT),
    preview_stopped(),
]


@pytest.mark.parametrize("length", range(1, len(WHOLE) + 1))
def test_replay_gives_the_same_state(length: int) -> None:
    """After every event: equal digests from fresh states."""
    log = given(GATEWAY, *WHOLE[:length]).log
    assert digest(replay(GATEWAY, log)) == digest(replay(GATEWAY, log))


def test_a_revision_seen_before_is_ignored() -> None:
    log = given(GATEWAY, *WHOLE).log
    assert digest(replay(GATEWAY, [*log, *log])) == digest(replay(GATEWAY, log))


def test_an_unknown_event_is_skipped_but_its_revision_counts() -> None:
    log = given(GATEWAY, *story("ready")).log
    unknown = msgspec.structs.replace(log[-1], type="PreviewAdmired", event=None)
    assert replay(GATEWAY, [*log[:-1], unknown, log[-1]]).previews[PREVIEW].status == "waiting"


def test_events_of_the_unknown_change_nothing() -> None:
    """A log that was cut at its start still folds."""
    past = [*warm_vms(1), vm_acquired(), files_changed(), preview_failed(), ProjectDeleted(project_id=PROJECT)]
    assert digest(given(GATEWAY, *past).state) == digest(initial())
