"""Warm VMs that stand still until they are claimed, where the config wants that. Pure."""

from services.pool.config import PoolConfig
from services.pool.state import State
from shared.events import Event, VmSuspended


def freeze_warm(state: State, config: PoolConfig) -> list[Event]:
    """The warm VMs that still run. None while claims wait: those VMs are about to be handed out."""
    if not config.warm_suspended or state.claims:
        return []
    return [VmSuspended(vm_id=vm_id) for vm_id in state.ready if not state.vms[vm_id].suspended]
