"""A sandboxed VM is emptied for its owner: also of what is no file, and outlives the process that made it."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.pool.adapters.cleaning import AgentVmCleaner
from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.ports import VmSpec
from services.pool.react import CleanVm
from shared.agent.client import AgentClient
from shared.agent.protocol import JobSpec
from shared.secrets import agent_token
from tests.pool.test_local_provider import needs_bubblewrap

SECRET, VM = "0" * 64, "vm-clean"
INSTALL = "import os; os.makedirs('node_modules/odd'); open('node_modules/odd/index.js', 'w').write('odd')"
LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
LEAVES = {
    "shared memory": LIBC + "assert libc.shmget(77, 4096, 0o1666) >= 0",
    "a queue": LIBC + "assert libc.msgget(77, 0o1666) >= 0",
    "semaphores": LIBC + "assert libc.semget(77, 1, 0o1666) >= 0",
    "a file beside the devices": "open('/dev/left', 'w')",
    "a device that is another": "import os; os.rename('/dev/stdin', '/dev/stdin2'); os.symlink('/vm', '/dev/stdin')",
}
GOES = {
    "files": "for at in ('/tmp', '/dev/shm', '/vm', '/vm/home', '/vm/state', '/vm/app'): open(at + '/left', 'w')",
    "a process of its own": "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(60)",
    "a process that is another each time": "import os, time\nwhile True:\n if os.fork(): os._exit(0)\n time.sleep(0.02)",
}


class Vm:
    """One VM and the two that speak to its agent: its holder, and the pool."""

    def __init__(self, session: aiohttp.ClientSession, host: str, port: int) -> None:
        self.holder = AgentClient(f"http://{host}:{port}", agent_token(SECRET, VM), session)
        self._cleaner = AgentVmCleaner(session, SECRET, bytes_max=1 << 20, timeout_s=20.0)
        self._vm = CleanVm(vm_id=VM, host=host, port=port, lease=7, keep_job="install-1")

    async def run(self, job_id: str, code: str) -> list[str]:
        await self.holder.start_job(job_id, JobSpec(argv=("{python}", "-c", code)))
        status = await self.holder.wait_job(job_id)
        told = [line.text async for line in self.holder.log(job_id)]
        assert status.exit_code == 0, told
        return told

    async def clean(self) -> str:
        return await self._cleaner(self._vm)


async def booted(folder: Path, sandbox: str) -> AsyncIterator[Vm]:
    provider = LocalProvider(folder / "vms", config=LocalConfig(sandbox=sandbox))  # type: ignore[arg-type]
    try:
        address = await provider.create(VmSpec(vm_id=VM, token=agent_token(SECRET, VM)))
        async with aiohttp.ClientSession() as session:
            vm = Vm(session, address.host, address.port)
            await vm.run("install-1", INSTALL)
            yield vm
    finally:
        await provider.destroy(VM)
        await provider.close()


@pytest.fixture
async def sandboxed(tmp_path: Path) -> AsyncIterator[Vm]:
    async for vm in booted(tmp_path, "bubblewrap"):
        yield vm


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Vm]:
    async for vm in booted(tmp_path, "none"):
        yield vm


SHOW = """
import os
mounts = [line.split()[4] for line in open('/proc/self/mountinfo')]
def shown_by_the_sandbox(path):
    return any((each + '/').startswith(path + '/') for each in mounts if each not in ('/vm', '/tmp', '/dev/shm'))
for at in ('/vm', '/tmp', '/dev/shm'):
    for folder, folders, files in os.walk(at):
        folders[:] = [name for name in folders if not shown_by_the_sandbox(os.path.join(folder, name))]
        print(*(os.path.join(folder, name) for name in (*folders, *files)), sep='\\n')
print('processes', len([name for name in os.listdir('/proc') if name.isdigit()]))
"""


@needs_bubblewrap
@pytest.mark.parametrize("leave", GOES.values(), ids=GOES.keys())
async def test_what_it_made_goes(sandboxed: Vm, leave: str) -> None:
    """What is left is the agent, the sandbox's first process, and the dependencies."""
    await sandboxed.run("dev-1", leave)
    assert await sandboxed.clean() == ""

    shown = [line for line in await sandboxed.run("dev-1", SHOW) if line]
    assert sorted(shown) == sorted(
        [
            *("/vm/app", "/vm/home", "/vm/state", "/vm/state/files.json"),
            *("/vm/app/node_modules", "/vm/app/node_modules/odd", "/vm/app/node_modules/odd/index.js"),
            "processes 3",
        ]
    )


@needs_bubblewrap
@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES.keys())
async def test_what_can_t_be_told_from_its_own_ends_the_vm(sandboxed: Vm, leave: str) -> None:
    await sandboxed.run("dev-1", leave)
    assert await sandboxed.clean() == "leftovers"


@needs_bubblewrap
async def test_a_queue_that_nobody_could_find_can_t_be_made(sandboxed: Vm) -> None:
    """POSIX queues have names that only who made them knows."""
    code = LIBC + "print(libc.mq_open(b'/left', os.O_CREAT | os.O_RDWR, 0o600, None))"
    assert await sandboxed.run("dev-1", code) == ["-1"]


async def test_a_vm_without_a_sandbox_is_never_kept(plain: Vm) -> None:
    """Its project could have written anywhere."""
    assert await plain.clean() == "clean_unsupported"


async def test_an_agent_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        assert await Vm(session, "127.0.0.1", 1).clean() == "agent_unreachable"
