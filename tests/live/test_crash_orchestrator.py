"""The orchestrator dies in the middle of an install: nothing starts twice, and the preview still becomes ready."""

from tests.deploy.waiting import eventually
from tests.live.client import Client
from tests.live.platform import EXAMPLES, Platform


def example_files(name: str) -> dict[str, str | bytes]:
    """An example as {path: content}, without what an install makes."""
    root = EXAMPLES / name
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {"node_modules", ".next", "dist"} & set(path.relative_to(root).parts)
    }


async def test_the_orchestrator_is_killed_during_install_and_the_preview_becomes_ready_with_one_install(
    rough: Platform, rough_client: Client
) -> None:
    """kill -9 after InstallStarted: the supervisor restarts it, it attaches to the job that runs, and the package
    manager has run once by the log of events, by the job's id, and by the package manager's own words."""
    preview_id = await rough_client.request_preview(await rough_client.project(example_files("vite-react")))
    started = await rough.event("InstallStarted", preview_id)
    killed = rough.kill("orchestrator")
    await eventually(lambda: rough.pid("orchestrator") not in (0, killed))

    view = await rough_client.ended(preview_id)

    assert view["status"] == "ready", view["error"]
    page = await rough_client.visit(preview_id)
    assert (page.status, "<title>Drape example: Vite and React</title>" in page.text) == (200, True)
    events = await rough.events(preview_id)
    kinds = [event.type for event in events]
    assert kinds.count("InstallStarted") == kinds.count("InstallCompleted") == kinds.count("PreviewReady") == 1
    assert next(event.seq for event in events if event.type == "InstallCompleted") > started.seq
    assert getattr(started.event, "job_id", "") == "install-1"
    logs = (await rough_client.call("GET", f"/api/previews/{preview_id}/logs")).json["lines"]
    added = [line["text"] for line in logs if line["step"] == "install" and line["text"].startswith("added ")]
    assert len(added) == 1, added
    await rough_client.stop(preview_id)
