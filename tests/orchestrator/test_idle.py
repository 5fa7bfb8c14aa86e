"""Idle previews: when one is suspended, what wakes it, which of many go; as decisions, reactions and state."""

import msgspec
import pytest

from services.orchestrator.app import definition
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.idling import Idler
from services.orchestrator.react import Effect, SuspendIdle, SyncFiles, on_timer, react
from services.orchestrator.state import PROVEN_AFTER_S, State, losses_in_a_row
from shared.commands import (
    Command,
    FailPreview,
    HandleVmLost,
    RecordDevServerExited,
    RecordFilesSynced,
    RequestPreview,
    RestartPreview,
    ResumePreview,
    ResumeVm,
    StopPreview,
    SuspendPreview,
    SuspendVm,
)
from shared.effects import Send
from shared.events import Event, PreviewEvent, PreviewRequested, ProjectEnvChanged
from shared.ports import Cause, TimerFired
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    VM,
    claim_queued,
    dev_server_exited,
    dev_server_ready,
    files_changed,
    files_synced,
    preview_failed,
    preview_ready,
    preview_requested,
    preview_restarted,
    preview_resumed,
    preview_stopped,
    preview_suspended,
    project_created,
    project_detected,
    story,
    vm_acquired,
    vm_frozen,
    vm_lost,
    vm_resumed,
    vm_suspended,
)
from tests.spec import AT, Given, Past, given

CONFIG = OrchestratorConfig()
SUSPEND = SuspendPreview(preview_id=PREVIEW, attempt=1, idle_s=300.0)
RESUME = ResumePreview(preview_id=PREVIEW, reason="request")
ASLEEP: list[Past] = [*story(), preview_suspended()]
OTHERS = ("preview-2", "preview-3", "preview-4")


def orchestrator(*past: Past) -> Given[State]:
    return given(definition(CONFIG), *past)


def effects(*past: Past, of: int = -1, config: OrchestratorConfig = CONFIG) -> list[Effect]:
    """What follows from the last of these events, or from another one where it is heard only now."""
    spec = orchestrator(*past)
    return list(react(spec.state, spec.log[of], config))


# --- suspending ---------------------------------------------------------------------------------------------------


def test_a_ready_preview_is_suspended() -> None:
    orchestrator(*story()).when(SUSPEND).then(preview_suspended(idle_s=300.0)).when(SUSPEND).stays_quiet()


@pytest.mark.parametrize("until", ["requested", "synced", "installing", "booting", "confirming"])
def test_what_is_not_ready_is_not(until: str) -> None:
    orchestrator(*story(until)).when(SUSPEND).stays_quiet()


@pytest.mark.parametrize(
    "later",
    [
        [preview_suspended()],
        [preview_stopped()],
        [preview_failed()],
        [preview_restarted(2)],
        [files_changed(2)],
    ],
    ids=["suspended", "stopped", "failed", "restarted", "edited"],
)
def test_what_is_over_or_behind_is_not(later: list[Event]) -> None:
    """An edit that is not in the VM yet would be frozen on its way."""
    orchestrator(*story(), *later).when(SUSPEND).stays_quiet()


def test_a_preview_that_is_not_known_is_not() -> None:
    orchestrator().when(SUSPEND).stays_quiet()


def test_the_tick_looks_for_what_is_idle() -> None:
    fired = TimerFired(name="idle", id="tick", key="idle-tick-1")
    assert on_timer(orchestrator(*story()).state, fired) == [SuspendIdle()]


def test_its_vm_is_suspended_with_it() -> None:
    assert effects(*ASLEEP) == [Send(SuspendVm(preview_id=PREVIEW))]


def test_a_suspension_that_is_heard_late_freezes_nothing() -> None:
    """It has been woken, stopped or begun anew meanwhile."""
    for later in (preview_resumed(), preview_stopped(), preview_restarted(2)):
        assert effects(*ASLEEP, later, of=-2) == []


def test_an_edit_that_came_just_before_wakes_it_at_once() -> None:
    """Two replicas: the one that suspended it had not read of the edit."""
    past = [*story(), files_changed(2), preview_suspended()]
    assert effects(*past) == [Send(ResumePreview(preview_id=PREVIEW, reason="edit"))]


class Idle:
    """An `Idler` on a clock of its own; `asked`: for which previews it has asked."""

    def __init__(self, *past: Past, config: OrchestratorConfig = CONFIG) -> None:
        self.now = AT
        self.asked: list[SuspendPreview] = []
        self.idler = Idler(self._send, lambda: self.state, config, lambda: self.now)
        self.state = orchestrator(*past).state

    async def _send(self, command: Command, _cause: Cause) -> None:
        assert isinstance(command, SuspendPreview)
        self.asked.append(command)

    async def look(self, at: float) -> list[str]:
        self.now, self.asked = at, []
        await self.idler.suspend_idle(Cause(causation_id="tick"))
        return [each.preview_id for each in self.asked]


async def test_idle_counts_from_the_last_use() -> None:
    """Ready, or used, or the start of the replica that looks: the newest counts."""
    idle = Idle((AT - 5000, project_created()), *((AT - 5000, each) for each in story()[1:]))
    assert await idle.look(AT + CONFIG.suspend_after_s - 1) == []
    idle.idler.note(PREVIEW)
    assert await idle.look(AT + 2 * CONFIG.suspend_after_s - 2) == []
    assert await idle.look(AT + 2 * CONFIG.suspend_after_s) == [PREVIEW]
    assert idle.asked[0].idle_s == CONFIG.suspend_after_s + 1


async def test_nobody_is_suspended_where_that_is_switched_off() -> None:
    idle = Idle(*story(), config=OrchestratorConfig(suspend_after_s=0))
    assert await idle.look(AT + 1e6) == []


async def test_only_what_is_known_is_remembered() -> None:
    """Whatever is told on the wire: there is no more of it than there are previews."""
    idle = Idle(*story())
    for number in range(100):
        idle.idler.note(f"preview-{number}")
    assert set(idle.idler._used_at) == {PREVIEW}
    idle.state = State()
    idle.idler.note(PREVIEW)
    assert idle.idler._used_at == {}


# --- waking -------------------------------------------------------------------------------------------------------


def test_a_suspended_preview_is_woken_once() -> None:
    slept: list[Past] = [*story(), (AT - 60, preview_suspended())]
    spec = orchestrator(*slept).when(RESUME).then(preview_resumed(suspended_s=60.0))
    spec.when(msgspec.structs.replace(RESUME, id="another")).stays_quiet()


@pytest.mark.parametrize("later", [[], [preview_stopped()], [preview_failed()]])
def test_what_does_not_sleep_is_not_woken(later: list[Event]) -> None:
    orchestrator(*story(), *later).when(RESUME).stays_quiet()


def test_an_unknown_preview_cant_be_woken() -> None:
    orchestrator().when(RESUME).refuses("preview_not_found")


@pytest.mark.parametrize("with_errors", [False, True])
def test_it_comes_back_as_it_was(with_errors: bool) -> None:
    broken = msgspec.structs.replace(dev_server_ready(), with_errors=with_errors)
    before = orchestrator(*story("booting"), broken, preview_ready())
    after = orchestrator(
        *story("booting"), broken, preview_ready(), preview_suspended(), vm_frozen(), preview_resumed()
    )
    assert after.state.previews == before.state.previews


REQUEST = RequestPreview(project_id=PROJECT, owner=OWNER)
RESTART = RestartPreview(preview_id=PREVIEW)
EDITED = RecordFilesSynced(
    preview_id=PREVIEW, attempt=1, files_version=2, written=1, deleted=0, sync_s=0.1, needs_restart=True
)
EXITED = RecordDevServerExited(preview_id=PREVIEW, attempt=1, exit_code=1, signal=None)
FAIL = FailPreview(preview_id=PREVIEW, attempt=1, code="install_failed", message="No.", hint="Look.")


@pytest.mark.parametrize(
    ("command", "events"),
    [
        (REQUEST, [preview_resumed()]),
        (RESTART, [preview_resumed(reason="restart"), preview_restarted(2)]),
        (
            msgspec.structs.replace(RESTART, in_place=True),
            [preview_resumed(reason="restart"), preview_restarted(2, "edited", in_place=True)],
        ),
        (EDITED, [preview_resumed(reason="edit"), preview_restarted(2, "edited", in_place=True)]),
        (
            EXITED,
            [
                preview_resumed(reason="dev_server"),
                dev_server_exited(),
            ],
        ),
        (FAIL, [preview_resumed(reason="failure"), preview_failed(step="server_ready")]),
    ],
    ids=["request", "restart", "restart_in_place", "edit", "exit", "failure"],
)
def test_what_needs_it_awake_wakes_it_first(command: Command, events: list[Event]) -> None:
    """And is then carried out as ever, all by one command."""
    spec = orchestrator(*ASLEEP).when(command)
    assert isinstance(spec.outcome, list)
    assert spec.outcome[: len(events)] == events
    spec.when(command).stays_quiet()


def test_a_request_for_another_app_wakes_it_and_begins_it_anew() -> None:
    wanted = msgspec.structs.replace(REQUEST, app="docs")
    orchestrator(*ASLEEP).when(wanted).then(preview_resumed(), preview_restarted(2, in_place=True, app="docs"))


def test_a_preparation_lets_it_sleep() -> None:
    orchestrator(*ASLEEP).when(msgspec.structs.replace(REQUEST, prepare=True)).stays_quiet()


def test_a_report_of_an_earlier_attempt_lets_it_sleep() -> None:
    second = [preview_restarted(2, in_place=True), project_detected(2), files_synced(2)]
    rest = [msgspec.structs.replace(each, attempt=2) for each in (dev_server_ready(), preview_ready())]
    past = [*story(), *second, *rest, preview_suspended(2)]
    orchestrator(*past).when(EXITED).stays_quiet()


def test_a_stop_does_not_wake_it() -> None:
    orchestrator(*ASLEEP).when(StopPreview(preview_id=PREVIEW)).then(preview_stopped())


def test_a_lost_vm_is_replaced_as_that_of_a_ready_preview() -> None:
    lost = HandleVmLost(preview_id=PREVIEW, vm_id=VM, detail="gone")
    orchestrator(*ASLEEP, vm_lost()).when(lost).then(preview_restarted(2, "vm_lost"))


def test_a_long_sleep_proves_a_preview_as_a_long_run_does() -> None:
    state = orchestrator(*story(), preview_restarted(2, "vm_lost")).state
    preview = msgspec.structs.replace(state.previews[PREVIEW], status="suspended")
    assert losses_in_a_row(preview, preview.status_at) == 1
    assert losses_in_a_row(preview, preview.status_at + PROVEN_AFTER_S) == 0


def test_its_vm_is_woken_with_it() -> None:
    assert effects(*ASLEEP, preview_resumed()) == [Send(ResumeVm(preview_id=PREVIEW))]


def test_the_vm_of_one_that_failed_as_it_woke_is_woken_all_the_same() -> None:
    """It is kept for the next try."""
    past = [*ASLEEP, preview_resumed(), preview_failed(step="server_ready")]
    assert effects(*past, of=-2) == [Send(ResumeVm(preview_id=PREVIEW))]


def test_what_it_lacks_is_brought_in() -> None:
    past = [*ASLEEP, files_changed(2), preview_resumed()]
    assert effects(*past) == [Send(ResumeVm(preview_id=PREVIEW)), SyncFiles(PREVIEW, 1)]


def test_an_edit_wakes_it() -> None:
    assert effects(*ASLEEP, files_changed(2)) == [Send(ResumePreview(preview_id=PREVIEW, reason="edit"))]


def test_new_variables_restart_it() -> None:
    changed = ProjectEnvChanged(project_id=PROJECT, env="env-1", names=("KEY",))
    assert effects(*ASLEEP, changed) == [Send(RestartPreview(preview_id=PREVIEW, in_place=True))]


# --- the VM's own word --------------------------------------------------------------------------------------------


def test_a_vm_that_was_suspended_too_late_is_woken() -> None:
    """The wish to suspend it had been overtaken by the wish to wake it."""
    assert effects(*ASLEEP, preview_resumed(), vm_suspended()) == [Send(ResumeVm(preview_id=PREVIEW))]
    assert effects(*ASLEEP, vm_suspended()) == []


def test_a_vm_that_cant_stand_still_keeps_its_preview_awake() -> None:
    resume = Send(ResumePreview(preview_id=PREVIEW, reason="vm"))
    assert effects(*ASLEEP, vm_suspended(), vm_resumed()) == [resume]
    assert effects(*ASLEEP, preview_resumed(), vm_resumed()) == []


def test_nobody_cares_for_the_vm_of_a_preview_that_is_over() -> None:
    for event in (vm_suspended(), vm_frozen(), vm_resumed()):
        assert effects(*ASLEEP, preview_stopped(), event) == []


# --- the coldest go -----------------------------------------------------------------------------------------------


def another(preview: str, number: int) -> list[Past]:
    """A preview of another project, asleep in its VM."""
    project = f"project-{number}"
    begun: list[Event] = [project_created(project), files_changed(project=project), preview_requested(preview, project)]
    steps: list[PreviewEvent] = [
        project_detected(),
        files_synced(),
        dev_server_ready(),
        preview_ready(),
        preview_suspended(),
    ]
    own = [msgspec.structs.replace(each, preview_id=preview) for each in steps]
    return [(AT + number, event) for event in (*begun, vm_acquired(number, preview), *own)]


def stop(preview: str, reason: str) -> Send:
    return Send(StopPreview(preview_id=preview, reason=reason, if_suspended=True))


def asleep(count: int, memory_mb: int = 0) -> list[Past]:
    """So many previews, the first one asleep longest."""
    past: list[Past] = [*ASLEEP]
    for number, preview in enumerate(OTHERS[: count - 1], 2):
        past += another(preview, number)
    if memory_mb:
        past += [vm_frozen(number, name, memory_mb) for number, name in enumerate((PREVIEW, *OTHERS)[:count], 1)]
    return past


@pytest.mark.parametrize(("most", "gone"), [(3, []), (2, [PREVIEW]), (1, [PREVIEW, "preview-2"])])
def test_of_more_than_may_sleep_the_coldest_are_stopped(most: int, gone: list[str]) -> None:
    config = OrchestratorConfig(suspended_max=most)
    suspend = Send(SuspendVm(preview_id="preview-3"))
    assert effects(*asleep(3), config=config) == [suspend, *(stop(preview, "memory") for preview in gone)]


@pytest.mark.parametrize(("most_mb", "gone"), [(600, []), (599, [PREVIEW]), (300, [PREVIEW, "preview-2"])])
def test_of_more_memory_than_may_be_held_the_coldest_are_stopped(most_mb: int, gone: list[str]) -> None:
    config = OrchestratorConfig(suspended_mb_max=most_mb)
    assert effects(*asleep(3, 200), config=config) == [stop(preview, "memory") for preview in gone]


def test_one_that_was_woken_meanwhile_is_not_stopped() -> None:
    wish = StopPreview(preview_id=PREVIEW, reason="memory", if_suspended=True)
    orchestrator(*ASLEEP).when(wish).then(preview_stopped("memory"))
    orchestrator(*ASLEEP, preview_resumed()).when(wish).stays_quiet()


WAITING: list[Past] = [
    project_created("project-9"),
    files_changed(project="project-9"),
    preview_requested("preview-9", "project-9"),
    claim_queued("preview-9"),
]


def test_a_claim_that_waits_takes_the_vm_of_the_coldest() -> None:
    assert effects(*asleep(2), *WAITING) == [stop(PREVIEW, "needed")]


def test_a_claim_that_waits_takes_the_vm_of_the_next_that_falls_asleep() -> None:
    past = [*story(), *WAITING, preview_suspended()]
    assert effects(*past) == [Send(SuspendVm(preview_id=PREVIEW)), stop(PREVIEW, "needed")]


def test_a_claim_that_has_got_its_vm_takes_no_other() -> None:
    past = [*story(), *WAITING, vm_acquired(9, "preview-9"), preview_suspended()]
    assert effects(*past) == [Send(SuspendVm(preview_id=PREVIEW))]


def test_a_preparation_takes_no_vm_of_one_that_sleeps() -> None:
    prepared = [msgspec.structs.replace(e, prepare=True) if isinstance(e, PreviewRequested) else e for e in WAITING[:3]]
    assert effects(*asleep(2), *prepared, claim_queued("preview-9")) == []
