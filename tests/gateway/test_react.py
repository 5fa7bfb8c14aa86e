"""What the gateway does about each event and timer, as data."""

import pytest

from services.gateway.app import definition
from services.gateway.config import GatewayConfig
from services.gateway.react import (
    COLLECT_AFTER_S,
    COLLECT_ENV_TIMER,
    COLLECT_TIMER,
    ERASE_TIMER,
    CollectEnv,
    CollectFiles,
    Effect,
    EraseProject,
    on_timer,
    react,
)
from shared.effects import SetTimer
from shared.events import Event, ProjectDeleted, ProjectEnvChanged
from shared.ports import TimerFired
from tests.builders import OWNER, PROJECT, files_changed, preview_requested, project_created
from tests.spec import given

GATEWAY = definition(GatewayConfig())


def effects(*past: Event, of: int = -1) -> list[Effect]:
    """What follows from the last of these events, or from another one where it is heard at the end."""
    spec = given(GATEWAY, *past)
    return list(react(spec.state, spec.log[of]))


def collect(manifest: str) -> tuple[str, float, dict[str, str | int]]:
    return COLLECT_TIMER, COLLECT_AFTER_S, {"project_id": PROJECT, "manifest": manifest}


def timers(found: list[Effect]) -> list[tuple[str, float, dict[str, str | int]]]:
    return [(each.name, each.delay_s, each.data) for each in found if isinstance(each, SetTimer)]


def test_the_first_version_replaces_nothing() -> None:
    assert effects(project_created(), files_changed(1)) == []


def test_a_replaced_version_is_collected_later() -> None:
    """It may still be on its way into a VM."""
    assert timers(effects(project_created(), files_changed(1), files_changed(2))) == [collect("manifest-1")]


def test_each_version_of_a_quick_series_is_collected() -> None:
    """The third version was stored before the second one's event was heard: none is left in the store for ever."""
    past = [project_created(), files_changed(1), files_changed(2), files_changed(3)]
    found = [timer for of in (1, 2, 3) for timer in timers(effects(*past, of=of))]
    assert sorted(str(data["manifest"]) for _, _, data in found) == ["manifest-1", "manifest-2"]


def test_the_timers_of_two_versions_do_not_replace_one_another() -> None:
    """A timer of the same name and id takes the earlier one's place."""
    one = effects(project_created(), files_changed(1), files_changed(2))
    two = effects(project_created(), files_changed(1), files_changed(2), files_changed(3))
    ids = [each.id for each in (*one, *two) if isinstance(each, SetTimer)]
    assert len(set(ids)) == 2


def erase_again() -> tuple[str, float, dict[str, str | int]]:
    return ERASE_TIMER, COLLECT_AFTER_S, {"project_id": PROJECT, "owner": OWNER}


@pytest.mark.parametrize("files", [[], [files_changed(1)]])
def test_a_deleted_project_is_erased(files: list[Event]) -> None:
    """At once, and once more for what was on its way; also one that never had a file."""
    past = [project_created(), *files, ProjectDeleted(project_id=PROJECT)]
    assert timers(effects(*past)) == [erase_again()]
    assert effects(*past)[1:] == [EraseProject(PROJECT, OWNER)]


def test_the_timer_of_an_erasure_becomes_another() -> None:
    fired = TimerFired(name=ERASE_TIMER, id=PROJECT, key="k", data=erase_again()[2])
    assert on_timer(given(GATEWAY).state, fired) == [EraseProject(PROJECT, OWNER)]


def env_changed(env: str, *names: str) -> ProjectEnvChanged:
    return ProjectEnvChanged(project_id=PROJECT, env=env, names=names)


def test_replaced_variables_are_collected_later() -> None:
    """A dev server may be about to start with them; also where they were all taken away, and each of a quick series."""
    past = [project_created(), env_changed("a", "KEY"), env_changed("b", "KEY"), env_changed("")]
    found = [timer for of in (1, 2, 3) for timer in timers(effects(*past, of=of))]
    data: list[dict[str, str | int]] = [{"project_id": PROJECT, "env": "a"}, {"project_id": PROJECT, "env": "b"}]
    assert found == [(COLLECT_ENV_TIMER, COLLECT_AFTER_S, each) for each in data]


def test_a_deleted_projects_variables_are_collected_at_once() -> None:
    past = [project_created(), files_changed(1), env_changed("a", "KEY"), ProjectDeleted(project_id=PROJECT)]
    assert timers(effects(*past)) == [erase_again()]
    assert effects(*past)[1:] == [CollectEnv(PROJECT, "a"), EraseProject(PROJECT, OWNER)]


def test_the_timer_of_variables_becomes_their_collection() -> None:
    fired = TimerFired(name=COLLECT_ENV_TIMER, id="x", key="k", data={"project_id": PROJECT, "env": "a"})
    assert on_timer(given(GATEWAY).state, fired) == [CollectEnv(PROJECT, "a")]


@pytest.mark.parametrize("past", [[project_created()], [project_created(), preview_requested()], [files_changed(1)]])
def test_nothing_follows_from_the_rest(past: list[Event]) -> None:
    assert effects(*past) == []


def test_the_timer_becomes_the_collection() -> None:
    state = given(GATEWAY).state
    fired = TimerFired(name=COLLECT_TIMER, id="x", key="k", data={"project_id": PROJECT, "manifest": "manifest-1"})
    assert on_timer(state, fired) == [CollectFiles(PROJECT, "manifest-1")]
    assert on_timer(state, TimerFired(name="other", id="x", key="k")) == []
