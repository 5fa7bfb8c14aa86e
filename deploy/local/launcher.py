"""Everything on one machine: servers, provisioning, services; ready, watched, and ended in the right order.

Starts processes and passes them addresses; knows nothing of what they say to each other.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import nats.errors

from deploy.local import containers, logs, ports, postgres
from deploy.local import nats as local_nats
from deploy.local.errors import LauncherError
from deploy.local.leftovers import end_leftovers
from deploy.local.nats_cluster import start_nodes
from deploy.local.options import GATEWAY, RunStatus, ServiceStatus, UpOptions, without_credentials
from deploy.local.paths import Home
from deploy.local.processes import ChildSpec, Supervised, notice_cancellation
from deploy.local.rollout import Rollouts, serves
from deploy.local.secrets import Secrets, load_or_make
from deploy.local.status import read_status, recorded_supervisor, supervisor_lock, write_status
from deploy.local.vms import end_vms
from deploy.nats.authorization import users
from deploy.nats.identities import make_identities, seed_environment
from deploy.nats.permissions import PROVISION
from deploy.settings import effective
from services.pool.adapters.node import node_major

_log = logging.getLogger("drape.local")
_T = TypeVar("_T")
_DEFAULT_NODE = "DRAPE_ORCHESTRATOR_DEFAULT_NODE_MAJOR"

_SOURCE = Path(__file__).parents[2]
"""Where `services` is importable from, installed or not. Services run there, so that no folder of the same name in the
caller's working directory is taken for ours."""


async def run(
    options: UpOptions,
    home: Home,
    on_ready: Callable[[RunStatus], None],
    stop: asyncio.Event,
    service_status: ServiceStatus,
) -> None:
    """Starts everything, calls `on_ready` once, and returns when `stop` was set and all has ended. Raises AlreadyRunning,
    or LauncherError when the start fails; then too nothing is left running."""
    home.create()
    async with AsyncExitStack() as held:
        await held.enter_async_context(supervisor_lock(home))
        held.enter_context(recorded_supervisor(home))
        await end_leftovers(home)
        async with AsyncExitStack() as stack:
            start = _Start(options, home, stack, service_status)
            stack.enter_context(start.rollouts.heard())
            status = await _unless_set(stop, start.everything())
            if status is None:
                return
            write_status(home, status)
            on_ready(status)
            await _unless_set(stop, start.watch())


class _Start:
    """One start. What has been started is on `stack`, to be ended in reverse order whatever happens."""

    def __init__(self, options: UpOptions, home: Home, stack: AsyncExitStack, service_status: ServiceStatus) -> None:
        self._options = options
        self._home = home
        self._stack = stack
        self._service_status = service_status
        self._children: list[Supervised] = []
        self._services: list[Supervised] = []
        self.rollouts = Rollouts(home, self._services, self._until_ready)
        self._timings_s: dict[str, float] = {}
        self._nats_url = options.nats_url or ""
        self._nats_monitors: tuple[str, ...] = ()
        self._nats_address = self._nats_url
        """What services are told; for our own servers without a password, for they have keys."""
        self._postgres_url = options.database_url or ""
        self._environ = {**os.environ, **options.env}

    async def everything(self) -> RunStatus:
        """From nothing to ready."""
        began = time.perf_counter()
        listener = self._listen()
        secrets = load_or_make(self._home)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_nats(secrets))
                group.create_task(self._start_postgres(secrets))
        except BaseExceptionGroup as failed:
            raise _reason(failed) from failed
        self._start_services(secrets, listener)
        await self._timed("services", self._wait_ready(self._services))
        self._timings_s["total"] = round(time.perf_counter() - began, 3)
        _log.info("everything is ready", extra={"timings_s": self._timings_s})
        return RunStatus(
            gateway=f"http://{_shown_host(self._options.host)}:{listener.getsockname()[1]}",
            nats=self._nats_url,
            nats_monitors=self._nats_monitors,
            postgres=self._postgres_url,
            provider=containers.provider_of(self._environ),
            pids={child.spec.name: child.pid for child in (*self._children, *self._services) if child.pid is not None},
            supervisor_pid=os.getpid(),
            started_at=time.time(),
            timings_s=self._timings_s,
        )

    async def watch(self) -> None:
        """Ends only when supervision itself breaks, with the reason."""
        async with asyncio.TaskGroup() as group:
            for child in [*self._children, *self._services]:
                group.create_task(child.wait())
            group.create_task(self.rollouts.serve(lambda child: _in(group, child)))
            # With both servers elsewhere and no services there is nothing to wait for but `stop`.
            group.create_task(asyncio.Event().wait())

    def _listen(self) -> socket.socket:
        """The one address of all gateways: held here, so that it is there while they come and go."""
        host, port = self._options.host, self._options.port
        hint = f"End that program, or choose another port: `drape up --port {port + 1 if port < 65535 else 0}`."
        listener = ports.listening(host, port, "the gateway", hint)
        self._stack.callback(listener.close)
        return listener

    async def _start_nats(self, secrets: Secrets) -> None:
        if self._nats_url:
            await _require_nats(self._nats_url, self._options.external_timeout_s)
        else:
            options = self._options
            known = users(make_identities(self._home.nats_seeds), secrets.nats_password)
            starting = start_nodes(self._home, secrets.nats_password, options.nats, options.nats_nodes, known)
            servers = await self._timed("nats", starting)
            self._stack.push_async_callback(servers.stop)
            self._children.extend(servers.children)
            self._nats_url, self._nats_monitors = servers.url, tuple(servers.monitor_urls)
            self._nats_address = servers.address
        if self._options.provision:
            env = self._environment(secrets, PROVISION)
            if self._nats_monitors:
                env["DRAPE_STREAM_REPLICAS"] = str(len(self._nats_monitors))
            await self._timed("provision", _provision(self._options, self._home, env))

    async def _start_postgres(self, secrets: Secrets) -> None:
        if self._postgres_url:
            await _require_postgres(self._postgres_url, self._options.external_timeout_s)
            return
        starting = postgres.start_postgres(self._home, secrets.postgres_password, self._options.postgres)
        server = await self._timed("postgres", starting)
        self._stack.push_async_callback(server.stop)
        self._children.append(server.child)
        self._postgres_url = server.url

    def _start_services(self, secrets: Secrets, listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        for name, argv in self._options.services.items():
            for replica in range(self._options.replicas):
                spec = ChildSpec(
                    name=f"{name}-{replica}" if replica else name,
                    argv=argv,
                    env={
                        **self._orchestrator_settings(port),
                        **self._environment(secrets, name),
                        "DRAPE_GATEWAY_HOST": self._options.host,
                        "DRAPE_GATEWAY_PORT": str(port),
                        "DRAPE_GATEWAY_LISTEN_FDS": str(listener.fileno()) if name == GATEWAY else "",
                        "DRAPE_INSTANCE": f"{name}-{replica}",
                    },
                    log=self._home.logs / (f"{name}-{replica}.log" if replica else f"{name}.log"),
                    cwd=_SOURCE,
                    stop=((signal.SIGTERM, self._options.service_stop_grace_s),),
                    pass_fds=(listener.fileno(),) if name == GATEWAY else (),
                )
                self._services.append(Supervised(spec, self._home))
        containers.remember(self._home, self._environ)
        self._stack.push_async_callback(end_vms, self._home)
        self._stack.push_async_callback(containers.end_containers, self._home)
        self._stack.push_async_callback(_stop_all, self._services)
        for child in self._services:
            child.start()

    def _orchestrator_settings(self, port: int) -> dict[str, str]:
        """Where the orchestrator confirms previews, the address that it gives them, and the Node that VMs have. What the
        caller's environment says goes before: behind a proxy the addresses differ."""
        environ = effective(self._environ)
        domain = environ.get("DRAPE_GATEWAY_PREVIEW_DOMAIN") or "preview.localhost"
        usual = {
            "DRAPE_ORCHESTRATOR_GATEWAY_URL": f"http://{_shown_host(self._options.host)}:{port}",
            "DRAPE_ORCHESTRATOR_PREVIEW_ORIGIN": f"http://{{id}}.{domain}:{port}",
            **_default_node(environ),
        }
        return {name: environ.get(name) or value for name, value in usual.items()}

    def _environment(self, secrets: Secrets, identity: str) -> dict[str, str]:
        """The caller's environment (services are our own programs; VMs get a clean one from their provider) and ours, with
        the key of this one identity."""
        return {
            **self._environ,
            **seed_environment(self._home.nats_seeds, identity, self._options.nats_url, effective()),
            **dict.fromkeys(("NATS_URL_FILE", "DATABASE_URL_FILE", "DRAPE_SECRET_FILE"), ""),
            "DRAPE_HEALTH_PORT": "0",  # one that all read in the same file, only one could have
            "NATS_URL": self._nats_address,
            "DATABASE_URL": self._postgres_url,
            "DRAPE_HOME": str(self._home.root),
            "DRAPE_SECRET": secrets.platform,
            "PYTHONUNBUFFERED": "1",
        }

    async def _wait_ready(self, services: list[Supervised]) -> None:
        """Polls until every service says that it is ready. Raises LauncherError `service_failed`, `services_not_ready`."""
        missing = {child.spec.name for child in services}
        limit_s = self._options.ready_timeout_s * self._options.replicas  # they start at once, on the same processors
        try:
            async with asyncio.timeout(limit_s):
                while missing:
                    for child in services:
                        if child.exits >= self._options.startup_exits_max:
                            raise _service_failed(child)
                    answers = await self._ask()
                    notice_cancellation()
                    missing = {child.spec.name for child in services if not serves(child, answers)}
                    if missing:
                        await asyncio.sleep(self._options.ready_poll_s)
        except TimeoutError:
            tails = [f"{name}: {logs.tail_text(self._home.logs / f'{name}.log')}" for name in sorted(missing)]
            raise LauncherError(
                "services_not_ready",
                f"Not ready after {limit_s:g} s: {', '.join(sorted(missing))}.\n" + "\n".join(tails),
                f"All logs are in {self._home.logs}.",
            ) from None

    async def _until_ready(self, child: Supervised) -> None:
        """As `_wait_ready`, for a process that is started later."""
        await self._wait_ready([child])

    async def _ask(self) -> Mapping[str, Mapping[str, object]]:
        status = read_status(self._home)  # since a rotation of keys the address is another
        try:
            return await self._service_status(status.nats if status is not None else self._nats_url)
        except (OSError, nats.errors.Error) as error:
            _log.debug("services cannot be asked yet", extra={"error": type(error).__name__})
            return {}

    async def _timed(self, name: str, work: Coroutine[Any, Any, _T]) -> _T:
        began = time.perf_counter()
        result = await work
        self._timings_s[name] = round(time.perf_counter() - began, 3)
        return result


def _in(group: asyncio.TaskGroup, child: Supervised) -> None:
    group.create_task(child.wait())


def _reason(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to show when parts that start together failed: the first that has words for a person."""
    known = failed.subgroup(LauncherError)
    return known.exceptions[0] if known else failed


async def _stop_all(children: list[Supervised]) -> None:
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.stop())


async def _provision(options: UpOptions, home: Home, env: Mapping[str, str]) -> None:
    """Runs the provisioning step to its end. Raises LauncherError `provision_failed`."""
    log = home.logs / "provision.log"
    output = logs.open_for_append(log)
    os.truncate(log, 0)
    try:
        child = await asyncio.create_subprocess_exec(
            *options.provision, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=_SOURCE, env=env
        )
    except OSError as error:
        reason = f"{options.provision[0]} cannot be started: {error.strerror}."
        raise LauncherError("provision_failed", reason, "Install Drape again.") from error
    finally:
        os.close(output)
    try:
        async with asyncio.timeout(options.provision_timeout_s):
            code = await child.wait()
    except TimeoutError:
        code = None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if code != 0:
        ended = f"exit code {code}" if code is not None else f"no end within {options.provision_timeout_s:g} s"
        reason = f"Streams and consumers could not be made ({ended}). {logs.tail_text(log)}"
        raise LauncherError("provision_failed", reason, f"Its log is {log}.")


async def _require_nats(url: str, timeout_s: float) -> None:
    try:
        await local_nats.check_answers(url, timeout_s)
    except (OSError, TimeoutError, ValueError, nats.errors.Error) as error:
        raise _unreachable("nats_unreachable", "NATS_URL", "a NATS server with JetStream", url, error) from error


async def _require_postgres(url: str, timeout_s: float) -> None:
    try:
        await postgres.check_answers(url, timeout_s)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _unreachable("postgres_unreachable", "DATABASE_URL", "PostgreSQL", url, error) from error


def _unreachable(code: str, variable: str, what: str, url: str, error: Exception) -> LauncherError:
    # Only the kind of error is told: its text may repeat the URL with its password.
    return LauncherError(
        code,
        f"{variable} is set, but {what} did not answer at {without_credentials(url)} ({type(error).__name__}).",
        f"Start that server, correct {variable}, or unset it to use the embedded one.",
    )


def _service_failed(child: Supervised) -> LauncherError:
    return LauncherError(
        "service_failed",
        f"{child.spec.name} ended {child.exits} times instead of starting (exit code {child.last_exit}). "
        f"{logs.tail_text(child.spec.log, child.log_from)}",
        f"Its log is {child.spec.log}.",
    )


def _shown_host(host: str) -> str:
    """The host to put into a URL: an address that means "all" cannot be visited."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return ports.LOOPBACK
    return f"[{host}]" if ":" in host else host


async def _unless_set(stop: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """The result of `work`, or None when `stop` was set first; `work` is then cancelled and has cleaned up."""
    working = asyncio.create_task(work)
    stopping: asyncio.Task[Awaitable[bool] | bool] = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


def _default_node(environ: Mapping[str, str]) -> dict[str, str]:
    """The Node that this machine gives its VMs, unless the user names one; VMs made of an image have the image's."""
    ours = containers.provider_of(environ) in ("local", "simulated")
    major = node_major(environ.get("DRAPE_POOL_NODE_DIR", "")) if ours else None
    given = environ.get(_DEFAULT_NODE, str(major) if major else "")
    return {_DEFAULT_NODE: given} if given else {}
