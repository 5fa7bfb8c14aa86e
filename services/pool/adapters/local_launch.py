"""Starting a local VM: the agent's argv, environment and limits, and the wait until it listens.

The order matters: the processes join their cgroup before the agent runs its first instruction, the record is on disk
before that too, and the token goes through standard input last. Nothing here ends or removes a VM: on failure the
caller destroys what the folder holds.
"""

import asyncio
import contextlib
import json
import os
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import psutil

from services.pool.adapters import local_vm, processes, sandbox
from services.pool.adapters.cgroups import Cgroups, Group, Limits
from services.pool.ports import ProviderError, VmAddress, VmSpec
from shared.agent import blocks

T = TypeVar("T")
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
INFO_BYTES_MAX = 4096
INFO_TIMEOUT_S = 10.0
PORT_POLL_S = 0.005
# Commands whose start scripts break where a wheel can't hold symbolic links, and the scripts that they stand for.
NODE_COMMANDS = {
    "npm": "lib/node_modules/npm/bin/npm-cli.js",
    "npx": "lib/node_modules/npm/bin/npx-cli.js",
    "corepack": "lib/node_modules/corepack/dist/corepack.js",
}


class InThread(Protocol):
    """Runs blocking work off the event loop."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class Booting:
    """A VM that was spawned and does not listen yet."""

    def __init__(self, folder: Path, record: local_vm.Record, ended: threading.Event) -> None:
        self._folder = folder
        self._record = record
        self._ended = ended

    async def listening(self, in_thread: InThread) -> VmAddress:
        """Wait for the agent's port (the caller sets the limit). Raises ProviderError when the agent ends before."""
        while (port := local_vm.read_port(self._folder)) is None:
            if self._ended.is_set():
                raise ProviderError(
                    "boot_failed",
                    f"the agent of VM {self._record.vm_id} ended while it started: {local_vm.log_tail(self._folder)}",
                    retryable=True,
                )
            await asyncio.sleep(PORT_POLL_S)
        record = msgspec.structs.replace(self._record, port=port)
        await in_thread(lambda: local_vm.write_record(self._folder, record))
        return VmAddress(local_vm.HOST, port)


class Launcher(msgspec.Struct, frozen=True, kw_only=True):
    """How VMs are started here: found out once per provider. `bubblewrap` and `view` are None without a sandbox."""

    python: Path
    node_dir: Path | None
    package: Path
    environment: dict[str, str]
    view: sandbox.View | None
    bubblewrap: sandbox.Bubblewrap | None
    cgroups: Cgroups
    home_key: str

    def spawn(self, spec: VmSpec, folder: Path, group_name: str) -> Booting:
        """Start the agent, limited before its first instruction. Blocks briefly; leaves clean-up to the caller."""
        sandbox.make_folders(folder)
        self._write_commands(folder / "bin")
        group = self.cgroups.group(group_name)
        try:
            group.create(
                Limits(
                    memory_bytes=spec.memory_mb << 20,
                    cpu_cores=spec.cpu_cores,
                    pids_max=spec.pids_max,
                )
            )
            if self.bubblewrap is not None and self.view is not None:
                return self._spawn_sandboxed(self.bubblewrap, self.view, spec, folder, group)
            return self._spawn_plain(spec, folder, group)
        except OSError as error:
            raise ProviderError(
                "boot_failed",
                f"the processes of VM {spec.vm_id} could not be started: {error}",
                retryable=True,
            ) from error

    def _spawn_plain(self, spec: VmSpec, folder: Path, group: Group) -> Booting:
        root = folder / "root"
        environment = self._environment(
            home=root / "home", tmp=folder / "tmp", code=self.package.parent.parent, commands=folder / "bin"
        )
        child, ended = _start(self._agent(spec, root), environment, folder, ())
        group.add(child.pid)
        record = _record(spec, child.pid, None, group)
        local_vm.write_record(folder, record)
        _hand_over(child, spec.token)
        return Booting(folder, record, ended)

    def _spawn_sandboxed(
        self,
        bubblewrap: sandbox.Bubblewrap,
        view: sandbox.View,
        spec: VmSpec,
        folder: Path,
        group: Group,
    ) -> Booting:
        environment = self._environment(
            home=sandbox.VM / "home", tmp=Path("/tmp"), code=sandbox.AGENT, commands=sandbox.AGENT / "bin"
        )
        info_read, info_write = os.pipe()
        block_read, block_write = os.pipe()
        with contextlib.ExitStack() as open_ends:
            open_ends.callback(os.close, info_read)
            open_ends.callback(os.close, block_write)
            with contextlib.ExitStack() as childs_ends:
                childs_ends.callback(os.close, info_write)
                childs_ends.callback(os.close, block_read)
                command = sandbox.argv(bubblewrap, view, folder, (info_write, block_read))
                command += ["--", *self._agent(spec, sandbox.VM), *sandbox.OWN]
                child, ended = _start(command, environment, folder, (info_write, block_read))
            init_pid = _read_init_pid(info_read, folder)
            for pid in (child.pid, init_pid):
                group.add(pid)
            record = _record(spec, child.pid, init_pid, group)
            local_vm.write_record(folder, record)
            os.write(block_write, b"1")
        _hand_over(child, spec.token)
        return Booting(folder, record, ended)

    def _agent(self, spec: VmSpec, root: Path) -> list[str]:
        """The agent's argv, as seen from inside."""
        argv = [
            str(self.python),
            "-m",
            "shared.agent",
            "--vm-id",
            spec.vm_id,
            "--root",
            str(root),
        ]
        argv += ["--listen", f"{local_vm.HOST}:0", "--port-file", str(root / "state/agent.json")]
        argv += ["--port-block", str(self._port_block(spec.vm_id))]
        argv += ["--orphan-timeout-s", f"{spec.orphan_timeout_s:g}"]
        return argv + (["--pass-env", ",".join(sorted(self.environment))] if self.environment else [])

    def _port_block(self, vm_id: str) -> int:
        """Where the agent begins to look for ports. VMs follow one another, so that a block rests long after its VM has
        ended; homes begin at different places."""
        number = int(vm_id.rpartition("-")[2]) if vm_id.rpartition("-")[2].isdigit() else 0
        return (int(self.home_key, 16) + number) % blocks.COUNT

    def _write_commands(self, folder: Path) -> None:
        """Start scripts for npm and its like where the Node that config names has none that work."""
        if self.node_dir is None:
            return
        for name, script in NODE_COMMANDS.items():
            if (self.node_dir / script).is_file() and not (self.node_dir / "bin" / name).is_symlink():
                words = [str(self.node_dir / "bin" / "node"), str(self.node_dir / script)]
                (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
                (folder / name).chmod(0o755)

    def _environment(self, *, home: Path, tmp: Path, code: Path, commands: Path) -> dict[str, str]:
        """All that the agent gets. Node before the system's, our own Python last: it is no business of a project."""
        node = [str(commands), str(self.node_dir / "bin")] if self.node_dir else []
        return {
            **self.environment,
            "PATH": ":".join([*node, SYSTEM_PATH, str(self.python.parent)]),
            "HOME": str(home),
            "TMPDIR": str(tmp),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(code),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
        }


def _start(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    descriptors: tuple[int, ...],
) -> tuple[subprocess.Popen[bytes], threading.Event]:
    """Start in a session of its own, log to agent.log, and reap it in a thread whenever it ends.

    Not asyncio's subprocess: its transport kills the child when the event loop lets go of it.
    """
    with (folder / "agent.log").open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            pass_fds=descriptors,
            start_new_session=True,
        )
    ended = threading.Event()

    def reap() -> None:
        child.wait()
        ended.set()

    threading.Thread(target=reap, name=f"drape-reap-{child.pid}", daemon=True).start()
    return child, ended


def _hand_over(child: "subprocess.Popen[bytes]", token: str) -> None:
    """The token is one line on standard input. An agent that is dead already shows as `boot_failed` a moment later."""
    stdin = child.stdin
    if stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            stdin.write(f"{token}\n".encode())
            stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            stdin.close()


def _read_init_pid(info: int, folder: Path) -> int:
    """What bubblewrap says about the sandbox it has made. Raises ProviderError when it ended instead."""
    text = b""
    deadline = time.monotonic() + INFO_TIMEOUT_S
    while b"}" not in text and len(text) < INFO_BYTES_MAX:
        readable, _, _ = select.select([info], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(info, INFO_BYTES_MAX) if readable else b""
        if not chunk:
            raise ProviderError(
                "boot_failed",
                f"bubblewrap made no sandbox: {local_vm.log_tail(folder)}",
                retryable=True,
            )
        text += chunk
    answer: dict[str, Any] = json.loads(text)
    return int(answer["child-pid"])


def _record(spec: VmSpec, pid: int, init_pid: int | None, group: Group) -> local_vm.Record:
    main, init = processes.refer(pid), processes.refer(init_pid) if init_pid else None
    try:
        created = psutil.Process(pid).create_time()
    except psutil.Error:
        created = time.time()  # ended at once: `listening` finds out
    return local_vm.Record(
        vm_id=spec.vm_id,
        pid=pid,
        created=created,
        identity=main.identity if main else "ended",
        port=None,
        labels=spec.labels,
        sandbox="bubblewrap" if init_pid else "process_group",
        init_pid=init_pid,
        init_identity=init.identity if init else None,
        cgroup=group.parts,
    )
