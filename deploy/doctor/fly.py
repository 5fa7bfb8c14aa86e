"""`drape doctor --provider fly`: token, app, regions, image, and one machine's life with times. Never shows the token."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import aiohttp
import msgspec

from deploy.doctor.finding import Finding, looked_at, named, warning, well, wrong
from services.pool.adapters.fly import FlyProvider
from services.pool.adapters.fly_api import FlyApi, FlyRefused
from services.pool.adapters.fly_boot import agent_answers
from services.pool.adapters.fly_config import FlyConfig, token_of
from services.pool.adapters.fly_create import PINNED
from services.pool.adapters.fly_machines import SUSPENDABLE_MB_MAX, size
from services.pool.config import PoolConfig
from services.pool.ports import ProviderError, VmSpec
from shared.settings import from_env
from shared.ulids import new_id

LOOK_S, LIFE_S, ANSWER_S = 30.0, 240.0, 30.0
CLOCK_APART_MAX_S = 5.0
CHECKS = {
    "image_missing": "image",
    "image_unusable": "image",
    "region_full": "region",
    "provider_unauthorized": "token",
}
"""What a machine's life says of something else."""


class _TokenInfo(msgspec.Struct):
    org_slug: str = ""
    apps: list[str] | None = None


class _Tokens(msgspec.Struct):
    tokens: list[_TokenInfo] | None = None


class _Organization(msgspec.Struct):
    slug: str = ""


class _App(msgspec.Struct):
    name: str = ""
    organization: _Organization = msgspec.field(default_factory=_Organization)


class _Region(msgspec.Struct):
    code: str
    deprecated: bool = False


class _Regions(msgspec.Struct):
    regions: list[_Region]


async def fly(environ: Mapping[str, str]) -> list[Finding]:
    """From the token to a machine; what stands on something that is wrong is not looked at."""
    config = from_env(FlyConfig, "DRAPE_POOL_FLY", environ)
    if not config.app:
        todo = "Name an app that holds nothing but VMs; `fly apps create` makes one."
        return [wrong("app", "settings_missing", "DRAPE_POOL_FLY_APP is not set.", todo=todo)]
    try:
        token = token_of(config, environ)
    except ProviderError as error:
        return [_failed("token", error)]
    api = FlyApi(config, token)
    try:
        findings: list[Finding] = []
        for check, look in (("token", _token), ("app", _app), ("region", _regions)):
            findings += await looked_at(check, _told(check, look(api, config)), LOOK_S)
            if findings[-1].code == "provider_unauthorized":
                return findings
        findings.append(_image(config))
        if all(finding.level != "error" for finding in findings):
            pool = from_env(PoolConfig, "DRAPE_POOL", environ)
            findings += await looked_at("machine", _life(config, token, pool), LIFE_S)
        return findings
    finally:
        await api.close()


async def _told(check: str, look: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        return await look
    except ProviderError as error:
        return [_failed(check, error)]


def _failed(check: str, error: ProviderError) -> Finding:
    return wrong(check, error.code, f"{error.message[0].upper()}{error.message[1:]}.")


async def _token(api: FlyApi, config: FlyConfig) -> list[Finding]:
    asked_at = time.time()
    try:
        answer = await api.call("GET", "/v1/tokens/current")
    except FlyRefused as refused:
        if refused.status != 404:
            raise
        return [warning("token", "token_unknown_kind", "Fly does not tell about this kind of token.")]
    tokens = answer.decoded(_Tokens).tokens or []
    orgs, apps = sorted({each.org_slug for each in tokens}), sorted({app for each in tokens for app in each.apps or ()})
    findings = [
        well("token", f"Fly takes it; it is of {named(orgs) or 'no organization'}, for {named(apps) or 'all apps'}.")
    ]
    if not apps:
        todo = f"`fly tokens create deploy -a {config.app}` makes one that may change nothing but the VMs."
        findings = [
            warning("token", "token_too_wide", "The token may change every app of its organization.", todo=todo)
        ]
    apart_s = answer.date - (asked_at + time.time()) / 2 if answer.date else 0.0
    if abs(apart_s) > CLOCK_APART_MAX_S:
        todo = "Synchronize this machine's clock; ages of VMs are told by Fly's clock meanwhile."
        findings.append(warning("clock", "clock_skew", f"Fly's clock is {apart_s:+.0f} s from ours.", todo=todo))
    return findings


async def _app(api: FlyApi, config: FlyConfig) -> list[Finding]:
    try:
        app = (await api.call("GET", api.app)).decoded(_App)
    except FlyRefused as refused:
        if refused.status == 404 and config.org:
            return [
                warning("app", "app_missing", f"There is no app {config.app} yet; the pool makes it in {config.org}.")
            ]
        raise
    of = app.organization.slug
    if config.org and of and of != config.org:
        why = "DRAPE_POOL_FLY_ORG names another one."
        return [wrong("app", "app_of_another_org", f"{config.app} is an app of {of}.", why, "Correct one of the two.")]
    return [well("app", f"{config.app} is there, of {of or 'an organization that is not told'}.")]


async def _regions(api: FlyApi, config: FlyConfig) -> list[Finding]:
    wanted = [each.strip() for each in config.regions.split(",") if each.strip()]
    if not wanted:
        todo = "Name some in DRAPE_POOL_FLY_REGIONS, the nearest one first: where one is full the next is tried."
        return [warning("region", "region_unset", "Fly chooses the region of each machine.", todo=todo)]
    known = (await api.call("GET", "/v1/platform/regions")).decoded(_Regions).regions
    usable = {each.code for each in known if not each.deprecated}
    unknown = [each for each in wanted if each not in usable]
    if unknown:
        todo = f"Correct DRAPE_POOL_FLY_REGIONS; there are {', '.join(sorted(usable))}."
        return [wrong("region", "region_unknown", f"Fly has no region {named(unknown)}.", todo=todo)]
    return [well("region", f"{', '.join(wanted)}: all there.")]


def _image(config: FlyConfig) -> Finding:
    if PINNED.fullmatch(config.image):
        return well("image", f"{config.image} is pinned by its digest.")
    todo = "`deploy/fly/push-image` builds it, pushes it and pins it."
    return wrong(
        "image", "image_unpinned", f"DRAPE_POOL_FLY_IMAGE is {config.image or 'not set'}.", "VMs are made of it.", todo
    )


async def _life(config: FlyConfig, token: str, pool: PoolConfig) -> list[Finding]:
    """A machine of nobody's home is made, asked, suspended, woken and destroyed; on any failure it goes too."""
    spec = VmSpec(vm_id=f"doctor-{new_id()}", token=new_id(), cpu_cores=pool.vm_cpu_cores, memory_mb=pool.vm_memory_mb)
    provider = FlyProvider(config, token, f"doctor-{new_id()[-8:]}")
    clock = Clock()
    findings: list[Finding] = []
    try:
        async with aiohttp.ClientSession() as session:
            address = await clock.took("made and answering", provider.create(spec))
            await clock.took("suspended", provider.suspend(spec.vm_id))
            await clock.took("woken", provider.resume(spec.vm_id))
            async with asyncio.timeout(ANSWER_S):
                answers = agent_answers(session, address, spec, poll_s=config.poll_s)
                await clock.took("answering again", answers)
            await clock.took("destroyed", provider.destroy(spec.vm_id))
        findings.append(well("machine", f"A machine was {clock.told}."))
    except (ProviderError, TimeoutError) as error:
        known = (
            error if isinstance(error, ProviderError) else ProviderError("agent_silent", f"no answer in {ANSWER_S:g} s")
        )
        failed = _failed(CHECKS.get(known.code, "machine"), known)
        what = f"{failed.what} Before that it was {clock.told}." if clock.told else failed.what
        findings.append(msgspec.structs.replace(failed, what=what))
        findings += await _told("machine", _removed(provider, spec))
    finally:
        await provider.close()
    memory_mb = size(spec.cpu_cores, spec.memory_mb, config.cpu_kind).memory_mb
    if pool.warm_suspended and memory_mb > SUSPENDABLE_MB_MAX:
        why = f"Fly advises at most {SUSPENDABLE_MB_MAX} MB for machines that are suspended: larger ones take long."
        findings.append(warning("machine", "suspending_is_slow", f"VMs have {memory_mb} MB.", why))
    return findings


async def _removed(provider: FlyProvider, spec: VmSpec) -> list[Finding]:
    await provider.destroy(spec.vm_id)
    return []


class Clock:
    """What was done, and how long each step took, as one sentence."""

    def __init__(self) -> None:
        self._steps: list[str] = []

    @property
    def told(self) -> str:
        return ", ".join(self._steps)

    async def took(self, step: str, work: Awaitable[Any]) -> Any:
        begun = time.monotonic()
        result = await work
        self._steps.append(f"{step} ({time.monotonic() - begun:.1f} s)")
        return result
