"""Each alert's cause, made for real and mended again; what the platform makes of it is read off its log."""

import asyncio
import os
import resource
import signal
from pathlib import Path

import msgspec
import psutil

from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.adapters.node import node_dir
from services.pool.ports import VmSpec
from shared.events import AlertCleared, AlertRaised
from shared.jetstream.topology import PARKED_ROOT
from shared.parked import Parked
from tests.evidence.cases import node
from tests.evidence.previews import Previews
from tests.evidence.story import Story
from tests.live.platform import Platform

WITHIN_S = 240.0
STRANGERS = ("vm-900001", "vm-900002", "vm-900003")
VMS_MAX = 6
RECOVERING = 20
"""Installs that push the slow ones out of what counts as new."""
FIRST = 1_000
"""Numbers of projects from here on are of none of the counted previews."""

CONFIG = "[telemetry.alert]\nbudget_day = {budget:.1f}\n"
SMALL_BUDGET, LARGE_BUDGET = 5.0, 1e9
PER_S = 1.0
PRICES = '{"currency": "USD", "prices": [{"provider": "local", "running_per_h": 3600, "suspended_per_h": 3600}]}'
ENV = {
    "DRAPE_POOL_TARGET": "2",
    "DRAPE_POOL_RECONCILE_PERIOD_S": "3",
    "DRAPE_POOL_ORPHAN_GRACE_S": "10",
    "DRAPE_POOL_BOOT_BACKOFF_MAX_S": "5",
    "DRAPE_TELEMETRY_ALERTS_PERIOD_S": "2",
    "DRAPE_TELEMETRY_CLEAR_AFTER_S": "10",
    "DRAPE_TELEMETRY_POOL_EMPTY_S": "20",
    "DRAPE_TELEMETRY_PRICES": PRICES,
    "DRAPE_TELEMETRY_ALERT_ERROR_RATE_WINDOW_S": "180",
    "DRAPE_TELEMETRY_ALERT_ERROR_RATE_MIN_COUNT": "8",
    "DRAPE_TELEMETRY_ALERT_LAG_EVENTS_MAX": "60",
    "DRAPE_TELEMETRY_ALERT_LAG_EVENTS_CLEAR": "20",
    "DRAPE_TELEMETRY_ALERT_LAG_S": "10",
    "DRAPE_TELEMETRY_ALERT_INSTALL_BASELINE_MIN": "5",
    "DRAPE_TELEMETRY_ALERT_INSTALL_RATIO_MAX": "3",
    "DRAPE_TELEMETRY_ALERT_INSTALL_RATIO_CLEAR": "2.5",
    "DRAPE_TELEMETRY_ALERT_LEAKS_WINDOW_S": "60",
}
"""Short periods and small windows, so that a run takes minutes."""

HOW = {
    "error_rate": "ten of the previews fail; later ones do not, and the window passes",
    "install_slow": f"three installs of Node projects take 12 s; then {RECOVERING} that take none",
    "cost_over_budget": "a second of a VM costs 1 USD; then a larger budget in the settings' file, and `drape rollout`",
    "vm_leaks": "three VMs that the log does not know are booted beside the pool's; it reaps them, and the window passes",
    "reactions_parked": "a parked reaction is stored as the pool stores one; then `drape parked drop`",
    "vm_boots_failing": "the pool's process may not write a byte to any file (RLIMIT_FSIZE); then it may again",
    "pool_empty": "as many previews as `drape pool resize` has left VMs for; then they are stopped",
    "replay_lag": "PostgreSQL is stopped (SIGSTOP) while previews start; then it goes on",
}
"""What raises each alert, and what clears it."""


class Alarms:
    """`problems`: what did not come about. One after another, for each wants the others' causes gone."""

    def __init__(self, platform: Platform, story: Story, previews: Previews, config: Path) -> None:
        self._platform = platform
        self._story = story
        self._previews = previews
        self._config = config
        self._number = FIRST
        self.problems: list[str] = []

    async def all(self) -> None:
        """Every cause that the previews themselves have not made; returns once all are over."""
        await self._raised("error_rate", "install_slow", "cost_over_budget")
        for make in (self._leaks, self._parked, self._boots, self._empty, self._lag, self._budget):
            await make()
        await self._cleared(*HOW)

    async def _raised(self, *names: str) -> None:
        for name in names:
            if not await self._story.alerted(AlertRaised, name, WITHIN_S):
                self.problems.append(f"{name} was not raised within {WITHIN_S:.0f} s of its cause")

    async def _cleared(self, *names: str) -> None:
        for name in names:
            if not self._story.alerts(AlertRaised)[name]:
                continue  # told already
            if not await self._story.alerted(AlertCleared, name, WITHIN_S):
                self.problems.append(f"{name} was not cleared within {WITHIN_S:.0f} s of its cause's end")

    async def _drape(self, *words: str) -> None:
        ran = await self._platform.drape(*words, "--json")
        if ran.code:
            self.problems.append(f"drape {' '.join(words)}: {ran.out}{ran.err}")

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _leaks(self) -> None:
        provider = LocalProvider(self._platform.home.vms, config=LocalConfig(node_dir=node_dir("")))
        try:
            for name in STRANGERS:
                await provider.create(VmSpec(vm_id=name, token="nobody-asks", memory_mb=512, orphan_timeout_s=600.0))
            await self._raised("vm_leaks")
        finally:
            for name in STRANGERS:
                await provider.destroy(name)
            await provider.close()

    async def _parked(self) -> None:
        parked = Parked(
            service="pool",
            kind="event",
            seq=1,
            subject="drape.evt.pool.pool.default.PoolResized",
            reason="made by a run that gathers evidence",
            attempts=12,
            at="2026-11-30T00:00:00Z",
        )
        async with self._platform.connected("pool") as pool:
            await pool.jetstream().publish(f"{PARKED_ROOT}.{parked.key}", msgspec.json.encode(parked))
        await self._raised("reactions_parked")
        await self._drape("parked", "drop", parked.key)
        await self._cleared("reactions_parked")

    async def _boots(self) -> None:
        pid = self._platform.pid("pool")
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        try:
            await self._drape("pool", "resize", "--target", "4")
            await self._raised("vm_boots_failing")
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        await self._cleared("vm_boots_failing")

    async def _empty(self) -> None:
        await self._drape("pool", "resize", "--target", "1", "--minimum", "1", "--maximum", "2")
        held: list[str] = []
        while len(held) < VMS_MAX and await self._available():
            held.append(await self._previews.ready(node(self._next())))
        await self._raised("pool_empty")
        for preview_id in held:
            await self._previews.stop(preview_id)
        await self._cleared("pool_empty")
        await self._drape("pool", "resize", "--target", "2", "--minimum", "1", "--maximum", str(VMS_MAX))

    async def _available(self) -> int:
        """VMs that are warm, or soon will be."""
        pool = msgspec.json.decode(await self._story.bus.commands.query("pool", "summary"))
        return int(pool["available"] + pool["booting"])

    async def _lag(self) -> None:
        """The installs that clear `install_slow` are what PostgreSQL misses."""
        first = psutil.Process(self._platform.pid("postgres"))
        stopped = [each.pid for each in (first, *first.children(recursive=True))]
        _signal(stopped, signal.SIGSTOP)
        try:
            await asyncio.gather(
                self._raised("replay_lag"), self._previews.all([node(self._next()) for _ in range(RECOVERING)])
            )
        finally:
            _signal(stopped, signal.SIGCONT)
        await self._cleared("replay_lag", "install_slow")

    async def _budget(self) -> None:
        self._config.write_text(CONFIG.format(budget=LARGE_BUDGET))
        await self._drape("rollout", "--service", "telemetry")
        await self._cleared("cost_over_budget")


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, number)
