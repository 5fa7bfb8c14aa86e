"""What the orchestrator does about each event and timer, as data."""

import pytest
from msgspec.structs import replace

from services.orchestrator.app import definition
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.react import (
    REACTS_TO,
    ClaimVm,
    Confirm,
    Effect,
    KeepDeps,
    Prepare,
    ProbeHmr,
    RunDevServer,
    RunInstall,
    SyncFiles,
    on_timer,
    react,
)
from shared.commands import ExpireStep, FailPreview, HandleVmLost, ReleaseVm, RestartPreview, StopPreview
from shared.effects import Send, SetTimer
from shared.events import ClaimExpired, ClaimWithdrawn, Event, PreviewRequested, ProjectDeleted, ProjectEnvChanged
from shared.ports import TimerFired
from tests.builders import (
    PREVIEW,
    PROJECT,
    STEPS,
    VM,
    claim_queued,
    dev_server_exited,
    files_changed,
    files_synced,
    install_failed,
    preview_failed,
    preview_prepared,
    preview_requested,
    preview_restarted,
    preview_stopped,
    preview_wanted,
    project_detected,
    story,
    vm_acquired,
    vm_lost,
    vm_released,
)
from tests.spec import given

CONFIG = OrchestratorConfig()
ORCHESTRATOR = definition(CONFIG)
RELEASE = Send(ReleaseVm(preview_id=PREVIEW, reason="ended"))


def effects(*past: Event, of: int = -1) -> list[Effect]:
    """What follows from the last of these events, or from another one where it is heard again at the end."""
    spec = given(ORCHESTRATOR, *past)
    return list(react(spec.state, spec.log[of], CONFIG))


def timer(step: str, limit_s: float, attempt: int = 1) -> SetTimer:
    data: dict[str, str | int] = {"preview": PREVIEW, "attempt": attempt, "step": step}
    return SetTimer("step", f"{PREVIEW}-{attempt}-{step}", limit_s + CONFIG.limit_grace_s, data)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("requested", [timer("preparing", CONFIG.acquire_limit_s), Prepare(PREVIEW, 1)]),
        ("detected", []),
        ("acquired", [timer("syncing", CONFIG.sync_limit_s), SyncFiles(PREVIEW, 1)]),
        ("synced", []),
        ("installing", [timer("installing", CONFIG.install_limit_s), RunInstall(PREVIEW, 1, "install-1")]),
        ("installed", []),
        ("booting", [timer("booting", CONFIG.boot_limit_s), RunDevServer(PREVIEW, 1, "dev-1")]),
        ("confirming", [timer("confirming", CONFIG.confirm_limit_s), Confirm(PREVIEW, 1)]),
        ("ready", [ProbeHmr(PREVIEW, 1), KeepDeps(PREVIEW, 1)]),
    ],
)
def test_each_step_has_its_effect_and_its_limit(until: str, expected: list[Effect]) -> None:
    """The timer is set before the work begins: a replica that dies in it leaves the timer behind."""
    assert effects(*story(until)) == expected


def test_detection_that_comes_last_starts_the_sync() -> None:
    past = [*story("requested"), vm_acquired(), project_detected()]
    assert effects(*past) == [timer("syncing", CONFIG.sync_limit_s), SyncFiles(PREVIEW, 1)]
    assert effects(*past, of=-2) == []


def test_a_restart_releases_first() -> None:
    release = Send(ReleaseVm(preview_id=PREVIEW, reason="restarted"))
    limit = timer("preparing", CONFIG.acquire_limit_s, attempt=2)
    assert effects(*story("ready"), preview_restarted(2)) == [release, limit, Prepare(PREVIEW, 2)]


@pytest.mark.parametrize(
    "late", [vm_released(reason="restarted"), ClaimWithdrawn(preview_id=PREVIEW, reason="restarted"), vm_lost()]
)
def test_what_an_earlier_attempt_loses_late_is_claimed_again(late: Event) -> None:
    """The pool took this attempt's claim for granted while it still had the earlier one's: now there is neither."""
    assert effects(*story("ready"), preview_restarted(2), late) == [ClaimVm(PREVIEW, 2)]


def test_a_restart_that_is_heard_again_keeps_the_vm_that_came_since() -> None:
    """Its first hearing released the old VM; the one that is held by now is the new attempt's."""
    heard_again = effects(*story("ready"), preview_restarted(2), vm_acquired(2), of=-2)
    assert not [each for each in heard_again if isinstance(each, Send)]


def test_an_event_that_is_heard_again_does_not_replace_a_later_steps_timer() -> None:
    """What is over needs no limit; and no step's timer has another's name, so that one set late replaces none."""
    again = effects(*story("booting"), of=STEPS.index("installing") + 2)
    assert not [each for each in again if isinstance(each, SetTimer)]


@pytest.mark.parametrize("until", STEPS)
@pytest.mark.parametrize("later", [preview_restarted(2), preview_stopped(), preview_failed()])
def test_an_attempt_that_is_over_has_no_effects(until: str, later: Event) -> None:
    """Its events may be heard again, late: nothing is started for it."""
    past = [*story(until), later]
    assert [
        each
        for index in range(2, len(past) - 1)
        for each in effects(*past, of=index)
        if isinstance(each, SyncFiles | RunInstall | RunDevServer | Confirm)
    ] == []


@pytest.mark.parametrize(
    "end",
    [preview_stopped(), preview_failed(step="syncing_files"), preview_failed(code="vm_lost", step="server_ready")],
)
def test_an_end_releases_the_vm(end: Event) -> None:
    """Where there is nothing in it that the next try could build on."""
    assert effects(*story("ready"), end) == [RELEASE]


@pytest.mark.parametrize("step", ["installing", "waiting_server", "confirming", "server_ready"])
def test_a_failed_preview_keeps_its_vm_for_a_while(step: str) -> None:
    """The next try can go on in it; the timer ends that, unless the next try has begun."""
    past = [*story("booting"), preview_failed(step=step)]
    assert effects(*past) == [SetTimer("keep", PREVIEW, CONFIG.failed_keep_s, {"attempt": 1})]
    fired = TimerFired(name="keep", id=PREVIEW, key="k", data={"attempt": 1})
    assert list(on_timer(given(ORCHESTRATOR, *past).state, fired)) == [RELEASE]
    again = given(ORCHESTRATOR, *past, preview_restarted(2, in_place=True)).state
    assert list(on_timer(again, fired)) == []


def test_a_claim_that_waits_gets_the_vm_of_a_failed_preview() -> None:
    """The one that has failed longest lets it go."""
    past = [*story("booting"), preview_failed(step="waiting_server")]
    assert effects(*past, claim_queued("other")) == [Send(ReleaseVm(preview_id=PREVIEW, reason="needed"))]
    assert effects(*past, vm_released(), claim_queued("other")) == []
    assert effects(*story("ready"), claim_queued("other")) == []


def test_a_preparation_that_nobody_asked_for_makes_way_for_who_waits() -> None:
    """For a preview that somebody wants to see; another preparation waits."""
    asked = story("installed")
    prepared = [replace(event, prepare=True) if isinstance(event, PreviewRequested) else event for event in asked]
    wanted = preview_requested("other", "project-2")
    stop = Send(StopPreview(preview_id=PREVIEW, reason="needed"))
    assert effects(*prepared, preview_prepared(), wanted, claim_queued("other")) == [stop]
    another = replace(wanted, prepare=True)
    assert effects(*prepared, preview_prepared(), another, claim_queued("other")) == []
    assert effects(*prepared, preview_prepared(), preview_wanted(), wanted, claim_queued("other")) == []


def test_a_vm_that_was_let_go_as_its_next_try_began_counts_as_lost() -> None:
    past = [*story("booting"), preview_failed(step="waiting_server"), preview_restarted(2, in_place=True)]
    lost = Send(HandleVmLost(preview_id=PREVIEW, vm_id=VM, detail="it was released"))
    assert effects(*past, vm_released(reason="needed")) == [lost]


def test_an_in_place_restart_releases_nothing() -> None:
    past = [*story("booting"), preview_failed(step="waiting_server"), preview_restarted(2, in_place=True)]
    assert effects(*past) == [timer("preparing", CONFIG.acquire_limit_s, 2), Prepare(PREVIEW, 2)]


def test_other_variables_restart_what_runs_with_the_old_ones() -> None:
    changed = ProjectEnvChanged(project_id=PROJECT, env="object", names=("A",))
    assert effects(*story("ready"), changed) == [Send(RestartPreview(preview_id=PREVIEW, in_place=True))]
    assert effects(*story("detected"), changed) == []
    assert effects(*story("ready"), preview_stopped(), changed) == []


def test_what_is_prepared_waits_for_a_limited_time() -> None:
    past = [*story("installed"), preview_prepared()]
    assert effects(*past) == [timer("prepared", CONFIG.prepared_keep_s)]


@pytest.mark.parametrize("end", [preview_failed(), preview_stopped()])
def test_an_end_that_is_heard_after_a_restart_releases_nothing(end: Event) -> None:
    """The VM that is held by now is the next attempt's."""
    assert effects(*story("ready"), end, preview_restarted(2), vm_acquired(2), of=-3) == []


@pytest.mark.parametrize("past", [[], [*story("detected"), preview_stopped()]])
def test_a_vm_for_nobody_goes_back(past: list[Event]) -> None:
    """It came after the preview had ended, or was forgotten."""
    assert effects(*past, vm_acquired()) == [RELEASE]


def test_a_lost_vm_is_told_to_its_preview() -> None:
    assert effects(*story("ready"), vm_lost()) == [Send(HandleVmLost(preview_id=PREVIEW, vm_id=VM, detail="silent"))]
    assert effects(*story("ready"), vm_lost(preview=None)) == []


def test_a_claim_that_expired_fails_the_preview_with_a_hint() -> None:
    [effect] = effects(*story("detected"), ClaimExpired(preview_id=PREVIEW, waited_s=60.2))
    assert isinstance(effect, Send)
    assert isinstance(effect.command, FailPreview)
    assert (effect.command.code, effect.command.attempt, "60 s" in effect.command.message) == (
        "no_vm_available",
        1,
        True,
    )
    assert "DRAPE_POOL_MAXIMUM" in effect.command.hint


def test_a_claim_that_expired_beside_a_vm_fails_nothing() -> None:
    assert effects(*story("acquired"), ClaimExpired(preview_id=PREVIEW, waited_s=60)) == []
    assert effects(ClaimExpired(preview_id=PREVIEW, waited_s=60)) == []


@pytest.mark.parametrize("until", ["acquired", "installing", "booting", "confirming", "ready"])
def test_changed_files_go_into_the_live_preview(until: str) -> None:
    assert effects(*story(until), files_changed(2)) == [SyncFiles(PREVIEW, 1)]


@pytest.mark.parametrize("past", [story("detected"), [*story("ready"), preview_stopped()]])
def test_changed_files_wait_for_a_vm(past: list[Event]) -> None:
    """The first sync takes the newest version anyway; an ended preview takes none."""
    assert effects(*past, files_changed(2)) == []


def test_a_deleted_project_stops_its_previews() -> None:
    past = [*story("ready"), preview_requested("other", "project-2"), ProjectDeleted(project_id=PROJECT)]
    assert effects(*past) == [Send(StopPreview(preview_id=PREVIEW, reason="project_deleted"))]


@pytest.mark.parametrize("event", [files_synced(), install_failed(), dev_server_exited()])
def test_nothing_follows_from_the_rest(event: Event) -> None:
    """The command that wrote them goes on by itself."""
    assert effects(*story("installing"), event) == []


def test_every_event_that_has_effects_is_subscribed() -> None:
    """An event type outside REACTS_TO never arrives: it must have no effect."""
    samples = [*story("ready"), preview_restarted(2), vm_lost(), files_changed(2), preview_failed(), preview_stopped()]
    for end in range(1, len(samples) + 1):
        if effects(*samples[:end]):
            assert type(samples[end - 1]) in REACTS_TO


def test_a_step_timer_becomes_a_command() -> None:
    """With what it was set with; a timer of another version does no harm."""
    state = given(ORCHESTRATOR, *story("installing")).state
    fired = TimerFired(name="step", id=PREVIEW, key="k", data={"attempt": 1, "step": "installing"})
    assert on_timer(state, fired) == [Send(ExpireStep(preview_id=PREVIEW, attempt=1, step="installing"))]
    named = TimerFired(
        name="step", id="its own", key="k", data={"preview": PREVIEW, "attempt": 1, "step": "installing"}
    )
    assert on_timer(state, named) == on_timer(state, fired)
    assert on_timer(state, TimerFired(name="other", id=PREVIEW, key="k")) == []
