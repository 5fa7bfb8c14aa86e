"""Makes one machine, in the first region that has room; and what is wrong where Fly will not."""

import logging
import re

from services.pool.adapters.fly_api import FlyApi, FlyRefused
from services.pool.adapters.fly_config import FlyConfig
from services.pool.adapters.fly_leases import busy, uninterrupted
from services.pool.adapters.fly_machines import (
    SUSPENDABLE_MB_MAX,
    Machine,
    Volume,
    creation,
    machine_name,
    size,
    volume_name,
)
from services.pool.adapters.fly_volumes import FlyVolumes
from services.pool.ports import ProviderError, VmSpec

log = logging.getLogger("drape.pool.fly")

PINNED = re.compile(r"[\w.-]+(?::\d+)?(?:/[\w.-]+)+(?::[\w.-]+)?@sha256:[0-9a-f]{64}")
FULL_KINDS = ("insufficient_capacity", "volume_placement_capacity")
FULL = re.compile(r"capacity|insufficient resources|could not reserve|no (available )?hosts?", re.IGNORECASE)
TAKEN = re.compile(r"already[_ ]exists|unique machine name", re.IGNORECASE)
UNUSABLE = re.compile(r"platform|architecture|amd64|arm64|no match", re.IGNORECASE)
MISSING = re.compile(
    r"manifest|image.*(?:not found|unknown|could not|unable|fail)|(?:not found|unable|fail).*image|repository.*not found",
    re.IGNORECASE,
)


class Attempt:
    """One try to make a VM. `id` is in its machine's metadata; `nonce`: of the lease that the machine began with, so that the
    try alone can take back what it has made, also where it is cancelled before it hears of it."""

    def __init__(self, attempt_id: str) -> None:
        self.id = attempt_id
        self.nonce = ""


class FlyCreate:
    """Creates for one app."""

    def __init__(self, api: FlyApi, config: FlyConfig, home: str, volumes: FlyVolumes) -> None:
        self._api = api
        self._config = config
        self._home = home
        self._volumes = volumes
        self._app_seen = False
        self._warned = False

    def check(self, spec: VmSpec) -> None:
        """Raises ProviderError `invalid_spec` for what no call could make."""
        image = spec.image or self._config.image
        if not PINNED.fullmatch(image):
            raise ProviderError(
                "invalid_spec",
                f"the VM image {image!r} is not pinned by its digest: `deploy/fly/push-image` builds it, pushes it and "
                "writes DRAPE_POOL_FLY_IMAGE=registry.fly.io/<app>@sha256:…",
            )
        guest = size(spec.cpu_cores, spec.memory_mb, self._config.cpu_kind)
        if self._disk(spec):
            volume_name(self._home, spec.vm_id)
        if guest.memory_mb > SUSPENDABLE_MB_MAX and not self._warned:
            self._warned = True
            log.warning(
                "suspending_is_slow", extra={"memory_mb": guest.memory_mb, "advised_max_mb": SUSPENDABLE_MB_MAX}
            )

    async def make(self, spec: VmSpec, attempt: Attempt) -> Machine:
        """The machine, under a lease that begins with it. Raises ProviderError; of a try that failed nothing is left but,
        where the answer was lost, a machine with `attempt` in its metadata."""
        regions = [spec.region] if spec.region else [each.strip() for each in self._config.regions.split(",")]
        full: list[str] = []
        for region in regions:
            try:
                return await uninterrupted(self._make_in(region, spec, attempt))
            except ProviderError as error:
                if error.code != "region_full":
                    raise
                full.append(f"{region or 'the nearest'} ({error.message})")
        raise ProviderError(
            "region_full",
            f"no region has room for VM {spec.vm_id}: {'; '.join(full)}; name further ones in DRAPE_POOL_FLY_REGIONS",
            retryable=True,
        )

    async def _make_in(self, region: str, spec: VmSpec, attempt: Attempt) -> Machine:
        config = self._config
        volume: Volume | None = None
        try:
            if self._disk(spec):
                guest = size(spec.cpu_cores, spec.memory_mb, config.cpu_kind)
                volume = await self._volumes.create(spec, guest, spec.image or config.image, region)
            body = creation(
                spec, config, home=self._home, attempt=attempt.id, region=region, volume=volume.id if volume else ""
            )
            answer = await self._api.call(
                "POST", self._api.machines, body=body, timeout_s=config.create_timeout_s, repeatable=False
            )
            made = answer.decoded(Machine)
            attempt.nonce = made.nonce
            return made
        except FlyRefused as refused:
            if volume is not None:
                await self._volumes.delete(volume.id)
            raise self._meaning(refused, spec) from refused

    def _meaning(self, refused: FlyRefused, spec: VmSpec) -> ProviderError:
        """Fly answers most of what is wrong with a machine with 400, 412 or 422 and a text."""
        image, said = spec.image or self._config.image, refused.message
        if refused.status == 404 or refused.code in ("provider_unauthorized", "provider_rate_limited"):
            return refused
        if refused.kind in FULL_KINDS or FULL.search(refused.detail):
            return ProviderError("region_full", refused.detail or refused.kind, retryable=True)
        if TAKEN.search(refused.detail):
            return busy(machine_name(self._home, spec.vm_id))
        if "image" in refused.detail.lower() or "manifest" in refused.detail.lower():
            if UNUSABLE.search(refused.detail):
                todo = "machines are amd64: build the image with `deploy/fly/push-image`, which asks for that"
                return ProviderError("image_unusable", f"{said}; {todo}")
            if MISSING.search(refused.detail):
                return ProviderError("image_missing", f"{said}; push {image} with `deploy/fly/push-image`")
        return refused

    async def ensure_app(self) -> None:
        """Where an organization is named, a missing app is made in it, once."""
        config = self._config
        if self._app_seen or not config.org:
            return
        try:
            await self._api.call("GET", self._api.app)
        except FlyRefused as refused:
            if refused.status != 404:
                raise
            try:
                body = {"app_name": config.app, "name": config.app, "org_slug": config.org}
                if config.reach == "edge":
                    body["network"] = config.app  # of its own: what runs in VMs reaches no other app
                await self._api.call("POST", self._api.apps, body=body, repeatable=False)
                for kind in ("shared_v4", "v6") if config.reach == "edge" else ():
                    await self._api.call("POST", f"{self._api.app}/ip_assignments", body={"type": kind})
            except FlyRefused as taken:
                if taken.kind == "name_taken" or "taken" in taken.detail.lower():
                    raise ProviderError(
                        "provider_unauthorized",
                        f"there is an app {config.app} in another organization than {config.org}, and names are unique in "
                        "all of Fly: choose another DRAPE_POOL_FLY_APP, or the token of that organization",
                    ) from taken
                raise
            log.warning("app_created", extra={"app": config.app, "org": config.org})
        self._app_seen = True

    def _disk(self, spec: VmSpec) -> bool:
        return self._config.volumes and spec.disk_mb > 0
