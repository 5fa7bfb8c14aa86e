"""VMs of this machine share its network, never a port: whichever replica of the pool made them."""

import asyncio
from pathlib import Path

from services.pool.adapters.local import LocalConfig, LocalProvider
from shared.agent import blocks
from tests.pool.provider_contract import a_vm


async def test_vms_of_two_replicas_have_blocks_of_their_own(tmp_path: Path) -> None:
    """Four VMs made at once by two providers on one folder, all beginning to look at the same block."""
    config = LocalConfig(sandbox="none", cgroups="none")
    replicas = [LocalProvider(tmp_path / "vms", config=config) for _ in range(2)]
    vms = [a_vm(f"{name}-7") for name in ("a", "b", "c", "d")]
    try:
        addresses = await asyncio.gather(*(replicas[n % 2].create(vm) for n, vm in enumerate(vms)))
        ports = sorted(address.port for address in addresses)
        taken = {(port - blocks.FIRST) // blocks.SIZE for port in ports}

        assert len(taken) == len(vms)
        assert [port for port in ports if (port - blocks.FIRST) % blocks.SIZE] == [], (
            "an agent has its block's first port"
        )
        assert ports[0] >= blocks.FIRST
        assert ports[-1] <= blocks.LAST
    finally:
        for vm in vms:
            await replicas[0].destroy(vm.vm_id)
        for replica in replicas:
            await replica.close()
