"""Events as a busy platform would write them: previews from request to end, one after another. Made up, but in order:
each has the revision, the ids and the headers that the services would have given it."""

import itertools
from collections.abc import Iterator

from shared.codec import Meta
from shared.events import (
    DevServerReady,
    DevServerStarted,
    Event,
    FilesSynced,
    HmrProbed,
    InstallCompleted,
    InstallStarted,
    PoolResized,
    PreviewReady,
    PreviewRequested,
    PreviewStopped,
    ProjectCreated,
    ProjectDetected,
    ProjectFilesChanged,
    VmAcquired,
    VmBooted,
    VmCreationStarted,
    VmDestroyed,
    VmReleased,
    aggregate_key,
)
from shared.ids import derive
from shared.ports import Head

BEGIN_AT = 1_700_000_000.0
PREVIEW_EVERY_S = 2.0
"""An ended preview is remembered for an hour: so many are in the state at any time."""
OWNERS = 200
PREVIEWS_PER_PROJECT = 4
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def events(count: int) -> Iterator[tuple[Event, Meta, int]]:
    """The first `count` of an empty log: event, envelope, and the sequence of its aggregate's last one (0: none)."""
    return itertools.islice(_numbered(), count)


def _numbered() -> Iterator[tuple[Event, Meta, int]]:
    heads: dict[str, Head] = {}
    for seq, (at, event) in enumerate(_stories(), start=1):
        key = aggregate_key(event)
        before = heads.get(key, Head())
        meta = Meta(
            id=derive(f"e{seq:025d}", "event"),
            at=round(at, 6),
            rev=before.rev + 1,
            correlation_id=getattr(event, "preview_id", event.aggregate_id),
            causation_id=derive(f"c{seq:025d}", "command"),
            actor=f"{event.service}/0",
            traceparent=TRACEPARENT,
        )
        yield event, meta, before.seq
        heads[key] = Head(seq, meta.rev)
        if isinstance(event, VmDestroyed | PreviewStopped):
            del heads[key]  # its last one


def _stories() -> Iterator[tuple[float, Event]]:
    yield BEGIN_AT, PoolResized(target=3, minimum=1, maximum=5)
    for number in itertools.count(1):
        at = BEGIN_AT + number * PREVIEW_EVERY_S
        for index, event in enumerate(_story(number)):
            yield at + index * 0.01, event


def _story(number: int) -> Iterator[Event]:
    project_number, nth = divmod(number, PREVIEWS_PER_PROJECT)
    owner = f"owner-{project_number % OWNERS}"
    project_id = derive(f"p{project_number:025d}", "project")
    preview_id = derive(f"p{number:025d}", "preview")
    vm_id = derive(f"v{number:025d}", "vm")
    yield VmCreationStarted(vm_id=vm_id, provider="local", number=number)
    yield VmBooted(vm_id=vm_id, host="127.0.0.1", port=20_000 + number % 10_000, boot_s=0.412)
    if nth == 0 or number == 1:
        yield ProjectCreated(project_id=project_id, owner=owner, name=f"shop-{project_number}")
    yield ProjectFilesChanged(
        project_id=project_id,
        files_version=nth + 1,
        manifest=f"{owner}/{project_id}/manifests/{nth + 1}-{preview_id}",
        files=31,
        size_bytes=48_211,
        changed=3,
        deleted=0,
    )
    yield PreviewRequested(preview_id=preview_id, project_id=project_id, owner=owner, files_version=nth + 1)
    yield VmAcquired(
        vm_id=vm_id,
        preview_id=preview_id,
        owner=owner,
        from_pool=True,
        waited_s=0.0,
        host="127.0.0.1",
        port=20_000 + number % 10_000,
    )
    yield from _run(preview_id)
    yield PreviewStopped(preview_id=preview_id, reason="asked")
    yield VmReleased(vm_id=vm_id, preview_id=preview_id, reason="ended")
    yield VmDestroyed(vm_id=vm_id)


def _run(preview_id: str) -> Iterator[Event]:
    dev = ("node_modules/.bin/vite", "--host", "127.0.0.1", "--port", "{port}", "--strictPort")
    yield ProjectDetected(
        preview_id=preview_id,
        attempt=1,
        framework="vite",
        version="7.1.2",
        package_manager="npm",
        app_root=".",
        dev_command=dev,
        dev_env={"__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS": ".preview.localhost"},
        install_command=("npm", "ci", "--no-audit", "--no-fund"),
        evidence=("package.json: scripts.dev runs vite", "package-lock.json"),
        install_retry_command=("npm", "install", "--no-audit", "--no-fund"),
        deps=HASH,
        keeps=True,
        restart_on=("vite.config.*", ".env", ".env.*", "tsconfig.json"),
    )
    yield FilesSynced(preview_id=preview_id, attempt=1, files_version=1, written=31, deleted=0, sync_s=0.034)
    yield InstallStarted(preview_id=preview_id, attempt=1, job_id="install-1", command=("npm", "ci"))
    yield InstallCompleted(preview_id=preview_id, attempt=1, install_s=3.217)
    yield DevServerStarted(preview_id=preview_id, attempt=1, job_id="dev-1", command=dev)
    yield DevServerReady(preview_id=preview_id, attempt=1, host="127.0.0.1", port=5173, status=200, boot_s=0.71)
    steps = {"acquiring_vm": 0.01, "syncing_files": 0.034, "installing": 3.2, "waiting_server": 0.7, "confirming": 0.02}
    url = f"http://{preview_id}.preview.localhost:8080/"
    yield PreviewReady(
        preview_id=preview_id, attempt=1, url=url, total_s=4.0, from_pool=True, install="completed", steps=steps
    )
    yield HmrProbed(preview_id=preview_id, attempt=1, state="open", path="/")
