"""The `local` provider: a VM is a folder and a sandboxed process tree on this machine.

    vms_dir/<vm_id>/   vm.json (the record)  agent.log  root/{app,home,state}  bin/  etc/  tmp/

The agent runs under bubblewrap where that works (see `sandbox`), else as a plain process group with a warning; limits
and freezing come from cgroups where these can be written (see `cgroups`). VMs live on when this process ends: another
provider on the same folder finds them by their records, and an agent that nobody calls ends itself. Several processes
may share a `vms_dir`: each VM has a lock among them (see `vm_locks`). This room decides nothing about when VMs are wanted.
"""

import asyncio
import compileall
import contextlib
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from services.pool.adapters import cgroups, local_launch, local_vm, sandbox, vm_locks
from services.pool.adapters.specs import VM_ID, check_spec
from services.pool.adapters.turns import Turns
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec

log = logging.getLogger("drape.pool.local")

T = TypeVar("T")
PASS_ENV = (
    *("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR", "NPM_CONFIG_CAFILE", "npm_config_registry"),
    *("NPM_CONFIG_REGISTRY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("PIP_CERT", "PIP_INDEX_URL", "PIP_TRUSTED_HOST", "REQUESTS_CA_BUNDLE", "RES_OPTIONS", "TZ"),
)


def _agent_package() -> Path:
    spec = importlib.util.find_spec("shared.agent")
    if spec is None or not spec.submodule_search_locations:
        raise ProviderError(
            "provider_unavailable",
            "the package shared.agent is missing; reinstall Drape",
        )
    return Path(spec.submodule_search_locations[0])


class LocalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Every knob of the local provider, with its unit."""

    # "auto": bubblewrap where it works. "bubblewrap": refuse without it. "none": never.
    sandbox: Literal["auto", "bubblewrap", "none"] = "auto"
    # "auto": what can be written. "none": no limits, and SIGSTOP instead of the freezer.
    cgroups: Literal["auto", "none"] = "auto"
    # The interpreter that runs the agent, with aiohttp, msgspec and psutil.
    python: Path = Path(sys.executable)
    # The folder that holds bin/node; None: the Node on the system's PATH, if any.
    node_dir: Path | None = None
    # The agent's package (a folder named `agent` inside its parent package); None: the one beside this code.
    agent_package: Path | None = None
    # Further files or folders that a sandbox may read, at their own paths.
    read_only: tuple[Path, ...] = ()
    # Variables of this process that the agent and its jobs get; no others reach them.
    pass_env: tuple[str, ...] = PASS_ENV
    # Spawn to listening: a Python start-up (0.3 s), with room for a busy machine.
    boot_timeout_s: float = 20.0
    # Until every process of a VM is gone after SIGKILL; one in disk wait may need a while.
    destroy_timeout_s: float = 10.0
    # How often a destroy that left something starts over before it says so.
    destroy_tries_max: int = 3
    # Until another pool on this machine has ended its verb on the same VM; one that hangs may never.
    lock_timeout_s: float = 10.0
    # Freezing waits for processes inside the kernel to come out.
    freeze_timeout_s: float = 2.0
    # agent.log is cut back to half of this whenever VMs are listed.
    log_bytes_max: int = 1 << 20
    # /tmp in the sandbox, in memory; counts toward the VM's memory limit.
    tmp_bytes_max: int = 512 << 20
    # Threads for blocking work (spawning, killing, removing folders).
    workers_max: int = 8


class LocalProvider:
    """VMs as sandboxed process trees below `vms_dir`, which is created when missing (only this user may enter it)."""

    name = "local"

    def __init__(self, vms_dir: Path, *, config: LocalConfig) -> None:
        self._vms_dir = Path(os.path.abspath(vms_dir))
        self._config = config
        self.home_key = hashlib.sha256(str(self._vms_dir).encode()).hexdigest()[:8]
        self._threads = ThreadPoolExecutor(config.workers_max, thread_name_prefix="drape-local")
        self._turns = Turns()
        self._setup_lock = asyncio.Lock()
        self._launcher: local_launch.Launcher | None = None
        self._creating: dict[str, VmSpec] = {}

    async def create(self, spec: VmSpec) -> VmAddress:
        """Boot a VM; what the id held before is destroyed first. Raises ProviderError, also `sandbox_unavailable`."""
        check_spec(spec)
        async with self._holding(spec.vm_id):
            launcher = await self._ready()
            self._creating[spec.vm_id] = spec
            try:
                await self._destroy(spec.vm_id)
                return await self._boot(launcher, spec)
            except BaseException:
                await self._clean_up(spec.vm_id)
                raise
            finally:
                self._creating.pop(spec.vm_id, None)

    async def suspend(self, vm_id: str) -> int:
        async with self._holding(vm_id):
            return await self._in_thread(lambda: local_vm.suspend(self._live(vm_id), self._config.freeze_timeout_s))

    async def resume(self, vm_id: str) -> None:
        async with self._holding(vm_id):
            await self._in_thread(lambda: local_vm.resume(self._live(vm_id), self._config.freeze_timeout_s))

    async def destroy(self, vm_id: str) -> None:
        async with self._holding(vm_id):
            await self._ready()
            await self._destroy(vm_id)
            vm_locks.forget(self._vms_dir, vm_id)

    async def list(self) -> Sequence[VmListing]:
        self._turns.check_open()
        try:
            return await self._in_thread(self._list)
        except OSError as error:  # half a list would make the rest look lost
            raise ProviderError("provider_unavailable", f"VMs can't be listed: {error}", retryable=True) from error

    async def close(self) -> None:
        """Wait for blocking work that is under way, and end the threads. Every later call but this one is refused."""
        self._turns.close()
        await asyncio.to_thread(self._threads.shutdown)

    # -- set-up

    async def _ready(self) -> local_launch.Launcher:
        """What this machine allows, found out once: it costs a sandbox run and some trial groups."""
        async with self._setup_lock:
            if self._launcher is None:
                self._launcher = await self._in_thread(self._set_up)
            return self._launcher

    def _set_up(self) -> local_launch.Launcher:
        self._vms_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._config
        environment = {name: os.environ[name] for name in config.pass_env if name in os.environ}
        package = config.agent_package or _agent_package()
        compileall.compile_dir(package, quiet=2)  # a sandbox can't keep byte code: without, each boot compiles again
        groups = cgroups.detect() if config.cgroups == "auto" else cgroups.Cgroups(())
        missing = [limit for limit in cgroups.LIMITS if limit not in groups.can]
        if missing and config.cgroups == "auto":
            log.warning(
                "VMs run without limits on %s: no cgroup that can be written; run Drape in a delegated cgroup "
                "(systemd-run --user --scope -p Delegate=yes) to have them",
                ", ".join(missing),
                extra={"code": "limits_unavailable", "missing": missing},
            )
        view, bubblewrap = None, None
        if config.sandbox != "none":
            view, bubblewrap = self._find_sandbox(package, environment)
        return local_launch.Launcher(
            python=config.python,
            node_dir=config.node_dir,
            package=package,
            environment=environment,
            view=view,
            bubblewrap=bubblewrap,
            cgroups=groups,
            home_key=self.home_key,
        )

    def _find_sandbox(
        self, package: Path, environment: dict[str, str]
    ) -> tuple[sandbox.View | None, sandbox.Bubblewrap | None]:
        config = self._config
        try:
            shown = sandbox.read_only_paths(
                python=config.python,
                node_dir=config.node_dir,
                extra=config.read_only,
                environment=environment,
                hidden=self._vms_dir,
            )
            view = sandbox.View(
                read_only=shown,
                agent_package=package,
                tmp_bytes_max=config.tmp_bytes_max,
            )
            return view, sandbox.find(view)
        except sandbox.SandboxUnusable as error:
            if config.sandbox == "bubblewrap":
                raise ProviderError("sandbox_unavailable", str(error)) from error
            log.warning(
                "VMs run without a sandbox: projects can read what this user can read. %s",
                error,
                extra={"code": "sandbox_unavailable"},
            )
            return None, None

    # -- verbs

    async def _boot(self, launcher: local_launch.Launcher, spec: VmSpec) -> VmAddress:
        folder, group = self._vms_dir / spec.vm_id, self._group_name(spec.vm_id)
        try:
            async with asyncio.timeout(self._config.boot_timeout_s):
                booting = await self._in_thread(lambda: launcher.spawn(spec, folder, group))
                return await booting.listening(self._in_thread)
        except TimeoutError:
            raise ProviderError(
                "boot_timeout",
                f"the agent of VM {spec.vm_id} did not listen within {self._config.boot_timeout_s} s; "
                f"is the machine overloaded? Its log ends: {local_vm.log_tail(folder)}",
                retryable=True,
            ) from None
        except OSError as error:  # no room on the disk, above all
            raise ProviderError(
                "boot_failed", f"what VM {spec.vm_id} needs could not be written: {error}", retryable=True
            ) from error

    async def _destroy(self, vm_id: str) -> None:
        launcher, folder, config = (
            await self._ready(),
            self._vms_dir / vm_id,
            self._config,
        )
        group = launcher.cgroups.group(self._group_name(vm_id))
        await self._in_thread(
            lambda: local_vm.destroy(
                folder,
                group,
                timeout_s=config.destroy_timeout_s,
                tries_max=config.destroy_tries_max,
            )
        )

    async def _clean_up(self, vm_id: str) -> None:
        """After a failed create. Failing here too is logged, so that the first reason is the one that is raised."""
        try:
            await self._destroy(vm_id)
        except ProviderError as error:
            log.warning(
                "what was left of VM %s: %s",
                vm_id,
                error.message,
                extra={"code": error.code, "vm_id": vm_id},
            )

    def _live(self, vm_id: str) -> local_vm.Vm:
        """The VM with its record, when it lives. Blocks."""
        vm = local_vm.load(self._vms_dir / vm_id)
        if vm is None:
            raise ProviderError("vm_not_found", f"there is no VM {vm_id}")
        if vm.state() == "stopped":
            raise ProviderError("vm_stopped", f"the processes of VM {vm_id} have ended; destroy it")
        return vm

    def _list(self) -> Sequence[VmListing]:
        listings = []
        for folder in sorted(self._vms_dir.iterdir()) if self._vms_dir.is_dir() else ():
            if folder.is_dir() and VM_ID.fullmatch(folder.name):
                booting = self._creating.get(folder.name)
                with contextlib.suppress(FileNotFoundError):  # destroyed while we looked
                    listings.append(local_vm.listing(folder, booting, self._config.log_bytes_max))
        return listings

    # -- order and threads

    @contextlib.asynccontextmanager
    async def _holding(self, vm_id: str) -> AsyncIterator[None]:
        """One verb at a time for one VM, among processes too."""
        async with (
            self._turns.holding(vm_id),
            vm_locks.locked(self._vms_dir, vm_id, self._config.lock_timeout_s),
        ):
            yield

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work; when cancelled, wait for its end first, so that a clean-up never runs beside it."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled() and (error := future.exception()) is not None:
                log.debug("work that was cancelled had failed: %s", error)
            raise

    def _group_name(self, vm_id: str) -> str:
        """Ids are unique in a home only, cgroups belong to the machine."""
        return f"{vm_id}-{self.home_key}"
