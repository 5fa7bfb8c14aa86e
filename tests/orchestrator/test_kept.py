"""What a preview leaves in its VM for its owner's next one, and what that one makes of it."""

import pytest
from msgspec.structs import replace

from services.orchestrator.app import definition
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Left, Preview, Vm
from services.orchestrator.react import Effect, Prepare, SyncFiles, react
from shared.commands import HandleVmLost, RecordFilesSynced, ReleaseVm
from shared.effects import Send
from shared.events import Event, InstallSkipped, InstallStarted, ProjectDetected, VmDestroyed, VmRetired
from tests.builders import (
    KEY,
    OWNER,
    PREVIEW,
    VM,
    dev_server_exited,
    dev_server_ready,
    dev_server_started,
    files_changed,
    files_synced,
    install_failed,
    install_skipped,
    install_started,
    preview_failed,
    preview_prepared,
    preview_ready,
    preview_restarted,
    preview_stopped,
    project_detected,
    story,
    vm_acquired,
    vm_cleaned,
    vm_lost,
)
from tests.spec import given

CONFIG = OrchestratorConfig()
ORCHESTRATOR = definition(CONFIG)
FOUND: ProjectDetected = replace(project_detected(), keeps=True)
LEFT = Left(KEY, "install-1")
PRESERVED = InstallSkipped(preview_id=PREVIEW, attempt=1, reason="preserved", key=KEY)
STOPPED = preview_stopped()


def keeping(until: str = "ready") -> list[Event]:
    """A story whose dependencies are in `node_modules` alone."""
    return [FOUND if isinstance(each, ProjectDetected) else each for each in story(until)]


def preserved(until: str = "ready") -> list[Event]:
    """A story in a VM that was kept."""
    steps: dict[str, list[Event]] = {
        "acquired": [*keeping("detected"), vm_acquired(key=KEY)],
        "synced": [files_synced()],
        "ready": [replace(PRESERVED, saved_s=3.0), dev_server_started(), dev_server_ready(), preview_ready()],
    }
    return [event for step in list(steps)[: list(steps).index(until) + 1] for event in steps[step]]


def preview(*past: Event) -> Preview:
    return given(ORCHESTRATOR, *past).state.previews[PREVIEW]


def effects(*past: Event, of: int = -1) -> list[Effect]:
    spec = given(ORCHESTRATOR, *past)
    return list(react(spec.state, spec.log[of], CONFIG))


# --- what it leaves -----------------------------------------------------------------------------------------------


def test_one_that_was_ready_leaves_its_dependencies() -> None:
    """And names the job that gave them, also once it is over and heard of again."""
    release = Send(ReleaseVm(preview_id=PREVIEW, reason="ended", keep=KEY, keep_job="install-1"))
    assert effects(*keeping(), STOPPED) == [release]
    assert effects(*keeping(), STOPPED, vm_lost(), of=-2) == [release]


def test_one_that_was_only_prepared_does_too() -> None:
    requested = replace(keeping("requested")[-1], prepare=True)
    past = [*keeping("requested")[:-1], requested, *keeping("installed")[3:], preview_prepared(), STOPPED]
    assert preview(*past).left == LEFT


def test_a_restart_into_another_vm_leaves_them() -> None:
    release = Send(ReleaseVm(preview_id=PREVIEW, reason="restarted", keep=KEY, keep_job="install-1"))
    assert release in effects(*keeping(), preview_restarted(2))
    assert preview(*keeping(), preview_restarted(2)).installed == ""


def test_a_restart_in_place_keeps_knowing_who_installed_them() -> None:
    """The job of an earlier attempt, or none where they were there before."""
    again = [preview_restarted(2, "edited", in_place=True), replace(FOUND, attempt=2), files_synced(2)]
    rest = [install_skipped(2), dev_server_started(2), dev_server_ready(2), preview_ready(2), STOPPED]
    assert preview(*keeping(), *again, *rest).left == LEFT
    assert preview(*preserved(), *again, *rest).left == Left(KEY, "")


def test_what_was_preserved_or_restored_is_left_again() -> None:
    """No job of this preview has installed it."""
    restored = [*keeping("acquired"), replace(files_synced(), restored=KEY), replace(PRESERVED, reason="restored")]
    after = [dev_server_started(), dev_server_ready(), preview_ready(), STOPPED]
    assert preview(*preserved(), STOPPED).left == Left(KEY, "")
    assert preview(*restored, *after).left == Left(KEY, "")


RETRY = "install-1-retry"
NOT_ITS_LOCKFILE = [*keeping("installing"), replace(install_started(), job_id=RETRY), *keeping()[7:], STOPPED]
WITH_ERRORS = [*keeping("booting"), replace(dev_server_ready(), with_errors=True), preview_ready(), STOPPED]


@pytest.mark.parametrize(
    "past",
    [
        *(
            [*keeping(until), STOPPED]
            for until in ("requested", "acquired", "synced", "installing", "booting", "confirming")
        ),
        [*story("ready"), STOPPED],
        NOT_ITS_LOCKFILE,
        WITH_ERRORS,
        [*keeping("installing"), install_failed(), preview_failed()],
        [*keeping(), dev_server_exited(), preview_failed(step="server_ready")],
        [*keeping(), dev_server_exited(), preview_failed(step="server_ready"), preview_restarted(2, in_place=True)],
        [*keeping(), vm_lost(), preview_restarted(2, "vm_lost")],
        [*keeping(), preview_restarted(2, "edited", in_place=True)],
        [*keeping(), preview_restarted(2), preview_restarted(3)],
    ],
)
def test_anything_else_leaves_nothing(past: list[Event]) -> None:
    """Too early, with errors, failed, lost, not as the lockfile says, not in node_modules alone, or still held."""
    now = preview(*past)
    assert now.left == Left()
    for effect in effects(*past):
        assert not (isinstance(effect, Send) and isinstance(effect.command, ReleaseVm) and effect.command.keep)


# --- what the next one makes of it --------------------------------------------------------------------------------


def test_a_vm_that_was_kept_has_the_dependencies_already() -> None:
    now = preview(*preserved("acquired"))
    assert (now.installed, now.installed_by, now.restored) == (KEY, "", False)
    assert now.vm == Vm(VM, "127.0.0.1", 9001, 5)
    assert isinstance(effects(*preserved("acquired"))[-1], SyncFiles)


def test_nothing_is_installed_into_it() -> None:
    synced = RecordFilesSynced(preview_id=PREVIEW, attempt=1, files_version=1, written=3, deleted=0, sync_s=0.1)
    spec = given(ORCHESTRATOR, *preserved("acquired")).when(synced)
    assert isinstance(spec.outcome, list)
    [skipped] = [each for each in spec.outcome if isinstance(each, InstallSkipped)]
    assert (skipped.reason, skipped.key, skipped.saved_s > 0) == ("preserved", KEY, True)


def test_a_vm_with_other_dependencies_is_given_back_untouched() -> None:
    """Whichever came last; and the next attempt leaves nothing of it to anybody."""
    give_back = [Send(HandleVmLost(preview_id=PREVIEW, vm_id=VM, detail="it holds other dependencies"))]
    misfit = vm_acquired(key="other")
    assert effects(*keeping("detected"), misfit) == give_back
    assert effects(*keeping("requested"), misfit, FOUND) == give_back
    past = [*keeping("detected"), misfit, preview_restarted(2, "vm_lost")]
    release = Send(ReleaseVm(preview_id=PREVIEW, reason="restarted"))
    assert effects(*past)[0] == release
    assert effects(*past)[-1] == Prepare(PREVIEW, 2)


def test_dependencies_that_a_try_has_failed_with_are_not_trusted_again() -> None:
    """Of an earlier preview; its own are."""
    failed = [dev_server_exited(), preview_failed(step="waiting_server"), preview_restarted(2, in_place=True)]
    booting = [*preserved("synced"), PRESERVED, dev_server_started()]
    assert preview(*booting, *failed).installed == ""
    assert preview(*keeping("booting"), *failed).installed == KEY


def test_files_that_are_newer_than_what_was_detected_begin_anew() -> None:
    """In another VM: what is in this one is for the version before. In its own VM the attempt goes on there."""
    edited = RecordFilesSynced(
        preview_id=PREVIEW, attempt=1, files_version=2, written=3, deleted=0, sync_s=0.1, needs_restart=True
    )
    newer = files_changed(2)
    restarted = replace(preview_restarted(2, "edited"), files_version=2)
    given(ORCHESTRATOR, *preserved("acquired"), newer).when(edited).then(restarted)
    own = [*keeping(), preview_restarted(2, "edited", in_place=True), replace(FOUND, attempt=2), newer]
    again = replace(restarted, attempt=3, in_place=True)
    given(ORCHESTRATOR, *own).when(replace(edited, attempt=2)).then(again)


def test_it_is_known_whose_vms_are_kept() -> None:
    """Until one is taken, retired, lost or destroyed."""
    assert given(ORCHESTRATOR, vm_cleaned()).state.kept == {VM: OWNER}
    for end in (vm_acquired(), VmRetired(vm_id=VM, reason="aged"), vm_lost(1, None), VmDestroyed(vm_id=VM)):
        assert given(ORCHESTRATOR, vm_cleaned(), end).state.kept == {}


def test_an_install_forgets_who_gave_what_was_there() -> None:
    started = InstallStarted(preview_id=PREVIEW, attempt=1, job_id="install-1", command=("npm", "ci"))
    now = preview(*keeping("synced"), started)
    assert (now.installed, now.installed_by) == ("", "")
