"""What has to hold once it is quiet again, read off the log, the machine and the users' ledger."""

from collections.abc import Iterable
from pathlib import Path

from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.state import ANSWERING
from shared.codec import Recorded
from shared.definition import replay
from shared.events import (
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewStopped,
    VmAcquired,
    VmCleaned,
    VmDestroyed,
    VmLost,
    VmReleased,
    VmRetired,
)
from tests.chaos.ledger import Ledger
from tests.live.platform import Platform, excused


def broken(records: list[Recorded], ledger: Ledger, platform: Platform, folder: Path) -> list[str]:
    """The rules that do not hold, one a line. `folder`: where the NATS nodes have their logs."""
    return [
        *ledger.missing(records),
        *(f"a page of another project: {page}" for page in ledger.wrong_pages),
        *held_twice(records),
        *unended(records),
        *revisions(records),
        *leaked(records, platform),
        *(f"a permission is missing: {line}" for line in denied(platform, folder)),
    ]


def denied(platform: Platform, folder: Path) -> list[str]:
    """What NATS would not let somebody do, by its nodes' word and the services'."""
    lines = [line for path in folder.glob("nats-*.log") for line in path.read_text("utf-8", "replace").splitlines()]
    return [*platform.violations(), *(line for line in lines if " Violation" in line and not excused(line))]


def held_twice(records: Iterable[Recorded]) -> list[str]:
    """No VM is given away while somebody holds it, and none to another owner ever. A preview that got two (replicas that
    raced) gives one back, which is what the design allows."""
    holder: dict[str, str] = {}
    owner: dict[str, str] = {}
    emptied: set[str] = set()
    found: list[str] = []
    for recorded in records:
        match recorded.event:
            case VmAcquired(vm_id=vm_id, preview_id=preview_id, owner=by, resident=resident):
                held = holder.get(vm_id)
                if held is not None and held != resident:
                    found.append(f"seq {recorded.seq}: {vm_id} is given to {preview_id} while {held} holds it")
                if vm_id in owner and vm_id not in emptied and not resident:
                    found.append(f"seq {recorded.seq}: {vm_id} was used, and is given away unemptied")
                if owner.setdefault(vm_id, by) != by:
                    found.append(f"seq {recorded.seq}: {vm_id} goes from {owner[vm_id]} to {by}")
                holder[vm_id] = preview_id
                emptied.discard(vm_id)
            case VmCleaned(vm_id=vm_id):
                emptied.add(vm_id)
            case VmReleased(vm_id=vm_id) | VmLost(vm_id=vm_id) | VmRetired(vm_id=vm_id) | VmDestroyed(vm_id=vm_id):
                holder.pop(vm_id, None)
    return [*found, *(f"{vm_id} is still held by {preview_id}" for vm_id, preview_id in holder.items())]


def unended(records: Iterable[Recorded]) -> list[str]:
    """Ready, failed or stopped; by now, all of them."""
    open_at: dict[str, str] = {}
    for recorded in records:
        match recorded.event:
            case PreviewRequested(preview_id=preview_id) | PreviewRestarted(preview_id=preview_id):
                open_at[preview_id] = f"begun at seq {recorded.seq}"
            case PreviewReady(preview_id=preview_id):
                open_at[preview_id] = f"ready at seq {recorded.seq}"
            case PreviewFailed(preview_id=preview_id) | PreviewStopped(preview_id=preview_id):
                open_at.pop(preview_id, None)
    return [f"preview {preview_id}, {since}, has no end" for preview_id, since in open_at.items()]


def revisions(records: Iterable[Recorded]) -> list[str]:
    """Each aggregate's count up by one, so that no event is missing and none is there twice."""
    last: dict[str, int] = {}
    found = []
    for recorded in records:
        before = last.get(recorded.key, 0)
        if recorded.meta.rev != before + 1:
            found.append(f"seq {recorded.seq}: {recorded.key} goes from rev {before} to {recorded.meta.rev}")
        last[recorded.key] = recorded.meta.rev
    return found


def leaked(records: Iterable[Recorded], platform: Platform) -> list[str]:
    """The machine has the VMs that the log has, and nothing of any other."""
    state = replay(definition(PoolConfig()), records)
    known = {vm_id for vm_id, vm in state.vms.items() if vm.status in ANSWERING}
    there = {path.parent.name for path in platform.home.vms.glob("*/vm.json")}
    found = [f"{vm_id} is on the machine and not in the log" for vm_id in sorted(there - set(state.vms))]
    found += [f"{vm_id} is in the log and not on the machine" for vm_id in sorted(known - there)]
    return found + [
        f"{vm_id} is in the log and has no process"
        for vm_id in sorted(known & there)
        if not platform.vm_processes(vm_id)
    ]
