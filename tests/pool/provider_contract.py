"""What every VM provider must do: one suite, run against each of them.

A provider's test module subclasses `ProviderContract` and overrides the `home` fixture (`make contract PROVIDER=name`
runs one). Cases about lost VMs and failing backends are in `contract_faults`, what the cases share in `contract_home`.
The suite speaks to agents by plain HTTP, so that a fault in Drape's own client can't hide one in a provider.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import aiohttp
import pytest

from services.pool.ports import Provider, ProviderError, VmSpec
from tests.pool.contract_faults import FaultCases
from tests.pool.contract_home import TOKEN, WAIT_S, Agent, Fault, Home, a_vm, listed, until

__all__ = ["Agent", "Fault", "Home", "ProviderContract", "a_vm", "listed", "until"]

MEMORY_BYTES_MIN = 10 << 20
"""An agent holds more than that."""
ENVIRONMENT_CANARY = "DRAPE_CONTRACT_SECRET"


TICK = "import time\nwhile True: print(time.time()); time.sleep(0.01)"
SHOW_PROCESSES = """
import glob, os
print(sorted(os.environ))
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try: print(open(path, 'rb').read().decode(errors='replace').replace('\\0', ' '))
    except OSError: pass
"""
# An orphan in a session of its own that holds a connection to the test: when it dies, the test sees the end.
ORPHAN = """
import os, socket, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        held = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
        held.sendall(b'here\\n')
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""
FIND = """
import os, sys
for folder, names_below, names in os.walk('/'):
    if folder == '/': names_below[:] = [n for n in names_below if n not in ('proc', 'sys', 'usr')]
    for name in names:
        if sys.argv[1] in name: print('found', os.path.join(folder, name))
for path in sys.argv[2:]:
    if os.access(path, os.R_OK): print('found', path)
print('searched')
"""


class ProviderContract(FaultCases):
    """The cases. Each starts from an empty home and must leave one."""

    @pytest.fixture
    def home(self) -> Home:
        raise NotImplementedError("override `home`")

    @pytest.fixture
    async def provider(self, home: Home) -> AsyncIterator[Provider]:
        provider = home.provider()
        yield provider
        await provider.close()
        last = home.provider()
        for vm in await last.list():
            await last.destroy(vm.vm_id)
        await last.close()
        assert home.leftovers() == []

    @pytest.fixture
    async def http(self, home: Home) -> AsyncIterator[aiohttp.ClientSession]:
        """To speak to agents with; what asks for it is skipped where VMs have none."""
        if not home.runs_agents:
            pytest.skip("nothing runs in this provider's VMs")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as session:
            yield session

    async def test_a_created_vm_answers_its_token_only(self, provider: Provider, http: aiohttp.ClientSession) -> None:
        """`create` returns when the agent listens: health is 200 with the token and 401 with another."""
        address = await provider.create(a_vm())

        assert await Agent(http, address).health() == 200
        assert await Agent(http, address, token="another").health() == 401

    async def test_destroy_is_idempotent_and_complete(self, home: Home, provider: Provider) -> None:
        """After `destroy` nothing is left; again, or for an id that never was, it does nothing."""
        spec = a_vm()
        await provider.create(spec)
        assert home.leftovers() != []  # the check itself sees a VM

        await provider.destroy(spec.vm_id)

        assert home.leftovers() == []
        assert await listed(provider, spec.vm_id) is None
        await provider.destroy(spec.vm_id)
        await provider.destroy("never-was")

    async def test_creating_again_replaces_what_was_there(
        self, provider: Provider, http: aiohttp.ClientSession
    ) -> None:
        """A repeated `create` (its first answer was lost) gives a fresh VM with the new token."""
        first = await provider.create(a_vm("again"))
        await Agent(http, first).run("open('left', 'w')")

        second = await provider.create(a_vm("again", token="another"))

        assert await Agent(http, second, token="another").health() == 200
        _, lines = await Agent(http, second, token="another").run("import os; print(os.listdir('.'))")
        assert lines == ["[]"]
        assert len(await provider.list()) == 1

    @pytest.mark.parametrize("vm_id", ["", "..", "a/b", "A", "x" * 65, "a\n", "a.b"])
    async def test_bad_ids_are_refused(self, provider: Provider, vm_id: str) -> None:
        """An id that could name another path or group is refused by every verb that takes one."""
        spec = VmSpec(vm_id=vm_id, token=TOKEN)
        for call in (
            lambda: provider.create(spec),
            lambda: provider.destroy(vm_id),
            lambda: provider.suspend(vm_id),
            lambda: provider.resume(vm_id),
        ):
            with pytest.raises(ProviderError) as raised:
                await call()
            assert raised.value.code == "invalid_vm_id"

    async def test_vms_outlive_the_provider_that_made_them(
        self, home: Home, provider: Provider, http: aiohttp.ClientSession
    ) -> None:
        """After `close` the VM runs on, and a new provider lists it with address and labels, and can end it."""
        spec = a_vm(labels={"pool": "main"})
        address = await provider.create(spec)
        await provider.close()

        assert await Agent(http, address).health() == 200
        later = home.provider()
        try:
            found = await listed(later, spec.vm_id)
            assert found is not None
            assert (found.state, found.address, found.labels) == ("running", address, {"pool": "main"})
            await later.destroy(spec.vm_id)
            assert home.leftovers() == []
        finally:
            await later.close()

    async def test_a_closed_provider_refuses(self, provider: Provider) -> None:
        """After `close` every verb says so instead of hanging; closing again is fine."""
        await provider.close()
        await provider.close()

        with pytest.raises(ProviderError) as raised:
            await provider.create(a_vm())
        assert raised.value.code == "provider_closed"

    async def test_a_boot_time_out_leaves_nothing(self, home: Home, provider: Provider) -> None:
        """A VM that never listens ends in `boot_timeout`, which may be tried again, and is gone."""
        hanging = home.hanging()
        try:
            with pytest.raises(ProviderError) as raised:
                await hanging.create(a_vm())
        finally:
            await hanging.close()

        assert (raised.value.code, raised.value.retryable) == ("boot_timeout", True)
        assert home.leftovers() == []

    async def test_a_cancelled_create_leaves_nothing(self, home: Home, provider: Provider) -> None:
        """Cancelling `create` while the VM boots removes what was begun."""
        task = asyncio.ensure_future(provider.create(a_vm()))
        await until(home.leftovers, "something of the VM exists")

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert home.leftovers() == []

    async def test_suspend_stops_everything_and_resume_goes_on(
        self, provider: Provider, http: aiohttp.ClientSession
    ) -> None:
        """A suspended VM makes no progress and shows as suspended; `suspend` tells what memory it holds; the same job goes
        on after `resume`."""
        spec = a_vm()
        agent = Agent(http, await provider.create(spec))
        job_id = await agent.start(TICK)
        while not await agent.log(job_id, follow=False):
            pass

        assert await provider.suspend(spec.vm_id) > MEMORY_BYTES_MIN
        assert await provider.suspend(spec.vm_id) > MEMORY_BYTES_MIN
        held_from = time.time()
        assert await agent.is_silent(for_s=0.4)
        suspended = await listed(provider, spec.vm_id)
        held_until = time.time()
        await provider.resume(spec.vm_id)
        await provider.resume(spec.vm_id)

        assert suspended is not None
        assert suspended.state == "suspended"
        async with asyncio.timeout(WAIT_S):
            while float((ticks := await agent.log(job_id, follow=False))[-1]) <= held_until:
                pass
        assert not [tick for tick in ticks if held_from + 0.02 < float(tick) < held_until]
        running = await listed(provider, spec.vm_id)
        assert running is not None
        assert running.state == "running"

    async def test_time_spent_suspended_is_not_time_without_contact(
        self, provider: Provider, http: aiohttp.ClientSession
    ) -> None:
        """A VM that was suspended for longer than its orphan time-out is alive after `resume`."""
        spec = a_vm(orphan_timeout_s=1.5)
        agent = Agent(http, await provider.create(spec))
        assert await agent.health() == 200
        await provider.suspend(spec.vm_id)
        assert await agent.is_silent(for_s=2.0)

        await provider.resume(spec.vm_id)

        for _ in range(3):
            assert await agent.health() == 200

    async def test_states_show_in_the_list(self, provider: Provider) -> None:
        """`list` tells running from suspended, with the labels and a time of making that is about now."""
        spec = a_vm(labels={"pool": "main", "size": "small"})
        made_from = time.time()
        address = await provider.create(spec)
        states = []
        for verb in (provider.suspend, provider.suspend, provider.resume, provider.resume):
            await verb(spec.vm_id)
            found = await listed(provider, spec.vm_id)
            assert found is not None
            assert (found.labels, found.address) == (spec.labels, address)
            assert made_from - 2 < found.created_at < time.time() + 2
            states.append(found.state)

        assert states == ["suspended", "suspended", "running", "running"]

    async def test_a_suspended_vm_can_be_destroyed(self, home: Home, provider: Provider) -> None:
        """Frozen processes die too."""
        spec = a_vm()
        await provider.create(spec)
        await provider.suspend(spec.vm_id)

        await provider.destroy(spec.vm_id)

        assert home.leftovers() == []

    async def test_suspending_what_is_not_there_says_so(self, provider: Provider) -> None:
        """`suspend` and `resume` of an unknown VM raise `vm_not_found`."""
        for call in (provider.suspend, provider.resume):
            with pytest.raises(ProviderError) as raised:
                await call("never-was")
            assert raised.value.code == "vm_not_found"

    async def test_destroy_reaches_orphans_in_other_sessions(
        self, home: Home, provider: Provider, http: aiohttp.ClientSession
    ) -> None:
        """A process that left its session and lost its parents dies with the VM."""
        if not home.shares_network:
            pytest.skip("an orphan could not call this test: VMs have a network of their own")
        arrived: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
        server = await asyncio.start_server(lambda reader, _: arrived.put_nowait(reader), "127.0.0.1", 0)
        spec = a_vm()
        agent = Agent(http, await provider.create(spec))
        await agent.start(ORPHAN, str(server.sockets[0].getsockname()[1]))
        async with server, asyncio.timeout(WAIT_S):
            orphan = await arrived.get()
            assert await orphan.readline() == b"here\n"

            await provider.destroy(spec.vm_id)

            with contextlib.suppress(ConnectionResetError):
                assert await orphan.read() == b""

    async def test_nothing_of_ours_is_in_the_environment(
        self, provider: Provider, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither the token nor a variable of the pool's is in any environment or argv that a project can read."""
        monkeypatch.setenv(ENVIRONMENT_CANARY, "canary-value")
        agent = Agent(http, await provider.create(a_vm()))

        status, lines = await agent.run(SHOW_PROCESSES)

        assert status["exit_code"] == 0
        said = "\n".join(lines)
        assert "HOME" in said
        assert ENVIRONMENT_CANARY not in said
        assert "canary-value" not in said
        assert TOKEN not in said

    async def test_vms_see_neither_each_other_nor_the_machine(
        self, home: Home, provider: Provider, http: aiohttp.ClientSession
    ) -> None:
        """A file of one VM can't be found in another, nor can the repository or the user's own files."""
        if not home.isolated:
            pytest.skip("this provider does not isolate files here")
        marker = f"marker-{uuid4().hex}"
        first, second = [Agent(http, await provider.create(a_vm())) for _ in range(2)]
        assert (await first.run("import sys; open(sys.argv[1], 'w')", marker))[0]["exit_code"] == 0
        repository = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
        hidden = [os.path.join(repository, "pyproject.toml"), os.path.expanduser("~/.bashrc"), "/etc/shadow"]

        own = (await first.run(FIND, marker))[1]
        others = (await second.run(FIND, marker, *hidden))[1]

        assert len(own) == 2, own  # the search does find what is there
        assert others == ["searched"]

    async def test_memory_has_a_limit(self, home: Home, provider: Provider, http: aiohttp.ClientSession) -> None:
        """A job that takes more than the VM's memory dies; the agent lives on and says so."""
        if not home.limits_memory:
            pytest.skip("no memory limits on this machine")
        agent = Agent(http, await provider.create(a_vm(memory_mb=160)))

        status, _ = await agent.run("held = b'x' * (600 << 20); print(len(held))")

        assert status["exit_code"] != 0
        assert await agent.health() == 200

    async def test_many_vms_boot_at_once(self, provider: Provider) -> None:
        """VMs made at the same time have addresses of their own, and all are listed."""
        specs = [a_vm() for _ in range(4)]

        addresses = await asyncio.gather(*(provider.create(spec) for spec in specs))

        assert len(set(addresses)) == len(specs)
        assert {vm.vm_id for vm in await provider.list()} == {spec.vm_id for spec in specs}
