"""How much memory a preview's VM should have, and what follows where that was too little. Pure.

What somebody asked for counts more than what the framework mostly needs; what has run out of memory before counts more than
both. A preview whose memory runs out begins anew in the next bigger VM, once for each size that there is.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from services.orchestrator.model import Preview, Project, Size
from services.orchestrator.rules.steps import advance, failed, restarted
from services.orchestrator.state import State
from shared.events import Event, PreviewWarningRaised

RAN_OUT = frozenset({"out_of_memory", "install_killed", "dev_server_killed"})
"""Causes by the catalogue of failures: a VM that has no memory left has a process killed."""
RAN_OUT_WARNING = "vm_out_of_memory"
TOO_SMALL_WARNING = "vm_too_small"
HEAP_SHARE = 0.75
"""Of a VM's memory for Node's old space; the rest is for what else runs, and for what is outside of the heap."""


def need(state: State, preview: Preview) -> Size:
    """What its VM is to be; 0 and empty: any."""
    project = state.projects.get(preview.project_id)
    detected_mb = preview.found.memory_mb if preview.found is not None else project.needs_mb if project else 0
    grown_mb = max(preview.grown_mb, project.grown_mb if project is not None else 0)
    return replace(preview.asked, memory_mb=max(preview.asked.memory_mb or detected_mb, grown_mb))


def depends_on_detection(state: State, preview: Preview) -> bool:
    """Whether another VM may be the right one once the project is known: there are several sizes, and nothing says which."""
    return need(state, preview).memory_mb == 0 and len(_sizes_mb(state, preview)) > 1


def go_on(state: State, preview: Preview) -> Sequence[Event]:
    """What follows from where the preview stands: a bigger VM where memory ran out, else what follows for all."""
    if preview.status not in ("install_failed", "exited") or preview.failure.code not in RAN_OUT or preview.resident:
        return advance(preview)
    has_mb = preview.vm.memory_mb if preview.vm is not None else 0
    project = state.projects.get(preview.project_id)
    if not has_mb or project is None:
        return advance(preview)
    bigger_mb = next((mb for mb in _sizes_mb(state, preview) if mb > max(has_mb, preview.grown_mb)), 0)
    if not bigger_mb:
        return [failed(preview, replace(preview.failure, hint=_hint(has_mb)))]
    if RAN_OUT_WARNING not in preview.warned:
        return [_ran_out(preview, has_mb, bigger_mb)]
    return [_grown(preview, project, bigger_mb)]


def too_small(state: State, preview: Preview) -> Sequence[Event]:
    """A warning where the VM has less memory than the project should have, as long as none was raised."""
    has_mb, needs_mb = preview.vm.memory_mb if preview.vm is not None else 0, need(state, preview).memory_mb
    if not 0 < has_mb < needs_mb or TOO_SMALL_WARNING in preview.warned:
        return []
    return [
        PreviewWarningRaised(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            code=TOO_SMALL_WARNING,
            message=f"Its VM has {has_mb} MB of memory, {needs_mb} MB are wanted: it may run out.",
            recommendation="a pool whose VMs have as much (DRAPE_POOL_POOLS), or a preview that asks for less",
        )
    ]


def node_options(memory_mb: int) -> dict[str, str]:
    """Variables that let Node use its VM, and no more; what the project says counts more. Empty where nothing is known."""
    return {"NODE_OPTIONS": f"--max-old-space-size={int(memory_mb * HEAP_SHARE)}"} if memory_mb else {}


def _sizes_mb(state: State, preview: Preview) -> list[int]:
    """Of the VMs that this preview may have, the smallest first."""
    asked = preview.asked
    able = [
        size for size in state.sizes.values() if asked.region in ("", size.region) and asked.image in ("", size.image)
    ]
    return sorted({size.memory_mb for size in able})


def _ran_out(preview: Preview, has_mb: int, bigger_mb: int) -> PreviewWarningRaised:
    return PreviewWarningRaised(
        preview_id=preview.preview_id,
        attempt=preview.attempt,
        code=RAN_OUT_WARNING,
        message=f"It ran out of memory in a VM of {has_mb} MB, and begins anew in one of {bigger_mb} MB.",
        recommendation=f"ask for {bigger_mb} MB at once (--memory-mb), or make the project need less",
    )


def _grown(preview: Preview, project: Project, bigger_mb: int) -> Event:
    return replace(restarted(preview, project, "out_of_memory"), memory_mb=bigger_mb)


def _hint(has_mb: int) -> str:
    """Instead of the cause's own, which is sealed in the state: nothing can be added to that."""
    return (
        f"Its VM had {has_mb} MB, the most that there is here. Make the project need less, or have bigger VMs: "
        "DRAPE_POOL_POOLS, DRAPE_POOL_VM_MEMORY_MB."
    )
