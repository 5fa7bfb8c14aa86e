"""What comes after the first way to ready: the next try, a second install, errors that are shown, edits, preparation."""

import msgspec
import pytest

from services.orchestrator.state import State
from shared.commands import (
    ExpireStep,
    FailPreview,
    RequestPreview,
)
from shared.events import Event, PreviewRequested, PreviewWarningRaised
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    dev_server_exited,
    dev_server_ready,
    dev_server_started,
    files_changed,
    files_synced,
    hmr_probed,
    install_completed,
    install_failed,
    install_skipped,
    install_started,
    preview_failed,
    preview_prepared,
    preview_ready,
    preview_restarted,
    preview_stopped,
    preview_wanted,
    project_created,
    project_detected,
    story,
    vm_released,
)
from tests.orchestrator.test_decide import (
    CONFIRM,
    HMR,
    INSTALL_FAILED,
    INSTALLED,
    REQUEST,
    RESTART,
    SERVING,
    SYNCED,
    failure,
    orchestrator,
    other,
)
from tests.spec import Given

MISMATCH = msgspec.structs.replace(INSTALL_FAILED, code="lockfile_mismatch", job_id="install-1")
RETRY = ("npm", "install")


def retryable(until: str) -> list[Event]:
    """A story in which detection gave a command for a lockfile that does not fit."""
    found = msgspec.structs.replace(project_detected(), install_retry_command=RETRY)
    return [found if each == project_detected() else each for each in story(until)]


def preparing(until: str) -> list[Event]:
    """A story that nobody has asked to see yet."""
    [*before, requested], rest = story("requested"), story(until)[len(story("requested")) :]
    return [*before, msgspec.structs.replace(requested, prepare=True), *rest]


def failure_after_install(spec: Given[State]) -> str:
    """The code of the preview's failure, which follows the install's."""
    assert isinstance(spec.outcome, list)
    spec.outcome = spec.outcome[1:]
    code, step = failure(spec)
    assert step == "installing"
    return code


# --- the next try -------------------------------------------------------------------------------------------------


def test_a_failed_preview_whose_vm_is_gone_begins_in_another() -> None:
    past = [*story("booting"), preview_failed(step="waiting_server"), vm_released()]
    orchestrator(*past).when(RESTART).then(preview_restarted(2))


def test_the_next_try_after_a_dead_dev_server_goes_on_from_there() -> None:
    """The dependencies are in the VM: with the same fingerprint nothing is installed again."""
    past = [*story("booting"), dev_server_exited(), preview_failed(step="waiting_server")]
    spec = orchestrator(*past, preview_restarted(2, in_place=True), project_detected(2))
    spec.when(msgspec.structs.replace(SYNCED, attempt=2))
    preserved = msgspec.structs.replace(install_skipped(2), reason="preserved", key=project_detected().deps)
    spec.then(files_synced(2), preserved, dev_server_started(2))


@pytest.mark.parametrize("deps", ["other", ""])
def test_other_dependencies_are_installed_in_place(deps: str) -> None:
    """Also where detection could give no fingerprint."""
    past = [*story("booting"), preview_failed(step="waiting_server"), preview_restarted(2, in_place=True)]
    spec = orchestrator(*past, msgspec.structs.replace(project_detected(2), deps=deps))
    spec.when(msgspec.structs.replace(SYNCED, attempt=2)).then(files_synced(2), install_started(2))


def test_an_install_that_failed_is_run_again_in_place() -> None:
    """What it has left behind is nothing to build on, whatever the fingerprint."""
    past = [*story("installing"), install_failed(), preview_failed(), preview_restarted(2, in_place=True)]
    spec = orchestrator(*past, project_detected(2)).when(msgspec.structs.replace(SYNCED, attempt=2))
    spec.then(files_synced(2), install_started(2))


def test_a_change_of_variables_restarts_in_place() -> None:
    """Asked for by ourselves, for a preview that is well."""
    spec = orchestrator(*story("ready")).when(msgspec.structs.replace(RESTART, in_place=True))
    spec.then(preview_restarted(2, reason="edited", in_place=True))


def test_a_restart_may_name_another_app() -> None:
    spec = orchestrator(*story("ready")).when(msgspec.structs.replace(RESTART, app="apps/web"))
    spec.then(preview_restarted(2, app="apps/web"))
    assert spec.state.previews[PREVIEW].app == "apps/web"


# --- a second install ---------------------------------------------------------------------------------------------


def test_a_lockfile_that_does_not_fit_gets_one_more_try() -> None:
    """Without freezing, and with a warning; the report of the first try, heard again, says nothing of the second."""
    spec = orchestrator(*retryable("installing")).when(MISMATCH)
    retry = msgspec.structs.replace(install_started(), job_id="install-1-retry", command=("npm", "install"))
    assert isinstance(spec.outcome, list)
    warning, started = spec.outcome
    assert isinstance(warning, PreviewWarningRaised)
    assert (warning.code, started) == ("lockfile_mismatch", retry)
    assert MISMATCH.message in warning.message
    spec.when(MISMATCH).stays_quiet().when(other(MISMATCH)).stays_quiet()
    late = msgspec.structs.replace(INSTALLED, job_id="install-1")
    spec.when(late).stays_quiet()
    spec.when(msgspec.structs.replace(INSTALLED, job_id="install-1-retry")).then(
        install_completed(), dev_server_started()
    )


def test_the_second_try_that_fails_ends_the_preview() -> None:
    spec = orchestrator(*retryable("installing")).when(MISMATCH)
    spec.when(msgspec.structs.replace(MISMATCH, id="second", job_id="install-1-retry"))
    assert failure_after_install(spec) == "lockfile_mismatch"


def test_without_a_second_command_there_is_no_second_try() -> None:
    assert failure_after_install(orchestrator(*story("installing")).when(MISMATCH)) == "lockfile_mismatch"


# --- errors that are shown ----------------------------------------------------------------------------------------


def test_a_server_that_shows_an_error_becomes_ready_with_errors() -> None:
    """What it answers is the project's own error, on the path of the browser."""
    ready = msgspec.structs.replace(SERVING, with_errors=True, status=500, detail="/ answered 500")
    spec = orchestrator(*story("booting")).when(ready)
    spec.then(msgspec.structs.replace(dev_server_ready(), with_errors=True, status=500, detail="/ answered 500"))
    spec.when(CONFIRM).then(msgspec.structs.replace(preview_ready(), with_errors=True))


def test_a_mended_project_is_ready_without_errors() -> None:
    """Once; a report that it is still broken changes nothing."""
    broken = msgspec.structs.replace(dev_server_ready(), with_errors=True)
    ready = msgspec.structs.replace(preview_ready(), with_errors=True)
    spec = orchestrator(*story("booting"), broken, ready)
    spec.when(msgspec.structs.replace(SERVING, id="still", with_errors=True)).stays_quiet()
    spec.when(msgspec.structs.replace(SERVING, id="mended")).then(dev_server_ready())
    assert (spec.state.previews[PREVIEW].status, spec.state.previews[PREVIEW].with_errors) == ("ready", False)
    spec.when(msgspec.structs.replace(SERVING, id="again")).stays_quiet()


def test_the_socket_for_edits_is_told_once_an_attempt() -> None:
    spec = orchestrator(*story("ready")).when(HMR).then(hmr_probed())
    spec.when(other(HMR)).stays_quiet()


# --- edits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", ["installing", "installed", "booting", "confirming", "ready"])
def test_an_edit_that_the_dev_server_can_not_take_in_restarts_in_place(until: str) -> None:
    """Once for the version: heard again, the report is of an attempt that is over."""
    edit = msgspec.structs.replace(SYNCED, files_version=2, needs_restart=True)
    restarted = msgspec.structs.replace(preview_restarted(2, reason="edited", in_place=True), files_version=2)
    spec = orchestrator(*story(until), files_changed(2)).when(edit).then(restarted)
    spec.when(edit).stays_quiet().when(other(edit)).stays_quiet()
    assert spec.state.previews[PREVIEW].vm is not None


# --- preparation --------------------------------------------------------------------------------------------------

PREPARE = RequestPreview(project_id=PROJECT, owner=OWNER, prepare=True)


def test_a_preparation_ends_before_the_dev_server() -> None:
    spec = orchestrator(project_created(), files_changed()).when(PREPARE)
    assert isinstance(spec.outcome, list)
    [requested] = spec.outcome
    assert isinstance(requested, PreviewRequested)
    assert requested.prepare
    orchestrator(*preparing("installing")).when(INSTALLED).then(install_completed(), preview_prepared())


def test_who_asks_for_what_is_prepared_gets_its_dev_server() -> None:
    """And who prepares what is prepared, or is wanted, changes nothing."""
    spec = orchestrator(*preparing("installed"), preview_prepared())
    spec.when(msgspec.structs.replace(PREPARE, id="p")).stays_quiet()
    spec.when(REQUEST).then(preview_wanted(), dev_server_started())
    spec.when(other(REQUEST)).stays_quiet().when(msgspec.structs.replace(PREPARE, id="q")).stays_quiet()


def test_who_asks_before_it_is_prepared_need_not_ask_again() -> None:
    spec = orchestrator(*preparing("installing")).when(REQUEST).then(preview_wanted())
    spec.when(msgspec.structs.replace(INSTALLED, id="i")).then(install_completed(), dev_server_started())


def test_a_preparation_that_nobody_opens_is_released() -> None:
    spec = orchestrator(*preparing("installed"), preview_prepared())
    spec.when(ExpireStep(preview_id=PREVIEW, attempt=1, step="prepared")).then(preview_stopped("not_opened"))


def test_another_app_of_a_live_preview_restarts_it_in_place() -> None:
    spec = orchestrator(*story("ready")).when(msgspec.structs.replace(REQUEST, app="apps/web"))
    spec.then(preview_restarted(2, in_place=True, app="apps/web"))
    spec.when(msgspec.structs.replace(REQUEST, id="again", app="apps/web")).stays_quiet()


# --- asked for again after a failure ------------------------------------------------------------------------------


def test_who_asks_for_what_failed_gets_another_try_in_its_vm() -> None:
    """The same preview, at the same address, without another claim; it is wanted now, whoever began it."""
    spec = orchestrator(*preparing("installing"), preview_failed()).when(REQUEST)
    spec.then(preview_restarted(2, in_place=True))
    again = spec.state.previews[PREVIEW]
    assert (again.vm is not None, again.wanted) == (True, True)


def test_a_failed_preview_without_a_vm_is_followed_by_a_new_one() -> None:
    spec = orchestrator(*story("installing"), preview_failed(), vm_released()).when(REQUEST)
    assert isinstance(spec.outcome, list)
    assert [type(event) for event in spec.outcome] == [PreviewRequested]


# --- dependencies of an earlier install ---------------------------------------------------------------------------

FAILED_DEV = FailPreview(preview_id=PREVIEW, attempt=1, code="module_not_found", message="No.", hint="Look.")
RESTORED = msgspec.structs.replace(SYNCED, restored="deps-1", restore_s=0.5)


def keeping(until: str) -> list[Event]:
    """A story of a project whose install is in `node_modules` alone."""
    found = msgspec.structs.replace(project_detected(), deps="deps-1", keeps=True)
    return [found if each == project_detected() else each for each in story(until)]


def test_what_was_restored_is_not_installed() -> None:
    """The dev server starts at once; what that saved is what installs took, less the restore."""
    spec = orchestrator(*keeping("acquired")).when(RESTORED)
    spec.then(
        msgspec.structs.replace(files_synced(), restored="deps-1", restore_s=0.5),
        msgspec.structs.replace(install_skipped(), reason="restored", key="deps-1", saved_s=5.5),
        dev_server_started(),
    )


def test_what_does_not_fit_is_installed() -> None:
    """The fingerprint of what was put there is another: it proves nothing."""
    other_deps = msgspec.structs.replace(RESTORED, restored="deps-2")
    spec = orchestrator(*keeping("acquired")).when(other_deps)
    spec.then(msgspec.structs.replace(files_synced(), restored="deps-2", restore_s=0.5), install_started())


def test_a_restored_install_is_not_trusted_after_a_failure() -> None:
    """The next try, in the same VM, installs."""
    spec = orchestrator(*keeping("acquired")).when(RESTORED).when(other(FAILED_DEV)).when(RESTART)
    assert spec.state.previews[PREVIEW].vm is not None
    assert spec.state.previews[PREVIEW].installed == ""


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("acquiring_vm", "app_choice_needed"),
        ("syncing_files", "sync_failed"),
        ("waiting_server", "vm_lost"),
        ("installing", "agent_failed"),
    ],
)
def test_a_vm_that_is_being_given_back_is_nothing_to_go_on_in(step: str, code: str) -> None:
    """However soon the next try comes: its release is under way, and the try gets another one at once."""
    spec = orchestrator(*story("installing"), preview_failed(code=code, step=step)).when(RESTART)
    spec.then(preview_restarted(2))
    assert spec.state.previews[PREVIEW].vm is None
