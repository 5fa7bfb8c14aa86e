"""Templates whose dev server runs ahead of need: which residents are requested and stopped, and who takes one over."""

import msgspec
import pytest

from services.orchestrator.react import on_timer, react
from services.orchestrator.rules import residents
from services.orchestrator.state import FORGET_AFTER_S, State
from shared.commands import (
    FailPreview,
    HandleVmLost,
    MaintainResidents,
    RecordFilesSynced,
    ReleaseVm,
    RestartPreview,
    StopPreview,
)
from shared.effects import Send
from shared.events import (
    Event,
    InstallSkipped,
    PreviewRequested,
    PreviewRestarted,
    PreviewStopped,
    ProjectDetected,
    ProjectEnvChanged,
    ProjectResidentsChanged,
    VmAcquired,
)
from shared.ids import derive_keyed
from shared.ports import TimerFired
from shared.secrets import preview_key
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    claim_queued,
    dev_server_ready,
    files_changed,
    files_synced,
    preview_failed,
    preview_requested,
    preview_stopped,
    project_created,
    project_detected,
    story,
    vm_acquired,
)
from tests.orchestrator.test_decide import CONFIG, orchestrator
from tests.spec import AT, Past

TEMPLATE = "template-1"
MAINTAIN = MaintainResidents()
DETECTED = msgspec.structs.replace(project_detected(), keeps=True, dev_command=("vite", "--port", "{port}"))


def resident_id(number: int = 1) -> str:
    return derive_keyed(preview_key(""), TEMPLATE, "resident", number)


def requested(number: int = 1, version: int = 1) -> PreviewRequested:
    return PreviewRequested(
        preview_id=resident_id(number), project_id=TEMPLATE, owner=OWNER, files_version=version, resident=True
    )


def template(count: int = 1, owner: str = OWNER) -> list[Event]:
    created = project_created(TEMPLATE, owner, "template")
    return [created, files_changed(project=TEMPLATE), ProjectResidentsChanged(project_id=TEMPLATE, count=count)]


def running(number: int = 1, owner: str = OWNER) -> list[Event]:
    """A resident's way to ready: as any other preview's."""
    way = [event for event in story("ready") if getattr(event, "preview_id", "") == PREVIEW]
    events: list[Event] = [msgspec.structs.replace(requested(number), owner=owner)]
    for event in way:
        if isinstance(event, PreviewRequested):
            continue
        changes: dict[str, object] = {"preview_id": resident_id(number)}
        if isinstance(event, ProjectDetected):
            changes |= {"keeps": True, "dev_command": DETECTED.dev_command}
        if isinstance(event, VmAcquired):
            changes |= {"vm_id": f"vm-r{number}", "owner": owner}
        events.append(msgspec.structs.replace(event, **changes))
    return events


def shop(*, owner: str = OWNER, project: str = PROJECT) -> list[Event]:
    """Another project, whose preview is known, and has no VM."""
    requested_one = msgspec.structs.replace(preview_requested(project=project), owner=owner)
    return [project_created(project, owner), files_changed(project=project), requested_one, DETECTED]


def taken(number: int = 1) -> VmAcquired:
    return msgspec.structs.replace(vm_acquired(), vm_id=f"vm-r{number}", resident=resident_id(number))


# --- how many ---------------------------------------------------------------------------------------------------------


def test_a_template_gets_its_residents() -> None:
    orchestrator(*template(2)).when(MAINTAIN).then(requested(1), requested(2))


def test_asked_again_nothing_is_requested_twice() -> None:
    again = msgspec.structs.replace(MAINTAIN, id="again")
    orchestrator(*template(2)).when(MAINTAIN, again).stays_quiet()


def test_a_resident_is_not_the_projects_preview() -> None:
    """The template itself can be shown beside its residents; its previews are counted for themselves."""
    state = orchestrator(*template(), *running()).state
    project = state.projects[TEMPLATE]
    assert (project.live, project.newest, project.previews, project.residents_made) == (None, "", 0, 1)


@pytest.mark.parametrize(
    ("then", "stopped"),
    [
        (ProjectResidentsChanged(project_id=TEMPLATE, count=0), "surplus"),
        (files_changed(2, TEMPLATE), "outdated"),
        (ProjectEnvChanged(project_id=TEMPLATE, env="object", names=("KEY",)), "surplus"),
    ],
)
def test_residents_of_no_use_are_stopped(then: Event, stopped: str) -> None:
    spec = orchestrator(*template(), *running(), then).when(MAINTAIN)
    assert isinstance(spec.outcome, list)
    assert spec.outcome[0] == PreviewStopped(preview_id=resident_id(), reason=stopped)
    more = [requested(2, version=2)] if stopped == "outdated" else []
    assert spec.outcome[1:] == more


def test_a_resident_is_found_by_its_index_until_it_is_forgotten() -> None:
    """Whoever asks for a preview looks among the residents, not among all that are remembered."""
    past: list[Past] = [*template(), *running(), *shop()]
    assert list(orchestrator(*past).state.residents) == [resident_id()]
    stopped = msgspec.structs.replace(preview_stopped(), preview_id=resident_id())
    later = msgspec.structs.replace(preview_requested("preview-9"), project_id=PROJECT)
    state = orchestrator(*past, stopped, (AT + FORGET_AFTER_S, later)).state
    assert (list(state.residents), resident_id() in state.previews) == ([], False)


def test_a_template_that_fails_is_not_tried_at_once() -> None:
    """After a while it is, and with other files at once."""
    failed = msgspec.structs.replace(preview_failed(), preview_id=resident_id())
    past: list[Past] = [*template(), *running()[:-1], failed]
    orchestrator(*past).when(MAINTAIN).stays_quiet()
    later = msgspec.structs.replace(MAINTAIN, at=AT + CONFIG.resident_retry_s)
    orchestrator(*past).when(later).then(requested(2))
    orchestrator(*past, files_changed(2, TEMPLATE)).when(MAINTAIN).then(requested(2, version=2))


def test_a_failed_resident_holds_no_vm() -> None:
    """Nobody will come for the next try."""
    failed = msgspec.structs.replace(preview_failed(), preview_id=resident_id())
    spec = orchestrator(*template(), *running()[:-1], failed)
    assert spec.state.previews[resident_id()].vm is None
    assert react(spec.state, spec.log[-1], CONFIG) == [Send(ReleaseVm(preview_id=resident_id(), reason="ended"))]


def test_while_somebody_waits_for_a_vm_no_resident_is_requested() -> None:
    orchestrator(*template(), *shop()).when(MAINTAIN).stays_quiet()


def test_who_waits_for_a_vm_gets_a_residents() -> None:
    """But not where what waits is another resident."""
    spec = orchestrator(*template(), *running(), *shop(), claim_queued())
    assert react(spec.state, spec.log[-1], CONFIG) == [Send(StopPreview(preview_id=resident_id(), reason="needed"))]
    spec = orchestrator(*template(2), *running(), requested(2), claim_queued(resident_id(2)))
    assert react(spec.state, spec.log[-1], CONFIG) == []


@pytest.mark.parametrize(
    "event",
    [
        ProjectResidentsChanged(project_id=TEMPLATE, count=3),
        files_changed(2, TEMPLATE),
        ProjectEnvChanged(project_id=TEMPLATE, env="object", names=("KEY",)),
    ],
)
def test_what_changes_a_template_has_its_residents_looked_after(event: Event) -> None:
    spec = orchestrator(*template(), event)
    assert Send(MAINTAIN) in react(spec.state, spec.log[-1], CONFIG)
    assert on_timer(spec.state, TimerFired(name="residents", id="", key="1")) == [Send(MAINTAIN)]


def test_an_edit_of_any_other_project_has_nothing_to_do_with_residents() -> None:
    spec = orchestrator(*template(), *story("ready"), files_changed(2))
    assert Send(MAINTAIN) not in react(spec.state, spec.log[-1], CONFIG)


def test_a_resident_whose_vm_is_lost_is_over() -> None:
    lost = HandleVmLost(preview_id=resident_id(), vm_id="vm-r1", detail="silent")
    spec = orchestrator(*template(), *running()).when(lost)
    spec.then(PreviewStopped(preview_id=resident_id(), reason="vm_lost"))


def test_a_resident_is_not_restarted() -> None:
    orchestrator(*template(), *running()).when(RestartPreview(preview_id=resident_id())).refuses("resident_preview")


# --- which one --------------------------------------------------------------------------------------------------------


def fitting(*past: Past) -> str:
    """The id of the resident that fits the preview; empty: none."""
    state: State = orchestrator(*past).state
    preview = state.previews[PREVIEW]
    found = residents.first_fitting(residents.candidates(state, preview), preview)
    return found.preview_id if found is not None else ""


def test_one_with_the_same_jobs_fits() -> None:
    past = [*template(2), *running(), *running(2), *shop()]
    assert fitting(*past) == resident_id(1)
    assert residents.may_fit(orchestrator(*past[:-1]).state, orchestrator(*past).state.previews[PREVIEW])


@pytest.mark.parametrize(
    "changes",
    [
        {"deps": "other"},
        {"keeps": False},
        {"deps": ""},
        {"dev_command": ("next", "dev")},
        {"dev_env": {"NODE_ENV": "test"}},
        {"app_root": "app"},
        {"install_root": "app"},
        {"version": "6.0.0"},
        {"framework": "astro"},
        {"ready_path": "/docs"},
    ],
)
def test_one_with_other_jobs_does_not(changes: dict[str, object]) -> None:
    detected = msgspec.structs.replace(DETECTED, **changes)
    assert fitting(*template(), *running(), *shop()[:-1], detected) == ""


@pytest.mark.parametrize(
    "changes",
    [{"framework": "express", "dev_command": ("node", "server.js")}, {"dev_command": ("node", "server.js")}],
)
def test_a_server_that_goes_on_with_its_old_code_is_never_taken_over(changes: dict[str, object]) -> None:
    """Not even where everything is the same: only a framework's own dev server takes other files in."""

    def changed(event: Event) -> Event:
        return msgspec.structs.replace(event, **changes) if isinstance(event, ProjectDetected) else event

    assert fitting(*map(changed, [*template(), *running(), *shop()])) == ""


@pytest.mark.parametrize(
    "more",
    [
        [msgspec.structs.replace(preview_stopped(), preview_id=resident_id())],
        [msgspec.structs.replace(dev_server_ready(), preview_id=resident_id(), with_errors=True)],
        [ProjectEnvChanged(project_id=TEMPLATE, env="object", names=("KEY",))],
        [ProjectEnvChanged(project_id=PROJECT, env="object", names=("KEY",))],
    ],
)
def test_one_that_ended_or_shows_an_error_or_where_variables_matter_does_not(more: list[Event]) -> None:
    assert fitting(*template(), *running(), *shop(), *more) == ""


@pytest.mark.parametrize(
    ("changed", "takes"),
    [
        ((), True),
        (("src/App.tsx", "public/logo.svg", "index.html", "app/page.tsx"), True),
        (("src/App.tsx", "title.txt"), False),
        (("vite.config.ts",), False),
        ((".env",), False),
        (("src/.env.local",), False),
        (("config/site.json",), False),
        (("packages/ui/index.ts",), False),
        (("src",), True),
    ],
)
def test_a_server_takes_in_its_sources_and_nothing_that_it_was_started_with(
    changed: tuple[str, ...], takes: bool
) -> None:
    """A configuration may have read any file beside them, into the process itself: a title, a version, a secret."""
    found = orchestrator(*template(), *running()).state.previews[resident_id()].found
    assert found is not None
    assert residents.takes_in(found, changed) == takes
    below = msgspec.structs.replace(found, app_root="apps/web")
    assert residents.takes_in(below, [f"apps/web/{path}" for path in changed]) == takes
    assert not residents.takes_in(below, ["src/App.tsx"])


def test_residents_that_wait_for_a_vm_make_way_too() -> None:
    """Claims are served in order: the VM that is given up would be theirs."""
    past = [*template(3), *running(), requested(2), claim_queued(resident_id(2)), *shop(), claim_queued()]
    spec = orchestrator(*past)
    stops = [Send(StopPreview(preview_id=resident_id(number), reason="needed")) for number in (2, 1)]
    assert react(spec.state, spec.log[-1], CONFIG) == stops


def test_nobody_gets_another_owners() -> None:
    assert fitting(*template(owner="bob"), *running(owner="bob"), *shop()) == ""


def test_a_preview_that_has_not_begun_to_run_is_not_taken_for_one() -> None:
    assert fitting(*template(), *running()[:-1], *shop()) == ""


# --- taking over --------------------------------------------------------------------------------------------------


def test_taking_over_a_vm_is_holding_it_with_all_that_is_there() -> None:
    """The resident holds nothing any more, is stopped, and missed."""
    spec = orchestrator(*template(), *running(), *shop(), taken())
    preview, resident = spec.state.previews[PREVIEW], spec.state.previews[resident_id()]
    assert (preview.status, preview.vm is not None, preview.installed) == ("syncing", True, DETECTED.deps)
    assert preview.template is not None
    assert (preview.template.project_id, preview.template.manifest) == (TEMPLATE, "manifest-1")
    assert resident.vm is None
    effects = react(spec.state, spec.log[-1], CONFIG)
    assert effects[:2] == [Send(StopPreview(preview_id=resident_id(), reason="taken")), Send(MAINTAIN)]
    spec.when(MAINTAIN)
    assert isinstance(spec.outcome, list)
    assert spec.outcome[-1] == requested(2)


def test_the_one_that_gave_its_vm_up_releases_nothing_of_it() -> None:
    """The release that follows its end names the resident, which holds nothing: the pool does nothing."""
    stopped = msgspec.structs.replace(preview_stopped("taken"), preview_id=resident_id())
    spec = orchestrator(*template(), *running(), *shop(), taken(), stopped)
    assert react(spec.state, spec.log[-1], CONFIG) == [Send(ReleaseVm(preview_id=resident_id(), reason="ended"))]
    assert spec.state.previews[PREVIEW].vm is not None


def test_what_the_next_holder_does_in_the_vm_is_no_failure_of_the_resident() -> None:
    """Its agent refuses who held the VM before: were that a failure, its template would wait before it gets another."""
    late = FailPreview(preview_id=resident_id(), attempt=1, code="lease_over", message="Another holds this VM.")
    orchestrator(*template(), *running(), *shop(), taken()).when(late).stays_quiet()


def synced(*, needs_restart: bool = False) -> RecordFilesSynced:
    return RecordFilesSynced(
        preview_id=PREVIEW, attempt=1, files_version=1, written=1, deleted=0, sync_s=0.1, needs_restart=needs_restart
    )


def test_its_install_is_skipped_and_its_dev_server_goes_on() -> None:
    spec = orchestrator(*template(), *running(), *shop(), taken()).when(synced())
    assert isinstance(spec.outcome, list)
    kinds = [type(event).__name__ for event in spec.outcome]
    assert kinds == ["FilesSynced", "InstallSkipped", "DevServerStarted"]
    skipped = spec.outcome[1]
    assert isinstance(skipped, InstallSkipped)
    assert (skipped.reason, skipped.key) == ("resident", DETECTED.deps)


def test_where_the_dev_server_can_not_take_the_files_in_it_begins_anew() -> None:
    """In that VM, whose dependencies are the right ones all the same."""
    spec = orchestrator(*template(), *running(), *shop(), taken()).when(synced(needs_restart=True))
    assert isinstance(spec.outcome, list)
    [restarted] = spec.outcome
    assert isinstance(restarted, PreviewRestarted)
    assert restarted.in_place
    preview = spec.state.previews[PREVIEW]
    assert (preview.template, preview.installed, preview.attempt) == (None, DETECTED.deps, 2)


def test_its_short_times_teach_nothing_about_the_framework() -> None:
    past: list[Past] = [*template(), *running(), *shop(), taken()]
    before = dict(orchestrator(*past).state.history_s["vite"])
    way = [files_synced(), *story("ready")[-3:]]
    spec = orchestrator(*past, *((AT + 5 + number, event) for number, event in enumerate(way)))
    assert spec.state.previews[PREVIEW].status == "ready"
    assert spec.state.history_s["vite"] == before
