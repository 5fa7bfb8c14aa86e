"""What a framework keeps of its own work: which folders, for whom, and when they are looked at."""

import msgspec
import pytest

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Preview
from services.orchestrator.react import BUILD_TIMER, KeepBuild, on_timer, react
from services.orchestrator.rules.builds import BuildCache, build_cache
from services.orchestrator.rules.frameworks import FRAMEWORKS
from shared.effects import SetTimer
from shared.events import Event, PreviewRequested, ProjectDetected
from shared.ports import TimerFired
from tests.builders import PREVIEW, PROJECT, project_created, project_detected, story
from tests.orchestrator.test_decide import orchestrator

CONFIG = OrchestratorConfig()
NEXT = msgspec.structs.replace(project_detected(), framework="nextjs", version="15.5.0", keeps=True)


def past(detected: ProjectDetected = NEXT, project: str = PROJECT) -> list[Event]:
    """A story to ready in which that was detected, of that project."""

    def changed(event: Event) -> Event:
        if isinstance(event, ProjectDetected):
            return detected
        return msgspec.structs.replace(event, project_id=project) if isinstance(event, PreviewRequested) else event

    return [project_created(project), *map(changed, story("ready"))]


def of(detected: ProjectDetected = NEXT, project: str = PROJECT) -> BuildCache | None:
    preview: Preview = orchestrator(*past(detected, project)).state.previews[PREVIEW]
    return build_cache(preview)


def test_the_frameworks_own_cache_is_kept_below_the_apps_folder() -> None:
    there = of()
    assert there is not None
    assert there.trees == (".next/cache", ".next/dev/cache")
    below = of(msgspec.structs.replace(NEXT, app_root="apps/web"))
    assert below is not None
    assert below.trees == ("apps/web/.next/cache", "apps/web/.next/dev/cache")


@pytest.mark.parametrize(
    "changes",
    [{"version": "16.0.0"}, {"deps": "other"}, {"app_root": "apps/web"}, {"framework": "blitz"}],
)
def test_what_decides_whether_it_fits_is_in_its_key(changes: dict[str, str]) -> None:
    one, other = of(), of(msgspec.structs.replace(NEXT, **changes))
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_another_project_never_gets_it() -> None:
    """It holds code of the project's own files."""
    one, other = of(), of(project="project-2")
    assert one is not None
    assert other is not None
    assert one.key != other.key
    again = of(msgspec.structs.replace(NEXT, evidence=("elsewhere",)))
    assert again == one


@pytest.mark.parametrize(
    "changes", [{"keeps": False}, {"deps": ""}, {"framework": "vite"}, {"framework": "unheard-of"}]
)
def test_nothing_is_kept_where_there_is_nothing_to_keep(changes: dict[str, object]) -> None:
    """Vite's is in `node_modules` and goes with that."""
    assert of(msgspec.structs.replace(NEXT, **changes)) is None


def test_it_is_looked_at_a_while_after_ready() -> None:
    spec = orchestrator(*past())
    timers = [each for each in react(spec.state, spec.log[-1], CONFIG) if isinstance(each, SetTimer)]
    assert timers == [SetTimer(BUILD_TIMER, PREVIEW, CONFIG.keep_build_after_s, {"attempt": 1})]
    fired = TimerFired(name=BUILD_TIMER, id=PREVIEW, key="1", data={"attempt": 1})
    assert on_timer(spec.state, fired) == [KeepBuild(PREVIEW, 1)]
    spec = orchestrator(*past(project_detected()))
    assert not [each for each in react(spec.state, spec.log[-1], CONFIG) if isinstance(each, SetTimer)]


def test_no_framework_keeps_what_holds_the_app_itself() -> None:
    """Nor the folder in which it builds, where pages of earlier files may be served from."""
    for framework in FRAMEWORKS.values():
        assert not set(framework.cache) & {".", "", ".next", "public", "dist", "build", "node_modules", "src"}
        assert not [folder for folder in framework.cache if ".." in folder or folder.startswith("/")]
