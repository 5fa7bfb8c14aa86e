"""A VM is emptied for its owner's next preview: the dependencies stay as the install left them, and nothing else does."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from shared.agent.client import AgentClient, AgentError
from shared.agent.protocol import Cleaned, CleanSpec, JobSpec

from .world import TOKEN, RunningAgent, contents_of, gone, running_agent, sync_of

TREE = "node_modules"
INSTALL = """
mkdir -p node_modules/odd node_modules/.bin
echo odd > node_modules/odd/index.js
ln -s ../odd/index.js node_modules/.bin/odd
"""
STUBBORN = b"""
import os, signal, socket, time
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with socket.create_server(("127.0.0.1", 0)) as server:
    print(os.getpid(), server.getsockname()[1], flush=True)
    time.sleep(60)
"""
FILES = {"package.json": b"{}", "src/main.js": b"main"}


@pytest_asyncio.fixture
async def vm(tmp_path: Path) -> AsyncIterator[RunningAgent]:
    """An agent that has a scratch folder of its own, as one in a sandbox does."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "fixed").mkdir()
    folders = ("--scratch", str(tmp_path / "scratch"), "--fixed", str(tmp_path / "fixed"))
    async with running_agent(tmp_path / "vm", *folders) as running:
        yield running


async def run(vm: RunningAgent, job_id: str, script: str) -> list[str]:
    """A job to its end; gives its output."""
    await vm.client.start_job(job_id, JobSpec(argv=("sh", "-c", script)))
    assert (await vm.client.wait_job(job_id)).exit_code == 0, [line.text async for line in vm.client.log(job_id)]
    return [line.text async for line in vm.client.log(job_id)]


async def installed(vm: RunningAgent, install: str = INSTALL) -> None:
    """A project whose install has run as the first job."""
    await vm.put(1, FILES)
    await run(vm, "install-1", install)


async def cleaned(vm: RunningAgent, job: str = "install-1", **spec: int) -> Cleaned:
    return await vm.client.clean(CleanSpec(keep_since_job=job, **spec))


async def refusal(vm: RunningAgent, job: str = "install-1", **spec: int) -> str:
    """The code of a clean that must fail."""
    with pytest.raises(AgentError) as caught:
        await cleaned(vm, job, **spec)
    assert caught.value.status == 409
    return caught.value.code


def everything(folder: Path) -> set[str]:
    """All that is below a folder: folders, files and links."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- what goes and what stays -------------------------------------------------------------------------------------


async def test_only_the_dependencies_stay(vm: RunningAgent, tmp_path: Path) -> None:
    """Of the app, the home, the scratch folder, the agent's own notes, and what was put beside them."""
    await installed(vm)
    where = f"{vm.root} {tmp_path / 'scratch'} {vm.root / 'home'} {vm.root / 'state'} {vm.app}"
    await run(
        vm, "dev-1", f"for at in {where}; do mkdir -p $at/left/.git/{TREE}; echo secret > $at/left/.git/file; done"
    )
    kept = await cleaned(vm)

    tree = {TREE, f"{TREE}/odd", f"{TREE}/odd/index.js", f"{TREE}/.bin", f"{TREE}/.bin/odd"}
    assert everything(vm.app) == tree
    assert everything(vm.root) == {"app", "home", "state", "state/files.json", *(f"app/{path}" for path in tree)}
    assert everything(tmp_path / "scratch") == set()
    assert (kept.trees, kept.entries) == ((TREE,), 4)
    assert kept.bytes > 0


async def test_afterwards_it_is_like_a_new_one(vm: RunningAgent) -> None:
    """Files begin at version 1, job ids serve again, and neither the logs nor the variables of before are there."""
    await installed(vm)
    await vm.client.start_job("dev-1", JobSpec(argv=("sh", "-c", "echo $TOKEN; sleep 60"), env={"TOKEN": "secret"}))
    await cleaned(vm)
    health = await vm.client.health()
    assert (health.files_version, health.jobs) == (0, {})
    with pytest.raises(AgentError, match="job_unknown"):
        await vm.client.job("install-1")

    result = await vm.put(1, {"index.html": b"other"})
    assert (result.stale, result.written) == (False, 1)
    assert await run(vm, "dev-1", "echo [$TOKEN]; cat node_modules/odd/index.js; ls -A; ls -A ~") == [
        *("[]", "odd", "index.html", TREE)
    ]


async def test_no_process_and_no_port_is_left(vm: RunningAgent) -> None:
    """Also not one in a session of its own, whose parent has gone and that wants to stay."""
    await vm.put(1, {**FILES, "server.py": STUBBORN})
    await run(vm, "install-1", INSTALL)
    script = "(python3 server.py > told & ); until [ -s told ]; do sleep 0.01; done; cat told"
    [line] = await run(vm, "dev-1", script)
    pid, port = map(int, line.split())
    with socket.create_connection(("127.0.0.1", port)):
        pass
    await cleaned(vm)

    assert gone(pid)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


async def test_dependencies_of_a_workspace_stay_too(vm: RunningAgent) -> None:
    """Each outermost folder, and links from one app of the workspace to another, which come back with its files."""
    await installed(
        vm, "mkdir -p node_modules packages/a/node_modules/odd/node_modules; ln -s ../packages/a node_modules/a"
    )
    await run(vm, "dev-1", "echo made > packages/a/made; mkdir -p .next/node_modules/x; chmod 777 packages")
    kept = await cleaned(vm)

    assert kept.trees == (TREE, "packages/a/node_modules")
    assert everything(vm.app) == {
        *("packages", "packages/a", "packages/a/node_modules", "packages/a/node_modules/odd"),
        *("packages/a/node_modules/odd/node_modules", TREE, f"{TREE}/a"),
    }
    assert (vm.app / "packages").stat().st_mode & 0o777 == 0o755


async def test_caches_of_the_dev_server_go(vm: RunningAgent) -> None:
    """They hold what it made of this project; a folder with a dot that the install has left is no cache."""
    await installed(vm)
    await run(
        vm, "dev-1", "cd node_modules; mkdir -p .vite/deps .astro; echo x > .vite/deps/x; ln -s /etc .link; echo x > .x"
    )
    await cleaned(vm)

    assert everything(vm.app / TREE) == {"odd", "odd/index.js", ".bin", ".bin/odd"}


async def test_dependencies_that_were_there_before_any_job_stay(vm: RunningAgent) -> None:
    """Restored from an earlier install: nothing may have changed since the first job began."""
    await vm.put(1, FILES)
    (vm.app / TREE / "odd").mkdir(parents=True)
    (vm.app / TREE / "odd/index.js").write_text("odd")
    await asyncio.to_thread(settle, vm.app / TREE)
    await run(vm, "dev-1", "echo started")
    assert (await cleaned(vm, "", lease=1)).trees == (TREE,)

    await vm.put(1, FILES)
    await run(vm, "dev-1", "echo poison >> node_modules/odd/index.js")
    assert await refusal(vm, "", lease=2) == "dependencies_changed"


def settle(folder: Path) -> None:
    """Until a file that is made now is later than all that is in the folder, by more than a file's time may lag."""
    newest = max(path.stat().st_ctime for path in folder.rglob("*"))
    probe = folder.parent.parent / "probe"
    while True:
        probe.write_text("")
        if probe.stat().st_ctime > newest + 0.02:
            return


async def test_a_vm_in_which_no_job_ever_ran_can_be_kept(vm: RunningAgent) -> None:
    """Prepared from what was kept, and never opened."""
    await installed(vm)
    await cleaned(vm, lease=1)
    await vm.put(1, FILES)
    assert (await cleaned(vm, "", lease=2)).trees == (TREE,)
    assert everything(vm.app) == {TREE, *(f"{TREE}/{path}" for path in everything(vm.app / TREE))}


# --- what is refused ----------------------------------------------------------------------------------------------

CHANGES = {
    "a file": "echo poison >> node_modules/odd/index.js",
    "a mode": "chmod 600 node_modules/odd/index.js",
    "a time that is put back": "echo poison > node_modules/odd/index.js; touch -d 2001-01-01 node_modules/odd/index.js",
    "a file with a dot": "echo poison > node_modules/odd/.env",
    "a new package": "mkdir node_modules/poison",
    "a package that is gone": "rm -r node_modules/odd",
    "a package that has another name": "mv node_modules/odd node_modules/even",
    "a package that went into a cache": "mkdir node_modules/.cache; mv node_modules/odd node_modules/.cache/odd",
    "a package put in another's place": "cd node_modules; cp -r odd x; rm -r odd; mv x odd",
    "the commands": "ln -sf ../../evil node_modules/.bin/odd",
    "all of it": "rm -r node_modules",
    "all of it, by another of that name": "mv node_modules old; mkdir -p node_modules/odd/x",
    "a hard link": "ln node_modules/odd/index.js linked.js",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_dependencies_that_were_changed_are_not_kept(vm: RunningAgent, change: str) -> None:
    await installed(vm)
    await run(vm, "dev-1", change)
    assert await refusal(vm) == "dependencies_changed"


LINKS = {
    "the folder": "mkdir real && ln -s real node_modules",
    "a package outside": "mkdir node_modules && ln -s /etc node_modules/etc",
    "a package above": "mkdir node_modules && ln -s ../../home node_modules/up",
    "a deep one": "mkdir -p node_modules/a/b && ln -s ../../../../x node_modules/a/b/c",
}


@pytest.mark.parametrize("install", LINKS.values(), ids=LINKS.keys())
async def test_links_that_lead_out_are_not_kept(vm: RunningAgent, install: str) -> None:
    await installed(vm, install)
    assert await refusal(vm) in ("link_outside", "dependencies_unknown")


async def test_what_is_no_file_is_not_kept(vm: RunningAgent) -> None:
    await installed(vm, f"{INSTALL} mkfifo node_modules/odd/pipe")
    assert await refusal(vm) == "foreign_file"


async def test_dependencies_of_another_user_are_not_kept(vm: RunningAgent) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    await installed(vm, f"{INSTALL} chown 12345 node_modules/odd/index.js")
    assert await refusal(vm) == "foreign_file"


async def test_more_than_may_be_kept_is_refused(vm: RunningAgent) -> None:
    """By the space on disk: a file of holes counts what it takes, and one that is linked twice counts once."""
    make = "cd node_modules/odd; head -c 400000 /dev/urandom > big; ln big twice; truncate -s 1G holes"
    await installed(vm, f"{INSTALL} ({make})")
    assert await refusal(vm, bytes_max=200_000, lease=1) == "too_large"
    assert 400_000 <= (await cleaned(vm, bytes_max=500_000, lease=2)).bytes < 500_000


async def test_without_dependencies_nothing_is_kept(vm: RunningAgent) -> None:
    await installed(vm, "echo > node_modules")
    assert await refusal(vm) == "nothing_kept"


async def test_what_others_did_before_or_beside_the_install_can_t_be_told_from_it(vm: RunningAgent) -> None:
    """The install has to be the first job, alone, and over."""
    await vm.put(1, FILES)
    await vm.client.start_job("dev-0", JobSpec(argv=("sleep", "60")))
    await run(vm, "install-1", INSTALL)
    assert await refusal(vm, lease=1) == "dependencies_unknown"
    assert await refusal(vm, "no-such-job", lease=2) == "dependencies_unknown"


async def test_an_install_that_another_job_ran_beside_is_none(vm: RunningAgent) -> None:
    await vm.put(1, FILES)
    waiting = f"until [ -e go ]; do sleep 0.01; done; {INSTALL}"
    await vm.client.start_job("install-1", JobSpec(argv=("sh", "-c", waiting)))
    await run(vm, "dev-1", "touch go")
    await vm.client.wait_job("install-1")
    assert await refusal(vm) == "dependencies_unknown"


async def test_an_install_that_still_runs_is_none(vm: RunningAgent) -> None:
    await vm.put(1, FILES)
    await vm.client.start_job("install-1", JobSpec(argv=("sh", "-c", f"{INSTALL} sleep 60")))
    assert await refusal(vm) == "dependencies_unknown"


async def test_something_left_where_nothing_may_be_is_refused(vm: RunningAgent, tmp_path: Path) -> None:
    await installed(vm)
    await run(vm, "dev-1", f"echo secret > {tmp_path / 'fixed'}/left")
    assert await refusal(vm) == "leftovers"


@pytest.mark.parametrize("trap", ["rm -r ~ && ln -s /etc ~", "cd .. && mv app aside && ln -s aside app"])
async def test_folders_that_became_links_are_not_followed(vm: RunningAgent, trap: str) -> None:
    await installed(vm)
    await run(vm, "dev-1", trap)
    assert await refusal(vm) in ("clean_failed", "nothing_kept", "dependencies_changed")
    assert Path("/etc/passwd").exists()


async def test_a_vm_that_shares_its_machine_is_never_kept(agent: RunningAgent) -> None:
    """Without scratch folders of its own nobody knows where its project has written."""
    await installed(agent)
    assert await refusal(agent) == "clean_unsupported"
    assert (await agent.client.health()).files_version == 1


async def test_after_a_refusal_no_job_is_taken(vm: RunningAgent) -> None:
    """What could not be emptied is nobody's any more."""
    await installed(vm)
    await run(vm, "dev-1", CHANGES["a file"])
    await refusal(vm)
    with pytest.raises(AgentError, match="agent_stopping"):
        await vm.client.start_job("dev-2", JobSpec(argv=("true",)))


@pytest.mark.parametrize("body", [b"{", b'{"bytes_max":"x"}', b"[]"])
async def test_a_clean_that_is_not_understood_touches_nothing(vm: RunningAgent, body: bytes) -> None:
    await installed(vm)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{vm.url}/clean", data=body, headers=headers) as answer,
    ):
        assert answer.status == 400
    assert (await vm.client.health()).files_version == 1


# --- whose request it is ------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_who_held_the_vm_before_is_refused(vm: RunningAgent, session: aiohttp.ClientSession) -> None:
    """A request that comes late, from a replica that has not heard, does nothing to the next holder."""
    earlier, later = (AgentClient(vm.url, TOKEN, session, lease=lease) for lease in (7, 9))
    await installed(vm)
    await earlier.start_job("dev-1", JobSpec(argv=("sleep", "60")))
    await cleaned(vm, lease=7)
    await later.start_job("dev-1", JobSpec(argv=("sleep", "60")))
    for late in (
        earlier.start_job("dev-2", JobSpec(argv=("true",))),
        earlier.stop_job("dev-1"),
        earlier.job("dev-1"),
        earlier.sync_files(sync_of(2, FILES), contents_of(FILES)),
    ):
        with pytest.raises(AgentError, match="lease_over"):
            await late
    assert (await later.job("dev-1")).state == "running"


async def test_the_same_clean_twice_does_its_work_once(vm: RunningAgent, session: aiohttp.ClientSession) -> None:
    """Asked again, it tells what it did, and leaves the next holder's files alone."""
    await installed(vm)
    first = await cleaned(vm, lease=7)
    await AgentClient(vm.url, TOKEN, session, lease=9).sync_files(sync_of(1, FILES), contents_of(FILES))
    assert await cleaned(vm, lease=7) == first
    assert (vm.app / "src/main.js").read_bytes() == b"main"


@pytest.mark.parametrize("lease", ["x", "-1", "1.5", "٣", "0"])
async def test_a_lease_that_is_none_is_refused(vm: RunningAgent, lease: str) -> None:
    await installed(vm)
    await cleaned(vm, lease=7)
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Drape-Lease": lease}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{vm.url}/health", headers=headers) as answer,
    ):
        assert answer.status == 409
