"""`python -m shared.agent`: one agent, from its arguments to its exit code.

The token comes as one line on standard input, so that no process in the VM can read it from /proc; or from a file that
only its owner can read and that is removed at once (`--token-file`). Exit codes: 0 when asked to end, 75 when nobody called
for `--orphan-timeout-s`, 2 for wrong use.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import blocks, quickstart
from .tokens import TokenUnusable, read_token

THREADS = 8
THREADS_START_S = 10.0


def main() -> int:
    """Parses, listens, serves. Gives the exit code."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        token = read_token(options.token_file)
    except TokenUnusable as unusable:
        print(unusable, file=sys.stderr)
        return 2
    _close_stdin()
    os.umask(0o077)
    quickstart.import_aiohttp()
    return asyncio.run(_serve(options, token))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shared.agent", description=__doc__)
    parser.add_argument("--vm-id", required=True)
    parser.add_argument("--root", required=True, type=Path, help="holds app/, home/ and state/; made when missing")
    parser.add_argument("--app-dir", type=Path, help="the project's folder as jobs see it (default: ROOT/app)")
    parser.add_argument("--home-dir", type=Path, help="HOME of jobs (default: ROOT/home)")
    parser.add_argument(
        "--listen", default="127.0.0.1:0", help="host:port; port 0 takes a free one, [::]:4711 every address"
    )
    parser.add_argument("--token-file", type=Path, help="holds the token, with mode 0600 or less; removed once read")
    parser.add_argument("--port-block", type=int, help="share the network: take the first free block from this one on")
    parser.add_argument("--port-file", type=Path, help="written once the agent listens")
    parser.add_argument("--orphan-timeout-s", type=float, default=180.0)
    parser.add_argument("--pass-env", default="", help="names of variables that jobs may see, with commas")
    parser.add_argument("--scratch", default="", help="folders of this VM's own that jobs may write to, with commas")
    parser.add_argument("--fixed", default="", help="other folders that jobs could write to, with commas")
    parser.add_argument("--isolated", action="store_true", help="in process and IPC namespaces of its own")
    parser.add_argument("--files-max", type=int, default=20_000)
    parser.add_argument("--bytes-max", type=int, default=512 * 1024 * 1024)
    parser.add_argument("--path-bytes-max", type=int, default=1024)
    parser.add_argument("--jobs-max", type=int, default=64)
    parser.add_argument("--log-bytes-max", type=int, default=4 * 1024 * 1024, help="of each job")
    return parser


async def _serve(options: argparse.Namespace, token: str) -> int:
    from aiohttp import web

    from . import processes
    from .cleaning import Place
    from .files import FileLimits, ProjectFiles
    from .jobs import JobLimits, JobWorld
    from .server import AgentServer, ServerLimits

    root: Path = options.root.resolve()
    app_dir: Path = (options.app_dir or root / "app").resolve()
    home_dir: Path = (options.home_dir or root / "home").resolve()
    for folder in (app_dir, home_dir, root / "state"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file_limits = FileLimits(
        files_max=options.files_max, bytes_max=options.bytes_max, path_bytes_max=options.path_bytes_max
    )
    pass_env = tuple(name for name in options.pass_env.split(",") if name)
    scratch, fixed = (tuple(map(Path, filter(None, words.split(",")))) for words in (options.scratch, options.fixed))
    if scratch:
        processes.forbid_message_queues()
    listener, free_port = _network(options)
    server = AgentServer(
        vm_id=options.vm_id,
        token=token,
        world=JobWorld(
            app_dir=app_dir, home_dir=home_dir, pass_env=pass_env, isolated=options.isolated, free_port=free_port
        ),
        files=ProjectFiles(app_dir, root / "state", file_limits),
        place=Place(
            root=root, app_dir=app_dir, home_dir=home_dir, scratch=scratch, fixed=fixed, isolated=options.isolated
        ),
        job_limits=JobLimits(jobs_max=options.jobs_max, log_bytes_max=options.log_bytes_max),
        limits=ServerLimits(orphan_timeout_s=options.orphan_timeout_s),
    )
    processes.hide_memory()
    _start_threads()
    server.jobs.watch_orphans()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop, 0)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        if options.port_file is not None:
            _write_port_file(options.port_file, listener.getsockname()[1])
        return await server.run_until_stopped()
    finally:
        await runner.cleanup()


def _start_threads() -> None:
    """All that are ever needed, before a project can take every process and thread that the VM may have."""
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="agent")
    started = threading.Barrier(THREADS + 1)
    for _ in range(THREADS):
        threads.submit(started.wait, THREADS_START_S)
    started.wait(THREADS_START_S)
    asyncio.get_running_loop().set_default_executor(threads)


def _network(options: argparse.Namespace) -> tuple[socket.socket, Callable[[], int]]:
    """What the agent listens on, and what gives its jobs their ports."""
    if options.port_block is None:
        return _listener(options.listen), blocks.any_free_port
    host = options.listen.rpartition(":")[0]
    listener, block = blocks.take(lambda port: _listener(f"{host}:{port}"), options.port_block)
    return listener, block.free_port


def _listener(address: str) -> socket.socket:
    """A listening socket whose connections notice a dead peer within a minute, also when nothing is sent."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    try:
        if host == "::":  # every address, whatever the system's own default is
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, int(port)))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _write_port_file(path: Path, port: int) -> None:
    import msgspec

    from .protocol import PortFile

    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(msgspec.json.encode(PortFile(port=port, pid=os.getpid())))
    fresh.replace(path)


def _close_stdin() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
