"""Every command of the gateway: the right events, a no where it belongs, silence when it is repeated."""

import msgspec
import pytest

from services.gateway.app import definition
from services.gateway.config import GatewayConfig
from services.gateway.decide import NAME_CHARS_MAX
from services.gateway.state import State
from shared.commands import (
    Command,
    CreateProject,
    DeleteProject,
    ProjectReply,
    RecordErasure,
    RecordFiles,
    SetProjectEnv,
    SetProjectResidents,
    commands_of,
)
from shared.events import (
    Event,
    ProjectCreated,
    ProjectDeleted,
    ProjectEnvChanged,
    ProjectErased,
    ProjectResidentsChanged,
)
from shared.ids import derive
from tests.builders import OWNER, PROJECT, files_changed, project_created
from tests.spec import COMMAND_ID, Given, Past, given

CONFIG = GatewayConfig(projects_per_owner_max=2)
CREATE = CreateProject(owner=OWNER, name="shop")
DELETE = DeleteProject(project_id=PROJECT, owner=OWNER)


def gateway(*past: Past) -> Given[State]:
    return given(definition(CONFIG), *past)


def other(command: Command) -> Command:
    """The same wish under another id."""
    return msgspec.structs.replace(command, id="another-command")


def record_files(version: int = 1, owner: str = OWNER) -> RecordFiles:
    """The command that leads to `files_changed(version)`."""
    event = files_changed(version)
    return RecordFiles(
        project_id=PROJECT,
        owner=owner,
        base_version=version - 1,
        manifest=event.manifest,
        files=event.files,
        size_bytes=event.size_bytes,
        changed=event.changed,
        deleted=event.deleted,
    )


# --- CreateProject ------------------------------------------------------------------------------------------------


def test_a_project_is_created() -> None:
    """Its id follows from the command's, and the answer tells it."""
    project_id = derive(COMMAND_ID, "project")
    spec = gateway().when(CREATE).then(ProjectCreated(project_id=project_id, owner=OWNER, name="shop"))
    assert spec.answer() == ProjectReply(project_id=project_id, files_version=0)


def test_create_twice_does_its_work_once() -> None:
    """The same id gives the same project, also when it has been deleted since; another id is another wish."""
    delete = DeleteProject(project_id=derive(COMMAND_ID, "project"), owner=OWNER, id="delete")
    spec = gateway().when(CREATE, CREATE).stays_quiet()
    spec.when(delete, CREATE).stays_quiet()
    assert gateway().when(CREATE, other(CREATE)).outcome != []


@pytest.mark.parametrize("name", ["", "  ", "x" * (NAME_CHARS_MAX + 1), "a\nb", "a\0b", "a\x1b[31m"])
def test_create_refuses_names_that_cannot_be_shown(name: str) -> None:
    gateway().when(CreateProject(owner=OWNER, name=name)).refuses("bad_project_name")


@pytest.mark.parametrize(
    ("name", "kept"), [(" shop ", "shop"), ("Größe 北京 🚀", "Größe 北京 🚀"), ("x" * NAME_CHARS_MAX,) * 2]
)
def test_names_are_kept_as_they_are(name: str, kept: str) -> None:
    spec = gateway().when(CreateProject(owner=OWNER, name=name))
    spec.then(ProjectCreated(project_id=derive(COMMAND_ID, "project"), owner=OWNER, name=kept))


def test_an_owner_may_have_only_so_many() -> None:
    """Each owner for itself; a deleted one counts no more."""
    full = [project_created("a"), project_created("b")]
    gateway(*full).when(CREATE).refuses("too_many_projects")
    assert gateway(*full).when(CreateProject(owner="bob", name="shop")).outcome
    assert gateway(*full, ProjectDeleted(project_id="a")).when(CREATE).outcome


# --- RecordFiles --------------------------------------------------------------------------------------------------


def test_the_first_files() -> None:
    spec = gateway(project_created()).when(record_files(1)).then(files_changed(1))
    assert spec.answer() == ProjectReply(project_id=PROJECT, files_version=1)


def test_the_next_files() -> None:
    gateway(project_created(), files_changed(1)).when(record_files(2)).then(files_changed(2))


def test_files_twice_are_one_version() -> None:
    """Under the same id and under another: the manifest says that they are the same."""
    spec = gateway(project_created()).when(record_files(1), record_files(1)).stays_quiet()
    spec.when(other(record_files(1))).stays_quiet()


@pytest.mark.parametrize("past", [[], [files_changed(1), files_changed(2)]])
def test_files_made_from_another_version_are_refused(past: list[Event]) -> None:
    """Somebody else stored one meanwhile, or it was made from one that never was."""
    command = msgspec.structs.replace(record_files(2), manifest="mine")
    gateway(project_created(), *past).when(command).refuses("files_version_conflict")


@pytest.mark.parametrize(
    "past", [[], [project_created(owner="bob")], [project_created(), ProjectDeleted(project_id=PROJECT)]]
)
def test_files_of_an_unknown_project_are_refused(past: list[Event]) -> None:
    """Unknown, deleted or another owner's: the three look the same."""
    gateway(*past).when(record_files(1)).refuses("project_not_found")


# --- SetProjectEnv ------------------------------------------------------------------------------------------------

SET_ENV = SetProjectEnv(project_id=PROJECT, owner=OWNER, env="sealed-1", names=("KEY",))


def env_changed(env: str, *names: str) -> ProjectEnvChanged:
    return ProjectEnvChanged(project_id=PROJECT, env=env, names=names)


def test_variables_are_set() -> None:
    """The event names the object and the variables; there is no place for a value."""
    gateway(project_created()).when(SET_ENV).then(env_changed("sealed-1", "KEY"))


def test_variables_are_set_anew_and_taken_away() -> None:
    past = [project_created(), env_changed("sealed-0", "OLD")]
    gateway(*past).when(SET_ENV).then(env_changed("sealed-1", "KEY"))
    none = SetProjectEnv(project_id=PROJECT, owner=OWNER, env="", names=())
    gateway(*past).when(none).then(env_changed(""))
    gateway(project_created()).when(none).stays_quiet()


def test_set_env_twice_does_its_work_once() -> None:
    """Under the same id, also when others were set since; and the same object under another id."""
    spec = gateway(project_created()).when(SET_ENV, SET_ENV).stays_quiet().when(other(SET_ENV)).stays_quiet()
    later = msgspec.structs.replace(SET_ENV, id="later", env="sealed-2")
    spec.when(later, SET_ENV).stays_quiet()


@pytest.mark.parametrize(("base", "granted"), [("sealed-0", True), ("", False), ("sealed-x", False), (None, True)])
def test_variables_made_from_others_are_refused(base: str | None, granted: bool) -> None:
    """Else a variable that was set at the same time would be lost without a word."""
    command = msgspec.structs.replace(SET_ENV, base=base)
    spec = gateway(project_created(), env_changed("sealed-0", "OLD")).when(command)
    if granted:
        spec.then(env_changed("sealed-1", "KEY"))
    else:
        spec.refuses("env_conflict")


@pytest.mark.parametrize(
    "past", [[], [project_created(owner="bob")], [project_created(), ProjectDeleted(project_id=PROJECT)]]
)
def test_variables_of_an_unknown_project_are_refused(past: list[Event]) -> None:
    gateway(*past).when(SET_ENV).refuses("project_not_found")


# --- SetProjectResidents ------------------------------------------------------------------------------------------

RESIDENTS = SetProjectResidents(project_id=PROJECT, owner=OWNER, count=2)


def test_a_project_becomes_a_template() -> None:
    """Said twice, it is one; and no longer, where there are to be none."""
    changed = ProjectResidentsChanged(project_id=PROJECT, count=2)
    gateway(project_created()).when(RESIDENTS).then(changed).when(other(RESIDENTS)).stays_quiet()
    none = msgspec.structs.replace(RESIDENTS, count=0)
    gateway(project_created(), changed).when(none).then(ProjectResidentsChanged(project_id=PROJECT, count=0))


@pytest.mark.parametrize("count", [-1, CONFIG.residents_max + 1])
def test_a_template_has_a_sensible_number_of_residents(count: int) -> None:
    gateway(project_created()).when(msgspec.structs.replace(RESIDENTS, count=count)).refuses("bad_count")


def test_a_project_with_variables_is_no_template() -> None:
    """But it may always stop being one."""
    past = [project_created(), env_changed("sealed-1", "KEY")]
    gateway(*past).when(RESIDENTS).refuses("template_with_env")
    gateway(*past).when(msgspec.structs.replace(RESIDENTS, count=0)).stays_quiet()


def test_anothers_project_does_not_become_a_template() -> None:
    gateway(project_created(owner="bob")).when(RESIDENTS).refuses("project_not_found")


# --- DeleteProject ------------------------------------------------------------------------------------------------


def test_a_project_is_deleted() -> None:
    gateway(project_created()).when(DELETE).then(ProjectDeleted(project_id=PROJECT))


def test_delete_twice_does_its_work_once() -> None:
    gateway(project_created()).when(DELETE, DELETE).stays_quiet().when(other(DELETE)).stays_quiet()


def test_anothers_project_is_not_deleted() -> None:
    gateway(project_created(owner="bob")).when(DELETE).refuses("project_not_found")


def test_every_command_has_its_tests() -> None:
    """A new command of the gateway must appear here."""
    covered = {CreateProject, RecordFiles, SetProjectEnv, SetProjectResidents, DeleteProject, RecordErasure}
    assert covered == set(commands_of("gateway"))


ERASURE = RecordErasure(project_id=PROJECT, previews=2, output_batches=3, objects=4, reactions=1)
ERASED = ProjectErased(project_id=PROJECT, previews=2, output_batches=3, objects=4, reactions=1)


def test_an_erasure_is_recorded_once() -> None:
    """What a second look has removed is no second erasure."""
    past = [project_created(), ProjectDeleted(project_id=PROJECT)]
    state = gateway(*past).when(ERASURE).then(ERASED).state
    assert state.removed[PROJECT].erased == ERASED
    again = msgspec.structs.replace(ERASURE, id="another", objects=0)
    gateway(*past, ERASED).when(again).stays_quiet()


@pytest.mark.parametrize("past", [[], [project_created()]])
def test_only_what_was_deleted_is_erased(past: list[Event]) -> None:
    gateway(*past).when(ERASURE).stays_quiet()
