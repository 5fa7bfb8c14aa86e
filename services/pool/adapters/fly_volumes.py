"""Disks of VMs that ask for one: made with the machine, deleted with it. Volumes have no metadata, so the name says whose."""

import math
from collections.abc import Sequence

from services.pool.adapters.fly_api import FlyApi, FlyRefused
from services.pool.adapters.fly_config import FlyConfig
from services.pool.adapters.fly_machines import Guest, Volume, vm_of_volume, volume_name
from services.pool.ports import VmSpec


class FlyVolumes:
    """The volumes of one home. `used`: whether any are made here at all; without, the API is not asked about them."""

    def __init__(self, api: FlyApi, config: FlyConfig, home: str) -> None:
        self._api = api
        self._home = home
        self._timeout_s = config.create_timeout_s
        self.used = config.volumes

    async def create(self, spec: VmSpec, guest: Guest, image: str, region: str) -> Volume:
        """A fresh volume, on a host with room for the machine. Fly gives whole gigabytes."""
        body = {
            "name": volume_name(self._home, spec.vm_id),
            **({"region": region} if region else {}),
            "size_gb": max(1, math.ceil(spec.disk_mb / 1024)),
            "encrypted": True,
            "auto_backup_enabled": False,
            "compute": guest,
            "compute_image": image,
        }
        answer = await self._api.call("POST", self._api.volumes, body=body, timeout_s=self._timeout_s, repeatable=False)
        return answer.decoded(Volume)

    async def list(self) -> Sequence[Volume]:
        """Those of this home that are not on their way out."""
        volumes = (await self._api.call("GET", self._api.volumes)).decoded(list[Volume])
        return [volume for volume in volumes if vm_of_volume(self._home, volume) and not volume.gone]

    async def delete_of(self, vm_id: str) -> None:
        """All that were made for this VM. To be called when its machines are gone: one that is attached can't be deleted."""
        for volume in await self.list():
            if vm_of_volume(self._home, volume) == vm_id:
                await self.delete(volume.id)

    async def delete(self, volume_id: str) -> None:
        try:
            await self._api.call("DELETE", f"{self._api.volumes}/{volume_id}")
        except FlyRefused as refused:
            if refused.status not in (404, 410):
                raise
