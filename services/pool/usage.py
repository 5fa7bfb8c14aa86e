"""What VMs use, as their agents say at their health checks: the last word of each. It is no fact, so it is not in the log,
and each replica knows what it has heard itself."""

from collections.abc import Mapping

import msgspec

from shared.agent.protocol import Usage
from shared.ids import VmId

VMS_MAX = 10_000
"""VMs that are remembered; who was silent longest is forgotten first."""


class VmUsage(msgspec.Struct, frozen=True, kw_only=True):
    """`cpu_cores`: processors used on average since the look before; None: there was none. `memory_bytes`: resident."""

    cpu_cores: float | None
    memory_bytes: int


class _Heard(msgspec.Struct, frozen=True):
    at: float
    seen: Usage
    usage: VmUsage


class Usages:
    """What was heard of each VM."""

    def __init__(self) -> None:
        self._heard: dict[VmId, _Heard] = {}

    def hear(self, vm_id: VmId, seen: Usage | None, at: float) -> None:
        """What an agent says of its VM; None: nothing. `at`: seconds, by our clock."""
        if seen is None:
            return
        before = self._heard.pop(vm_id, None)
        if before is not None and before.seen.at == seen.at:
            # It has not looked since: what was known stays so.
            self._heard[vm_id] = msgspec.structs.replace(before, at=at)
            return
        cores = None if before is None else _cores(before.seen, seen)
        self._heard[vm_id] = _Heard(at, seen, VmUsage(cpu_cores=cores, memory_bytes=seen.memory_bytes))
        if len(self._heard) > VMS_MAX:
            del self._heard[next(iter(self._heard))]

    def since(self, at: float) -> Mapping[VmId, VmUsage]:
        """What was heard at `at` or later; what was heard before is forgotten."""
        self._heard = {vm_id: heard for vm_id, heard in self._heard.items() if heard.at >= at}
        return {vm_id: heard.usage for vm_id, heard in self._heard.items()}


def _cores(before: Usage, after: Usage) -> float | None:
    """None where the agent has begun anew, or its clock was set."""
    passed_s, used_s = after.at - before.at, after.cpu_s - before.cpu_s
    return round(used_s / passed_s, 4) if passed_s > 0 and used_s >= 0 else None
