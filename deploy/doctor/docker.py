"""`drape doctor --provider docker`: each engine, what it can enforce, the image, the network, and one VM's life with times."""

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import msgspec

from deploy.doctor.finding import Finding, looked_at, warning, well, wrong
from services.pool.adapters import docker_vm
from services.pool.adapters.docker import DockerProvider, urls_of
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_engine import Engine, Info
from services.pool.adapters.docker_isolation import Isolation, Report
from services.pool.config import PoolConfig
from services.pool.ports import ProviderError, VmSpec
from shared.settings import from_env
from shared.ulids import new_id

LOOK_S, NETWORK_S, LIFE_S = 30.0, 90.0, 180.0
CLOCK_APART_MAX_S = 5.0
LIMITS = {"memory_limit": "memory", "swap_limit": "swap", "pids_limit": "processes", "cpu_cfs_quota": "processor time"}


async def docker(environ: Mapping[str, str]) -> list[Finding]:
    """All engines that the environment names, one after the other."""
    config = from_env(DockerConfig, "DRAPE_POOL_DOCKER", environ)
    pool = from_env(PoolConfig, "DRAPE_POOL", environ)
    findings: list[Finding] = []
    for url in urls_of(config.hosts, environ.get("DOCKER_HOST", "")):
        findings += await _engine(url, config, pool)
    return findings


async def _engine(url: str, config: DockerConfig, pool: PoolConfig) -> list[Finding]:
    engine = Engine(url, tls_dir=config.tls_dir, timeout_s=config.request_timeout_s)
    try:
        try:
            info = await engine.ready()
        except ProviderError as error:
            return [wrong("engine", error.code, _sentence(error), todo="Nothing else of it could be looked at.")]
        findings = [
            well("engine", f"{url} answers: {info.name}, {info.architecture}, {info.n_cpu} processors."),
            _clock(info),
            *_limits(info),
            _gvisor(info),
        ]
        image = await looked_at("image", _image(engine, info, config.image), LOOK_S)
        findings += image
        if all(finding.level == "ok" for finding in image):
            findings += await _vms(engine, info, config, pool)
        return findings
    finally:
        await engine.close()


def _sentence(error: ProviderError) -> str:
    return f"{error.message[0].upper()}{error.message[1:]}."


def _clock(info: Info) -> Finding:
    try:
        apart_s = abs(datetime.fromisoformat(info.system_time[:19]).replace(tzinfo=UTC).timestamp() - time.time())
    except ValueError:
        return warning("clock", "clock_unknown", f"The engine tells no time that can be read ({info.system_time!r}).")
    if apart_s <= CLOCK_APART_MAX_S:
        return well("clock", "The engine's clock is right within a few seconds.")
    return warning(
        "clock",
        "clock_skew",
        f"The engine's clock is {apart_s:.0f} s from this machine's.",
        "VMs' ages are told by this side's clock, but installs check certificates by theirs.",
        "Have both take the time from NTP.",
    )


def _limits(info: Info) -> list[Finding]:
    missing = [word for name, word in LIMITS.items() if not getattr(info, name)]
    if not missing:
        return [well("limits", "The engine can limit memory, processes and processor time.")]
    what = f"The engine can't limit {', '.join(missing)}."
    todo = "Its kernel or cgroups lack that: `docker info` has warnings that say which boot option turns it on."
    return [warning("limits", "limits_unavailable", what, "A project can take all of the host.", todo)]


def _gvisor(info: Info) -> Finding:
    if docker_vm.GVISOR in info.runtimes:
        return well(
            "gvisor", "gVisor (runsc) is there, and VMs use it unless DRAPE_POOL_DOCKER_RUNTIME says otherwise."
        )
    return warning(
        "gvisor",
        "gvisor_missing",
        "gVisor (runsc) is not a runtime of the engine.",
        "Projects then share the host's kernel.",
        "For projects of strangers, install runsc there and run `runsc install`.",
    )


async def _image(engine: Engine, info: Info, name: str) -> list[Finding]:
    try:
        image = await engine.image(name)
        docker_vm.check_image(name, image, info, engine.url)
    except ProviderError as error:
        return [wrong("image", error.code, _sentence(error))]
    version = (image.config.labels or {}).get(docker_vm.AGENT_LABEL, "")
    return [well("image", f"{name} is there, for {image.architecture}, with an agent of version {version}.")]


async def _vms(engine: Engine, info: Info, config: DockerConfig, pool: PoolConfig) -> list[Finding]:
    """The network and a VM of a home of its own, which are gone afterwards."""
    home = f"doctor-{new_id()[-8:].lower()}"
    runtime = docker_vm.GVISOR if docker_vm.GVISOR in info.runtimes and config.runtime != "runc" else ""
    isolation = Isolation(engine, config, home, runtime)
    findings = await looked_at("isolation", _isolation(isolation, config), NETWORK_S)
    tried = msgspec.structs.replace(config, isolation="none")
    findings += await looked_at("vm", _life(engine.url, tried, pool, home), LIFE_S)
    removed = await looked_at("network", _nothing(isolation.remove()), NETWORK_S)
    return findings + removed


async def _nothing(work: Awaitable[None]) -> list[Finding]:
    await work
    return []


async def _isolation(isolation: Isolation, config: DockerConfig) -> list[Finding]:
    await isolation.make_network()
    report = await isolation.tried()
    return [_kept_apart(report), *_internet(report, config.probe_host)]


def _kept_apart(report: Report) -> Finding:
    if report.reached:
        return wrong(
            "isolation",
            "isolation_unavailable",
            f"A VM reached {', '.join(report.reached)}.",
            f"Rules could not be set: {report.rules}." if report.rules else "The rules have no effect.",
            "Docker has to run with its iptables on, and the module br_netfilter has to be loaded.",
        )
    return well("isolation", "A VM reaches neither another one, nor the host, nor a metadata service.")


def _internet(report: Report, host: str) -> list[Finding]:
    if not host:
        return []
    if report.answers:
        return [well("internet", f"A VM reaches {host}.")]
    what = f"A VM does not reach {host}." if report.resolves else f"A VM can't resolve {host}."
    todo = "Name the private address of a registry or resolver in DRAPE_POOL_DOCKER_ALLOW, or another DRAPE_POOL_DOCKER_PROBE_HOST."
    return [warning("internet", "registry_unreachable", what, "Installs will fail.", todo)]


async def _life(url: str, config: DockerConfig, pool: PoolConfig, home: str) -> list[Finding]:
    """One VM from its creation to its end."""
    provider = DockerProvider(config, [url], home=home, boot_timeout_s=pool.boot_timeout_s)
    vm_id, step = "doctor", ""
    times: dict[str, float] = {}
    spec = VmSpec(vm_id=vm_id, token=new_id(), cpu_cores=pool.vm_cpu_cores, memory_mb=pool.vm_memory_mb)
    steps: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
        ("create", lambda: provider.create(spec)),
        ("suspend", lambda: provider.suspend(vm_id)),
        ("resume", lambda: provider.resume(vm_id)),
        ("destroy", lambda: provider.destroy(vm_id)),
    )
    try:
        for step, verb in steps:
            started_s = time.monotonic()
            await verb()
            times[step] = time.monotonic() - started_s
    except ProviderError as error:
        await provider.destroy(vm_id)
        return [wrong("vm", error.code, f"A VM's {step} failed.", _sentence(error))]
    finally:
        await provider.close()
    return [well("vm", "A VM lived: " + ", ".join(f"{name} {taken:.2f} s" for name, taken in times.items()) + ".")]
