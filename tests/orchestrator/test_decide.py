"""Every command of the orchestrator: the right events, a no where it belongs, silence when it is repeated."""

import msgspec
import pytest

from services.orchestrator.app import definition
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.state import PROVEN_AFTER_S, State
from shared.commands import (
    Command,
    ConfirmPreview,
    ExpireStep,
    FailPreview,
    HandleVmLost,
    PreviewReply,
    PreviewWarning,
    RecordDevServerExited,
    RecordDevServerReady,
    RecordFilesSynced,
    RecordHmr,
    RecordInstallCompleted,
    RecordInstallFailed,
    RequestPreview,
    RestartPreview,
    StopPreview,
)
from shared.events import Event, PreviewFailed, PreviewRequested, ProjectDeleted
from shared.ids import derive_keyed
from shared.secrets import preview_key
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
    install_completed,
    install_failed,
    install_skipped,
    install_started,
    preview_failed,
    preview_ready,
    preview_requested,
    preview_restarted,
    preview_stopped,
    project_created,
    project_detected,
    record_project,
    story,
    vm_acquired,
    warning_raised,
)
from tests.spec import AT, Given, Past, given

CONFIG = OrchestratorConfig()
ORCHESTRATOR = definition(CONFIG)


def orchestrator(*past: Past) -> Given[State]:
    return given(ORCHESTRATOR, *past)


def other(command: Command) -> Command:
    """The same wish under another id."""
    return msgspec.structs.replace(command, id="another-command")


def failure(spec: Given[State]) -> tuple[str, str]:
    """(code, step) of the one PreviewFailed that the command led to, whose words must be there."""
    assert isinstance(spec.outcome, list), spec.outcome
    [event] = spec.outcome
    assert isinstance(event, PreviewFailed), event
    assert event.message
    assert event.hint
    return event.code, event.step


# --- RequestPreview -----------------------------------------------------------------------------------------------

WARNING = PreviewWarning(
    code="nextjs_version",
    message="Next.js 16.0.1 has known dev server hanging issues.",
    version="16.0.1",
    recommendation="15.3.0",
    link="https://github.com/vercel/next.js/discussions/77102",
)
REQUEST = RequestPreview(project_id=PROJECT, owner=OWNER)


def first_preview(number: int = 1) -> PreviewRequested:
    return preview_requested(derive_keyed(preview_key(""), PROJECT, "preview", number))


def test_a_project_with_files_is_shown() -> None:
    """The preview's id follows from the project's and a count, and the answer says that it is new."""
    spec = orchestrator(project_created(), files_changed()).when(REQUEST).then(first_preview())
    assert spec.answer() == PreviewReply(preview_id=first_preview().preview_id, status="preparing", created=True)


def test_who_asks_again_shares_the_live_preview() -> None:
    """Two previews of one project at once are one preview; only the first asker made it."""
    spec = orchestrator(project_created(), files_changed()).when(REQUEST, other(REQUEST)).stays_quiet()
    assert spec.answer() == PreviewReply(preview_id=first_preview().preview_id, status="preparing", created=False)


def test_request_twice_does_its_work_once() -> None:
    """Even where the preview ended between the two: the same id is not a new wish."""
    stop = StopPreview(preview_id=first_preview().preview_id, id="stop")
    spec = orchestrator(project_created(), files_changed()).when(REQUEST, REQUEST).stays_quiet()
    spec.when(stop, REQUEST).stays_quiet()
    assert spec.answer() == PreviewReply(preview_id=first_preview().preview_id, status="stopped", created=True)


def test_after_its_end_a_project_gets_another_preview() -> None:
    spec = orchestrator(project_created(), files_changed()).when(REQUEST)
    spec.when(StopPreview(preview_id=first_preview().preview_id, id="stop"), other(REQUEST)).then(first_preview(2))


@pytest.mark.parametrize("past", [[], [project_created(owner="bob"), files_changed()]])
def test_request_refuses_unknown_projects_and_those_of_others(past: list[Event]) -> None:
    """The two look the same."""
    orchestrator(*past).when(REQUEST).refuses("project_not_found")


def test_request_refuses_a_deleted_project() -> None:
    past = [project_created(), files_changed(), ProjectDeleted(project_id=PROJECT)]
    orchestrator(*past).when(REQUEST).refuses("project_not_found")


def test_request_refuses_a_project_without_files() -> None:
    orchestrator(project_created()).when(REQUEST).refuses("project_without_files")


# --- StopPreview --------------------------------------------------------------------------------------------------

STOP = StopPreview(preview_id=PREVIEW)
RUNNING = ("requested", "detected", "acquired", "synced", "installing", "installed", "booting", "confirming", "ready")


@pytest.mark.parametrize("until", RUNNING)
def test_stop_ends_a_preview_wherever_it_is(until: str) -> None:
    orchestrator(*story(until)).when(STOP).then(preview_stopped()).when(STOP).stays_quiet()


@pytest.mark.parametrize("end", [preview_failed(), preview_stopped()])
def test_what_has_ended_is_not_stopped(end: Event) -> None:
    orchestrator(*story("installing"), end).when(STOP).stays_quiet()


@pytest.mark.parametrize("command", [STOP, RestartPreview(preview_id=PREVIEW)])
def test_users_are_told_of_an_unknown_preview(command: Command) -> None:
    orchestrator().when(command).refuses("preview_not_found")


def test_a_reason_is_cut() -> None:
    spec = orchestrator(*story("ready")).when(StopPreview(preview_id=PREVIEW, reason="x" * 10_000))
    spec.then(preview_stopped("x" * 200))


# --- RestartPreview -----------------------------------------------------------------------------------------------

RESTART = RestartPreview(preview_id=PREVIEW)


@pytest.mark.parametrize("until", RUNNING)
def test_restart_begins_the_next_attempt_wherever_it_is(until: str) -> None:
    orchestrator(*story(until)).when(RESTART).then(preview_restarted(2))


@pytest.mark.parametrize(("end", "in_place"), [(preview_failed(), True), (preview_stopped(), False)])
def test_an_ended_preview_can_be_restarted(end: Event, in_place: bool) -> None:
    """It is its project's live preview again; one that failed goes on in the VM that it still holds."""
    spec = orchestrator(*story("installing"), end).when(RESTART).then(preview_restarted(2, in_place=in_place))
    assert spec.state.projects[PROJECT].live == PREVIEW


def test_restart_twice_does_its_work_once() -> None:
    """The same id; another one is another wish."""
    spec = orchestrator(*story("ready")).when(RESTART, RESTART).stays_quiet()
    spec.when(other(RESTART)).then(preview_restarted(3))


def test_restart_takes_the_newest_files() -> None:
    spec = orchestrator(*story("ready"), files_changed(2)).when(RESTART)
    spec.then(msgspec.structs.replace(preview_restarted(2), files_version=2))


def test_restart_refuses_beside_another_live_preview() -> None:
    past = [*story("ready"), preview_stopped(), preview_requested("preview-2")]
    orchestrator(*past).when(RESTART).refuses("other_preview_live")


def test_restart_refuses_without_the_project() -> None:
    past = [*story("ready"), ProjectDeleted(project_id=PROJECT)]
    orchestrator(*past).when(RESTART).refuses("project_not_found")


# --- reports of the steps -----------------------------------------------------------------------------------------

SYNCED = RecordFilesSynced(preview_id=PREVIEW, attempt=1, files_version=1, written=3, deleted=0, sync_s=0.1)
INSTALLED = RecordInstallCompleted(preview_id=PREVIEW, attempt=1, install_s=4.0)
INSTALL_FAILED = RecordInstallFailed(
    preview_id=PREVIEW, attempt=1, exit_code=1, code="install_failed", message="No.", hint="Look."
)
SERVING = RecordDevServerReady(preview_id=PREVIEW, attempt=1, host="127.0.0.1", port=5173, status=200, boot_s=1.0)
EXITED = RecordDevServerExited(preview_id=PREVIEW, attempt=1, exit_code=1, signal=None)
CONFIRM = ConfirmPreview(preview_id=PREVIEW, attempt=1, url=URL)
FAIL = FailPreview(preview_id=PREVIEW, attempt=1, code="install_failed", message="No.", hint="Look.")
EXPIRE = ExpireStep(preview_id=PREVIEW, attempt=1, step="installing")
HMR = RecordHmr(preview_id=PREVIEW, attempt=1, state="open", path="/")
VM_LOST = HandleVmLost(preview_id=PREVIEW, vm_id=VM, detail="silent")


def test_detection_is_recorded() -> None:
    orchestrator(*story("requested")).when(record_project()).then(project_detected())


def test_a_troublesome_version_raises_a_warning() -> None:
    """After the fact itself, and once an attempt."""
    found = msgspec.structs.replace(record_project("nextjs", "16.0.1"), warnings=(WARNING,))
    spec = orchestrator(*story("requested")).when(found)
    spec.then(project_detected(framework="nextjs", version="16.0.1"), warning_raised())
    spec.when(found).stays_quiet().when(other(found)).stays_quiet()


def test_a_warning_that_a_dead_replica_left_out_is_raised() -> None:
    """It had stored the detection when it died; the same command comes again."""
    past = [*story("requested"), project_detected(framework="nextjs", version="16.0.1")]
    found = msgspec.structs.replace(record_project("nextjs", "16.0.1"), warnings=(WARNING,))
    orchestrator(*past).when(found).then(warning_raised())


def test_the_first_sync_starts_the_install() -> None:
    orchestrator(*story("acquired")).when(SYNCED).then(files_synced(), install_started())


def test_without_dependencies_the_dev_server_starts_at_once() -> None:
    past = [*story("requested"), project_detected(install=()), vm_acquired()]
    orchestrator(*past).when(SYNCED).then(files_synced(), install_skipped(), dev_server_started())


@pytest.mark.parametrize("until", ["installing", "booting", "confirming", "ready"])
def test_a_later_sync_is_only_noted(until: str) -> None:
    """An edit does not install or start anything again."""
    edit = msgspec.structs.replace(SYNCED, files_version=2)
    spec = orchestrator(*story(until), files_changed(2)).when(edit).then(files_synced(version=2))
    spec.when(edit).stays_quiet().when(other(edit)).stays_quiet()


def test_an_install_that_worked_starts_the_dev_server() -> None:
    orchestrator(*story("installing")).when(INSTALLED).then(install_completed(), dev_server_started())


def test_an_install_that_failed_ends_the_attempt() -> None:
    """With the package manager's reason."""
    orchestrator(*story("installing")).when(INSTALL_FAILED).then(install_failed(), preview_failed())


def test_a_serving_dev_server_is_recorded() -> None:
    orchestrator(*story("booting")).when(SERVING).then(dev_server_ready())


@pytest.mark.parametrize("until", ["booting", "confirming", "ready"])
def test_a_dead_dev_server_fails_the_preview(until: str) -> None:
    """At once, with the cause that was found; also when it had been ready for long."""
    cause = {"code": "port_in_use", "message": "Port 3000 is taken.", "hint": "Use PORT.", "evidence": (7, 8)}
    command = msgspec.structs.replace(EXITED, **cause)
    spec = orchestrator(*story(until)).when(command)
    spec.then(
        msgspec.structs.replace(dev_server_exited(), **cause),
        msgspec.structs.replace(preview_failed(step="waiting_server"), **cause),
    )
    spec.when(command).stays_quiet().when(other(command)).stays_quiet()


def test_ready_tells_what_it_took() -> None:
    """Seconds by step, in the order in which they ended, and the whole."""
    past: list[Past] = [
        *((AT, event) for event in story("requested")),
        (AT + 0.1, project_detected()),
        (AT + 0.5, vm_acquired()),
        (AT + 0.75, files_synced()),
        (AT + 0.75, install_started()),
        (AT + 4, install_completed()),
        (AT + 4, dev_server_started()),
        (AT + 6, dev_server_ready()),
    ]
    steps = {"acquiring_vm": 0.5, "syncing_files": 0.25, "installing": 3.25, "waiting_server": 2.0, "confirming": 0.5}
    spec = orchestrator(*past).when(msgspec.structs.replace(CONFIRM, at=AT + 6.5))
    spec.then(msgspec.structs.replace(preview_ready(total_s=6.5), steps=steps))


@pytest.mark.parametrize("until", [each for each in RUNNING if each != "confirming"])
def test_only_a_serving_preview_can_be_confirmed(until: str) -> None:
    """Ready never comes before the dev server has answered the agent, and comes once."""
    orchestrator(*story(until)).when(CONFIRM).stays_quiet()


@pytest.mark.parametrize("until", RUNNING)
def test_fail_ends_the_attempt_wherever_it_is(until: str) -> None:
    spec = orchestrator(*story(until)).when(FAIL)
    assert failure(spec)[0] == "install_failed"
    assert spec.state.projects[PROJECT].live is None


EXPIRING = {
    "requested": ("preparing", "acquiring_vm_timeout"),
    "acquired": ("syncing", "syncing_files_timeout"),
    "installing": ("installing", "installing_timeout"),
    "booting": ("booting", "waiting_server_timeout"),
    "confirming": ("confirming", "confirming_timeout"),
}


@pytest.mark.parametrize(("until", "step", "code"), [(until, *rest) for until, rest in EXPIRING.items()])
def test_a_step_past_its_limit_fails(until: str, step: str, code: str) -> None:
    """Nothing is stuck: every step that waits has an end."""
    expire = ExpireStep(preview_id=PREVIEW, attempt=1, step=step)
    spec = orchestrator(*story(until)).when(expire)
    assert failure(spec) == (code, code.removesuffix("_timeout"))
    spec.when(expire).stays_quiet()


@pytest.mark.parametrize(("step", "until"), [(s, u) for s, _ in EXPIRING.values() for u in ("requested", "ready")])
def test_a_step_that_has_ended_does_not_expire(step: str, until: str) -> None:
    """A timer that comes late, or twice, ends nothing that goes on."""
    if (step, until) != ("preparing", "requested"):
        orchestrator(*story(until)).when(ExpireStep(preview_id=PREVIEW, attempt=1, step=step)).stays_quiet()


HALF_DONE: list[tuple[list[Event], str, str]] = [
    ([*story("synced")], "syncing", "syncing_files_timeout"),
    ([*story("synced"), install_skipped()], "syncing", "installing_timeout"),
    ([*story("installed")], "installing", "installing_timeout"),
    ([*story("installing"), install_failed()], "installing", "install_failed"),
    ([*story("booting"), dev_server_exited()], "booting", "dev_server_exited"),
    ([*story("confirming"), dev_server_exited()], "confirming", "dev_server_exited"),
]


@pytest.mark.parametrize(("past", "step", "code"), HALF_DONE)
def test_what_a_dead_replica_left_half_done_ends(past: list[Event], step: str, code: str) -> None:
    """A command's first event was stored, its second was not, and nobody sends it again: the step's timer, which is
    still set, finds the preview. Nothing is stuck."""
    spec = orchestrator(*past).when(ExpireStep(preview_id=PREVIEW, attempt=1, step=step))
    assert failure(spec)[0] == code


@pytest.mark.parametrize(
    ("past", "command", "follows"),
    [
        (story("synced"), SYNCED, install_started()),
        (story("installed"), INSTALLED, dev_server_started()),
        ([*story("installing"), install_failed()], INSTALL_FAILED, preview_failed()),
    ],
)
def test_a_command_that_was_cut_short_is_finished(past: list[Event], command: Command, follows: Event) -> None:
    """The same report again, after its first event: only what is missing follows."""
    orchestrator(*past).when(command).then(follows)


# --- HandleVmLost -------------------------------------------------------------------------------------------------


def losses(number: int) -> list[Past]:
    """A story in which so many VMs were lost one after the other, and the next attempt is ready."""
    past: list[Past] = list(story("ready"))
    for attempt in range(2, number + 2):
        past += [preview_restarted(attempt, "vm_lost"), project_detected(attempt), vm_acquired(attempt)]
        past += [files_synced(attempt), install_started(attempt), install_completed(attempt)]
        past += [dev_server_started(attempt), dev_server_ready(attempt), preview_ready(attempt)]
    return past


def test_a_preview_that_served_for_long_may_lose_its_vm_again() -> None:
    """Losses count in a row: after a while of being ready they begin anew, also at the limit."""
    past, attempt = losses(CONFIG.vm_losses_max), CONFIG.vm_losses_max + 1
    lost = HandleVmLost(preview_id=PREVIEW, vm_id=f"vm-00000{attempt}", detail="silent", at=AT + PROVEN_AFTER_S + 1)
    spec = orchestrator(*past).when(lost).then(preview_restarted(attempt + 1, "vm_lost"))
    assert spec.state.previews[PREVIEW].vm_losses == 1


def test_a_restart_that_was_asked_for_begins_the_count_anew() -> None:
    """The hint of a preview that failed for its losses says to restart it: that must lead out."""
    spec = orchestrator(*losses(CONFIG.vm_losses_max)).when(RESTART)
    assert spec.state.previews[PREVIEW].vm_losses == 0


@pytest.mark.parametrize("until", RUNNING[2:])
def test_a_lost_vm_begins_anew(until: str) -> None:
    spec = orchestrator(*story(until)).when(VM_LOST).then(preview_restarted(2, "vm_lost"))
    spec.when(VM_LOST).stays_quiet().when(other(VM_LOST)).stays_quiet()


def test_too_many_lost_vms_fail_the_preview() -> None:
    """As many fresh starts as the config allows, then a reason."""
    past: list[Event] = story("acquired")
    for attempt in range(2, CONFIG.vm_losses_max + 2):
        past += [preview_restarted(attempt, "vm_lost"), vm_acquired(attempt)]
    number = CONFIG.vm_losses_max + 1
    spec = orchestrator(*past).when(HandleVmLost(preview_id=PREVIEW, vm_id=f"vm-00000{number}", detail="silent"))
    assert failure(spec)[0] == "vm_lost"


@pytest.mark.parametrize("past", [story("detected"), [*story("ready"), preview_stopped()], []])
def test_a_vm_that_the_preview_does_not_hold_is_not_missed(past: list[Event]) -> None:
    orchestrator(*past).when(VM_LOST).stays_quiet()
    orchestrator(*story("ready")).when(HandleVmLost(preview_id=PREVIEW, vm_id="vm-000009", detail="")).stays_quiet()


# --- for all of them ----------------------------------------------------------------------------------------------

EVERY_REPORT: list[tuple[Command, str]] = [
    (record_project(), "requested"),
    (SYNCED, "acquired"),
    (INSTALLED, "installing"),
    (INSTALL_FAILED, "installing"),
    (SERVING, "booting"),
    (EXITED, "booting"),
    (HMR, "ready"),
    (CONFIRM, "confirming"),
    (FAIL, "installing"),
    (EXPIRE, "installing"),
]


@pytest.mark.parametrize(("report", "until"), EVERY_REPORT)
def test_reports_are_recorded_once(report: Command, until: str) -> None:
    """Delivered again, under the same id or another, they change nothing."""
    spec = orchestrator(*story(until)).when(report)
    assert spec.outcome
    spec.when(report).stays_quiet().when(other(report)).stays_quiet()


@pytest.mark.parametrize(("report", "until"), EVERY_REPORT)
def test_reports_of_an_attempt_that_is_over_are_ignored(report: Command, until: str) -> None:
    """The preview was restarted, stopped or forgotten meanwhile."""
    orchestrator(*story(until), preview_restarted(2)).when(report).stays_quiet()
    orchestrator(*story(until), preview_stopped()).when(report).stays_quiet()
    orchestrator().when(report).stays_quiet()
