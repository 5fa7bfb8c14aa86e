"""Shapes of telemetry's state. Pure. Times are seconds, UTC. Values are replaced, never changed."""

import re
from collections.abc import Iterable

import msgspec

from shared.events.telemetry import Severity
from shared.ids import EventId, VmId

ERROR_RATE = "error_rate"
POOL_EMPTY = "pool_empty"
VM_BOOTS_FAILING = "vm_boots_failing"
REPLAY_LAG = "replay_lag"
REACTIONS_PARKED = "reactions_parked"
INSTALL_SLOW = "install_slow"
COST_OVER_BUDGET = "cost_over_budget"
VM_LEAKS = "vm_leaks"
ALERTS = (
    *(ERROR_RATE, POOL_EMPTY, VM_BOOTS_FAILING, REPLAY_LAG),
    *(REACTIONS_PARKED, INSTALL_SLOW, COST_OVER_BUDGET, VM_LEAKS),
)
"""All alerts; `pool_empty` and `vm_boots_failing` are each pool's, see `of_pool`."""
DEFAULT = "default"
"""The pool that there is where none is configured."""
TARGET_AT_FIRST = 3
"""Its own target before its first `PoolResized`."""
TOLD_MAX = 12
"""Notifications that are remembered of one alert."""
NAME = re.compile(r"[a-z0-9_-]{1,100}")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
PATTERN = re.compile(r"(?:[a-z0-9_-]{1,99})?\*?")


def names_alerts(pattern: str) -> bool:
    """Whether a silence's pattern can ever mean an alert; those of single pools have the pool's name behind theirs."""
    begin = pattern.removesuffix("*")
    if pattern != begin:
        return any(name.startswith(begin) or begin.startswith(f"{name}-") for name in ALERTS)
    return any(pattern == name or pattern.startswith(f"{name}-") for name in ALERTS)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one notice to one channel; `code` empty: it has it."""

    channel: str
    kind: str
    at: float
    attempts: int
    code: str = ""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that is raised, or was.

    Its condition holds `since`. `id`, `seq`: of its `AlertRaised`. `announced`: the event because of which it is told to the
    channels, its own or the end of a silence; empty: it is silenced. `cleared`: its `AlertCleared`'s id, sequence and time.
    """

    alert: str
    since: float
    raised_at: float
    message: str
    severity: Severity = "warning"
    value: float | None = None
    threshold: float | None = None
    id: EventId = ""
    seq: int = 0
    announced: EventId = ""
    told: tuple[Told, ...] = ()
    cleared: EventId = ""
    cleared_seq: int = 0
    cleared_at: float | None = None
    lasted_s: float | None = None


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Alerts of this pattern are not sent until `until`; `ended_at`: None while it lasts."""

    silence_id: str
    pattern: str
    until: float
    reason: str
    by: str
    since: float
    ended_at: float | None = None

    def covers(self, alert: str, at: float) -> bool:
        """Whether this alert is silenced at that time."""
        return at < self.until and matches(self.pattern, alert)


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One of the pools; None where it never was so.

    `short_since`: no VM is warm although one is wanted; None: not so now. `boot_failures`: in a row, up to now;
    `boots_failed_until`: the boot that ended the last row of failures.
    """

    target: int = 0
    short_since: float | None = None
    short_until: float | None = None
    boot_failures: int = 0
    boots_fail_since: float | None = None
    boots_failed_until: float | None = None


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """VMs that reconciliation can't get rid of: how many, since when there are any, until when there were."""

    count: int = 0
    since: float | None = None
    until: float | None = None
    vms: tuple[VmId, ...] = ()


def of_pool(alert: str, pool: str) -> str:
    """Each pool has alerts of its own: `pool_empty`, and `pool_empty-large` of one that is called large."""
    return alert if pool == DEFAULT else f"{alert}-{pool}"


def matches(pattern: str, alert: str) -> bool:
    """A name, or its beginning and `*`."""
    return alert.startswith(pattern[:-1]) if pattern.endswith("*") else alert == pattern


def silenced(silences: Iterable[Silence], alert: str, at: float) -> bool:
    """Whether one of them covers the alert."""
    return any(each.covers(alert, at) for each in silences)
