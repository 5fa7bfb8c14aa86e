"""Residents: previews of a template whose VMs, dev server and all, go to projects that differ from it in their files
alone. Which ones a template lacks, and which one fits a preview. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from services.orchestrator.model import ENDED, Found, Preview, Project
from services.orchestrator.rules.detection import Detection
from services.orchestrator.rules.edits import same_jobs
from services.orchestrator.rules.frameworks import FRAMEWORKS, TOOLS
from services.orchestrator.state import State
from shared.events import Event, PreviewRequested, PreviewStopped
from shared.ids import ProjectId, derive_keyed

SOURCES = frozenset({"app", "assets", "components", "lib", "pages", "public", "src", "styles"})
"""Folders of an app that dev servers watch, and configurations are not in."""


def maintain(state: State, at: float, retry_s: float, key: bytes) -> Sequence[Event]:
    """What every template owes at this moment. One that failed is tried again after `retry_s`, or with other files.
    `key`: of the previews' ids."""
    by_project = _residents(state)
    crowded = any(_waits(each) for each in state.previews.values())
    events: list[Event] = []
    for project in state.projects.values():
        mine = by_project.get(project.project_id, [])
        if project.residents or mine:
            events += _maintain_one(project, mine, at, retry_s, key, crowded=crowded)
    return events


def _residents(state: State) -> dict[ProjectId, list[Preview]]:
    by_project: dict[ProjectId, list[Preview]] = defaultdict(list)
    for preview in map(state.previews.__getitem__, state.residents):
        by_project[preview.project_id].append(preview)
    return by_project


def _waits(preview: Preview) -> bool:
    """Somebody's preview has no VM yet: no time to ask for one ahead of need."""
    return preview.status == "preparing" and preview.vm is None and not preview.resident


def _maintain_one(
    project: Project, mine: list[Preview], at: float, retry_s: float, key: bytes, *, crowded: bool
) -> Iterator[Event]:
    # Variables are read by a process at its start: with any, the template's server would show what no other may see.
    wanted = project.residents if project.files_version and not project.env else 0
    running = [each for each in mine if each.status not in ENDED]
    fit = [each for each in running if _is_current(each, project)]
    for each in running:
        if each not in fit:
            yield PreviewStopped(preview_id=each.preview_id, reason="outdated")
    for each in fit[wanted:]:
        yield PreviewStopped(preview_id=each.preview_id, reason="surplus")
    failed = [
        each
        for each in mine
        if each.status == "failed" and each.files_version == project.files_version and at - each.status_at < retry_s
    ]
    for number in range(1, 1 + (0 if crowded else wanted - len(fit) - len(failed))):
        yield PreviewRequested(
            preview_id=derive_keyed(key, project.project_id, "resident", project.residents_made + number),
            project_id=project.project_id,
            owner=project.owner,
            files_version=project.files_version,
            resident=True,
        )


def _is_current(resident: Preview, project: Project) -> bool:
    taken = resident.status == "ready" and resident.vm is None
    return not taken and resident.attempt == 1 and resident.files_version == project.files_version


def may_fit(state: State, preview: Preview) -> bool:
    """Whether it is worth knowing the project before a VM is asked for."""
    return any(candidates(state, preview))


def first_fitting(theirs: Iterable[Preview], preview: Preview) -> Preview | None:
    """The resident that has run longest of those whose jobs are this preview's too; all with their texts opened."""
    found = preview.found
    # What an install writes elsewhere is made of the project's own files: another project's would be wrong.
    if found is None or not found.deps or not found.keeps or not takes_edits_in(found):
        return None
    fits = (
        each
        for each in theirs
        if each.found is not None
        and each.found.keeps
        and (each.found.framework, each.found.version) == (found.framework, found.version)
        and same_jobs(each.found, found)
    )
    return next(fits, None)


def takes_in(found: Found, changed: Collection[str]) -> bool:
    """Whether a server that runs shows these files and nothing of those that it was started with. What its configuration
    may have read, at its start and into its environment, is wherever configurations are: beside the sources, not in them."""
    prefix = "" if found.app_root == "." else f"{found.app_root}/"
    return all(
        path == f"{prefix}index.html"
        or (path.startswith(prefix) and path.removeprefix(prefix).partition("/")[0] in SOURCES and not _is_env(path))
        for path in changed
    )


def _is_env(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".env")


def takes_edits_in(found: Found | Detection) -> bool:
    """True for a framework's own dev server; a program such as an Express app goes on with the code that it was started with."""
    framework = FRAMEWORKS.get(found.framework)
    if framework is None or framework.kind != "web":
        return False
    return any(TOOLS[name].binary in found.dev_command for name in framework.tools)


def candidates(state: State, preview: Preview) -> Iterator[Preview]:
    """Of the same owner, so that nothing passes between owners; of the same attempt, which names the dev server's job."""
    project = state.projects.get(preview.project_id)
    if project is None or project.env or preview.resident or preview.vm is not None:
        return
    for each in map(state.previews.__getitem__, state.residents):
        template = state.projects.get(each.project_id)
        if (
            each.status == "ready"
            and not each.with_errors
            and each.vm is not None
            and each.owner == preview.owner
            and each.attempt == preview.attempt
            and each.manifest
            and template is not None
            and not template.env
        ):
            yield each
