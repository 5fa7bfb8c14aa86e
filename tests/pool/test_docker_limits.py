"""What a Docker VM can't do: shown from inside one, on this machine's engine. Skipped where none answers."""

import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from services.pool.adapters.docker import DockerProvider
from services.pool.adapters.docker_engine import Engine
from services.pool.adapters.docker_isolation import Isolation, bridge_name, network_name
from services.pool.ports import ProviderError, VmAddress
from tests.pool.contract_home import Agent, a_vm
from tests.pool.docker_stage import URL, DockerHome, build_image, docker, forget, fresh_home, needs_engine, rules_of

pytestmark = needs_engine
REGISTRY = ("registry.npmjs.org", 443)

CONFINED = """
import errno, json, os, subprocess
def first(*paths):
    return next((open(path).read().strip() for path in paths if os.path.exists(path)), '')
status = dict(line.rstrip().split(':', 1) for line in open('/proc/self/status'))
written = []
for folder in ('/', '/opt', '/opt/drape/code/shared', '/usr/local/bin', '/etc', '/dev', '/vm/app', '/vm/home', '/tmp', '/dev/shm'):
    try: open(folder + '/probe', 'w').close(); written.append(folder); os.remove(folder + '/probe')
    except OSError: pass
free = b'x' * (1 << 20)
size, full = 0, ''
try:
    with open('/vm/app/large', 'wb') as file:
        for _ in range(400): size += file.write(free); file.flush()
except OSError as error: full = errno.errorcode[error.errno]
os.remove('/vm/app/large')
children = []
try:
    while len(children) < 400: children.append(subprocess.Popen(['sleep', '60']))
    forked = ''
except OSError as error: forked = errno.errorcode[error.errno]
for each in children: each.kill(); each.wait()
print(json.dumps({
    'uid': os.getuid(),
    'capabilities': [int(status[name], 16) for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')],
    'no_new_privs': int(status['NoNewPrivs']),
    'seccomp': int(status['Seccomp']),
    'written': written,
    'full': full, 'size_mb': size >> 20,
    'forked': forked, 'children': len(children),
    'memory': first('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'),
    'cpu': first('/sys/fs/cgroup/cpu.max') or ' '.join(
        first('/sys/fs/cgroup/cpu/cpu.cfs_' + name) for name in ('quota_us', 'period_us')),
    'socket': os.path.exists('/var/run/docker.sock') or os.path.exists('/run/docker.sock'),
}))
"""
REACHES = """
import json, socket, sys
found = {}
for address in sys.argv[1:]:
    host, _, port = address.rpartition(':')
    try: socket.create_connection((host, int(port)), 3).close(); found[address] = True
    except OSError: found[address] = False
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    build_image()
    yield from fresh_home("limits")


@pytest.fixture
def home(key: str) -> Iterator[DockerHome]:
    home = DockerHome(key)
    yield home
    home.stop()


@pytest.fixture
async def provider(home: DockerHome) -> AsyncIterator[DockerProvider]:
    provider = home.provider(isolation="require")
    yield provider
    for vm in await provider.list():
        await provider.destroy(vm.vm_id)
    await provider.close()
    assert home.leftovers() == []


async def said(address: VmAddress, script: str, *arguments: str) -> dict[str, object]:
    """What a script in the VM says, as JSON on its last line."""
    async with aiohttp.ClientSession() as http:
        status, lines = await Agent(http, address).run(script, *arguments)
    assert status["exit_code"] == 0, lines
    found: dict[str, object] = json.loads(lines[-1])
    return found


async def test_a_vm_is_confined(provider: DockerProvider) -> None:
    """No privileges and no way to them, nothing written outside its folders, and a limit on each resource."""
    address = await provider.create(a_vm(memory_mb=600, cpu_cores=0.5, pids_max=64, disk_mb=100))

    found = await said(address, CONFINED)

    assert found["uid"] == 1000
    assert found["capabilities"] == [0, 0, 0, 0, 0]
    assert (found["no_new_privs"], found["socket"]) == (1, False)
    assert found["seccomp"] == 2
    assert found["written"] == ["/vm/app", "/vm/home", "/tmp", "/dev/shm"]
    assert (found["full"], found["forked"]) == ("ENOSPC", "EAGAIN")
    assert isinstance(found["size_mb"], int)
    assert 80 <= found["size_mb"] <= 100
    assert isinstance(found["children"], int)
    assert found["children"] < 64
    assert found["memory"] == str(600 << 20)
    quota, period = str(found["cpu"]).split()
    assert int(quota) * 2 == int(period)


async def test_a_vm_reaches_the_internet_and_nothing_near(home: DockerHome, provider: DockerProvider) -> None:
    """No other VM's agent, no server of the host's on any of its addresses, no metadata service; names are resolved, and a
    registry is reached where this machine reaches it."""
    first, second = await provider.create(a_vm()), await provider.create(a_vm())
    shown = json.loads(docker("network", "inspect", network_name(home.key)))[0]
    gateway = shown["IPAM"]["Config"][0]["Gateway"]
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        outward.connect(("192.0.2.1", 9))
        port = server.getsockname()[1]
        own = outward.getsockname()[0]
        near = [
            f"{second.host}:{second.port}",
            f"{gateway}:{port}",
            f"{own}:{port}",
            "169.254.169.254:80",
            "10.0.0.1:80",
        ]
        for address in near[:3]:
            socket.create_connection((address.rpartition(":")[0], int(address.rpartition(":")[2])), 5).close()
        found = await said(first, REACHES, *near, ":".join(map(str, REGISTRY)))

    assert {address for address in near if found[address]} == set()
    try:
        socket.create_connection(REGISTRY, 5).close()
    except OSError:
        pytest.skip("this machine does not reach a registry itself")
    assert found[":".join(map(str, REGISTRY))] is True


async def test_a_network_without_isolation_is_found_out(home: DockerHome, caplog: pytest.LogCaptureFixture) -> None:
    """A network in which VMs reach one another: `require` refuses to make VMs in it, `warn` says so and goes on."""
    caplog.set_level(logging.WARNING, "drape.pool.docker")
    leaky = DockerHome(f"{home.key}-leaky")
    labels = ("--label", f"drape.home={leaky.key}")
    docker("network", "create", *labels, network_name(leaky.key))
    strict, relaxed = (
        leaky.provider(isolation="require", probe_host=""),
        leaky.provider(isolation="warn", probe_host=""),
    )
    spec = a_vm()
    try:
        with pytest.raises(ProviderError, match="reaches what it must not") as raised:
            await strict.create(spec)
        assert leaky.leftovers() == []
        await relaxed.create(spec)
        await relaxed.destroy(spec.vm_id)
    finally:
        await strict.close()
        await relaxed.close()
        forget(leaky.key)

    assert (raised.value.code, raised.value.retryable) == ("isolation_unavailable", False)
    assert [each for each in caplog.records if getattr(each, "code", "") == "isolation_unavailable"]


async def test_the_network_goes_with_its_rules(home: DockerHome) -> None:
    """What was set up on an engine can be taken away again: network, rules and chains."""
    engine = Engine(URL)
    own = Isolation(engine, home.config, f"{home.key}-gone", "")
    try:
        await own.make_network()
        report = await own.tried()
        made = rules_of(f"{home.key}-gone")
        await own.remove()
    finally:
        await engine.close()
        left = rules_of(f"{home.key}-gone")
        forget(f"{home.key}-gone")

    assert (report.reached, report.rules) == ((), "")
    assert made != []
    assert left == []


def test_a_bridges_name_fits() -> None:
    """An interface's name has 15 characters at most, whatever the home's is."""
    assert len(bridge_name("a" * 200)) <= 15
