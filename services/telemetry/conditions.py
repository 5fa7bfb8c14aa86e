"""What each alert is about: by the state, and by what was measured, whether it holds, is over, or neither. Pure."""

from collections.abc import Iterator

import msgspec

from services.telemetry import model
from services.telemetry.config import AlertConfig, TelemetryConfig
from services.telemetry.model import DEFAULT, Pool, of_pool
from services.telemetry.state import State
from services.telemetry.windows import RECENT, SLICE_S, Installs, compared, counted, gone_since, outcomes_in
from shared.commands import EvaluateAlerts, Lag
from shared.events.telemetry import Severity

LAGS_NAMED_MAX = 5
VMS_NAMED_MAX = 5


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert is about. `due`: it should be raised; `over_since`: the condition has been gone since then; `flaps`:
    it may be back in a moment, so that its end has to last for a while. `value`, `threshold`: what was measured, and what it
    should not reach."""

    alert: str
    due: bool
    since: float
    over_since: float | None
    message: str
    flaps: bool = True
    severity: Severity = "warning"
    value: float | None = None
    threshold: float | None = None


def conditions(
    state: State, command: EvaluateAlerts, config: TelemetryConfig, limits: AlertConfig
) -> Iterator[Condition]:
    """Of every alert about which something is known."""
    at, clear_s = command.at, config.clear_after_s
    for name, pool in state.pools.items():
        yield _pool_empty(state, name, pool, at, config)
        yield _vm_boots_failing(name, pool, config)
    yield _error_rate(state, at, clear_s, limits)
    yield _install_slow(state, at, clear_s, limits)
    yield _vm_leaks(state, at, clear_s, limits)
    if command.parked is not None:
        yield _reactions_parked(command.parked, at)
    if command.lags is not None:
        yield _replay_lag(command.lags, command.lags_small_since, at, limits)
    budgets = (limits.budget_day, limits.budget_month)
    if not any(budgets) or command.cost_day is not None or command.cost_month is not None:
        yield _cost_over_budget(command.cost_day, command.cost_month, at, limits)


def _pool_empty(state: State, name: str, pool: Pool, at: float, config: TelemetryConfig) -> Condition:
    since = pool.short_since
    empty_s = 0.0 if since is None else at - since
    waiting = sum(each == name for each in state.waiting.values())
    claims = f"{waiting} preview{'' if waiting == 1 else 's'} waiting"
    return Condition(
        alert=of_pool(model.POOL_EMPTY, name),
        due=since is not None and empty_s >= config.pool_empty_s,
        since=since or 0.0,
        over_since=None if since is not None else pool.short_until,
        message=f"The pool{_named(name)} has had no warm VM for {empty_s:.0f} s (target {pool.target}, {claims}).",
        severity="critical",
        value=round(empty_s, 1),
        threshold=config.pool_empty_s,
    )


def _vm_boots_failing(name: str, pool: Pool, config: TelemetryConfig) -> Condition:
    failing = pool.boot_failures >= config.boot_failures_min
    of = f" of the pool{_named(name)}" if name != DEFAULT else ""
    return Condition(
        alert=of_pool(model.VM_BOOTS_FAILING, name),
        due=failing,
        since=pool.boots_fail_since or 0.0,
        over_since=None if failing else pool.boots_failed_until,
        message=f"The last {pool.boot_failures} VM boots{of} failed; the pool's log says why.",
        severity="critical",
        value=float(pool.boot_failures),
        threshold=float(config.boot_failures_min),
    )


def _named(pool: str) -> str:
    return "" if pool == DEFAULT else f" {pool}"


def _error_rate(state: State, at: float, clear_s: float, limits: AlertConfig) -> Condition:
    """Over once few enough fail, or none is left in the window: fewer than the minimum say nothing of an end either."""

    def look(moment: float) -> tuple[int, int, int]:
        return outcomes_in(state.outcomes, moment, limits.error_rate_window_s, limits.error_rate_ignores)

    def gone(moment: float) -> bool:
        ready, failed, _ = look(moment)
        return failed <= limits.error_rate_clear * (ready + failed)

    ready, failed, begun = look(at)
    count = ready + failed
    rate = failed / count if count else 0.0
    return Condition(
        alert=model.ERROR_RATE,
        due=count >= limits.error_rate_min_count and rate > limits.error_rate_max,
        since=float(begun * SLICE_S),
        over_since=gone_since(at, clear_s, gone),
        message=(
            f"{failed} of {count} previews failed in the last {limits.error_rate_window_s / 60:.0f} minutes "
            f"({rate:.0%}; {limits.error_rate_max:.0%} are too many): `drape stats` and the failures' codes say at what."
        ),
        severity="critical",
        value=round(rate, 4),
        threshold=limits.error_rate_max,
    )


def _install_slow(state: State, at: float, clear_s: float, limits: AlertConfig) -> Condition:
    """Of the framework whose installs have become slower than those of any other."""
    name, worst = max(
        ((name, _slowness(each, at, limits)) for name, each in state.installs.items()),
        key=lambda each: each[1][0],
        default=("", (0.0, 0.0, 0.0, at)),
    )
    ratio, recent, before, since = worst

    def gone(moment: float) -> bool:
        return all(_slowness(each, moment, limits)[0] <= limits.install_ratio_clear for each in state.installs.values())

    return Condition(
        alert=model.INSTALL_SLOW,
        due=ratio > limits.install_ratio_max,
        since=since,
        over_since=gone_since(at, clear_s, gone),
        message=(
            f"The last {RECENT} installs of {name} took {recent:.1f} s (p95), those before them {before:.1f} s: "
            "is the registry slow, or the machine busy?"
        ),
        value=round(ratio, 3),
        threshold=limits.install_ratio_max,
    )


def _slowness(installs: Installs, at: float, limits: AlertConfig) -> tuple[float, float, float, float]:
    """(ratio, recent p95, p95 before, since); a ratio of 0 where too little is known, or nobody waits long."""
    found = compared(installs, at, limits.install_window_s)
    if found is None:
        return 0.0, 0.0, 0.0, at
    recent, before, count, since = found
    if count < limits.install_baseline_min or recent < limits.install_min_s or before <= 0:
        return 0.0, recent, before, since
    return recent / before, recent, before, since


def _vm_leaks(state: State, at: float, clear_s: float, limits: AlertConfig) -> Condition:
    """Too many orphans in a while, or one VM that can't be got rid of; over once there is neither."""
    reaped = counted(state.reaped, at, limits.leaks_window_s)
    stuck = state.stuck
    stays = stuck.since is not None and at - stuck.since >= limits.stuck_s

    def gone(moment: float) -> bool:
        free = stuck.since is None and (stuck.until is None or moment >= stuck.until)
        return free and counted(state.reaped, moment, limits.leaks_window_s) * 2 < max(2, limits.leaks_min)

    named = f" ({', '.join(stuck.vms[:VMS_NAMED_MAX])})" if stuck.vms else ""
    held = f"; {stuck.count} can't be destroyed{named}" if stuck.count else ""
    return Condition(
        alert=model.VM_LEAKS,
        due=reaped >= limits.leaks_min or stays,
        since=stuck.since if stays and stuck.since is not None else at,
        over_since=gone_since(at, clear_s, gone),
        message=(
            f"In the last {limits.leaks_window_s / 60:.0f} minutes {reaped} VMs were found that the log does not know"
            f"{held}: what makes or keeps them? `drape doctor` and the provider's own list tell."
        ),
        value=float(reaped + stuck.count),
        threshold=float(limits.leaks_min),
    )


def _reactions_parked(count: int, at: float) -> Condition:
    """Somebody has to look, however few they are; and it is over once they are tried again or dropped."""
    what = "1 reaction has" if count == 1 else f"{count} reactions have"
    return Condition(
        alert=model.REACTIONS_PARKED,
        due=count > 0,
        since=at,
        over_since=None if count else at,
        message=f"{what} failed too often and wait: `drape parked ls` says why, `drape parked replay` tries again.",
        flaps=False,
        value=float(count),
        threshold=1.0,
    )


def _replay_lag(lags: tuple[Lag, ...], small_since: float | None, at: float, limits: AlertConfig) -> Condition:
    large = sorted(
        (each for each in lags if each.events > limits.lag_events_max and each.age_s >= limits.lag_s),
        key=lambda each: (-each.events, each.name),
    )
    named = ", ".join(f"{each.name} by {each.events} events" for each in large[:LAGS_NAMED_MAX])
    return Condition(
        alert=model.REPLAY_LAG,
        due=bool(large),
        since=at - max((each.age_s for each in large), default=0.0),
        over_since=small_since,
        message=f"Behind the log: {named}. `drape status` tells how they go on.",
        value=float(max((each.events for each in lags), default=0)),
        threshold=float(limits.lag_events_max),
    )


def _amount(value: float) -> str:
    return f"{value:.2f}" if value >= 1 or not value else f"{value:.2g}"


def _cost_over_budget(day: float | None, month: float | None, at: float, limits: AlertConfig) -> Condition:
    """It ends with the day, the month, or a larger budget. A cost only grows until then, so there is nothing to wait for."""
    known = (("day", day, limits.budget_day), ("month", month, limits.budget_month))
    spent = [(name, cost, budget) for name, cost, budget in known if cost is not None and budget > 0]
    unknown = any(budget > 0 and cost is None for _, cost, budget in known)
    name, cost, budget = max(spent, key=lambda each: each[1] / each[2], default=("day", 0.0, 0.0))
    over = bool(spent) and cost > budget
    return Condition(
        alert=model.COST_OVER_BUDGET,
        due=over,
        since=at,
        over_since=None if over or unknown else at,
        message=f"This {name}'s VMs have cost {_amount(cost)} of a budget of {_amount(budget)}: `drape costs` says which.",
        flaps=False,
        value=round(cost, 4),
        threshold=budget,
    )
