"""VMs on a disk that has no room left: a boot fails with its code, leaves nothing, and works again once there is room."""

from pathlib import Path

import pytest

from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.ports import ProviderError
from tests.chaos.hosts import disk, fill, isolation_missing
from tests.pool.provider_contract import a_vm

MISSING = isolation_missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"a small disk can't be mounted: {MISSING}")


async def test_a_boot_without_room_fails_with_its_code_and_leaves_nothing(tmp_path: Path) -> None:
    """Not an error of another kind, which would be taken for a bug and tried until it is parked."""
    with disk(tmp_path / "vms", 8, isolated=True) as vms:
        provider = LocalProvider(vms, config=LocalConfig(sandbox="none", cgroups="none"))
        vm = a_vm("vm-000001")
        try:
            filler = fill(vms)
            with pytest.raises(ProviderError) as raised:
                await provider.create(vm)
            assert (raised.value.code, raised.value.retryable) == ("boot_failed", True)
            assert await provider.list() == []

            filler.unlink()
            await provider.create(vm)
            assert [each.state for each in await provider.list()] == ["running"]
        finally:
            await provider.destroy(vm.vm_id)
            await provider.close()
