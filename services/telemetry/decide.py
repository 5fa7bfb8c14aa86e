"""Command and state to events. Pure. A decision names what is still missing: asked again after its first event is
stored, it gives the rest, and in the end nothing."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from services.telemetry.config import TelemetryConfig
from services.telemetry.state import DEFAULT, Pool, State
from shared.commands import Command, EvaluateAlerts, RecordResources
from shared.events import AlertCleared, AlertRaised, Event, ResourcesMeasured

POOL_EMPTY = "pool_empty"
VM_BOOTS_FAILING = "vm_boots_failing"
REACTIONS_PARKED = "reactions_parked"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert is about. `due`: it should be raised; `over_since`: the condition has been gone since then; `flaps`:
    it may be back in a moment, so that its end has to last for a while."""

    alert: str
    due: bool
    since: float
    over_since: float | None
    message: str
    flaps: bool = True


def decide(state: State, command: Command, config: TelemetryConfig) -> Sequence[Event]:
    """The events that the command leads to in this state."""
    match command:
        case EvaluateAlerts():
            return evaluate_alerts(state, command, config)
        case RecordResources():
            return record_resources(state, command)
        case _:
            raise AssertionError(f"not a command of telemetry: {type(command).__name__}")


def record_resources(state: State, command: RecordResources) -> Sequence[Event]:
    """What was measured, beside the previews that live."""
    count = Counter(state.previews.values())
    return [
        ResourcesMeasured(
            day=command.day,
            pools=command.pools,
            starting=count["starting"],
            ready=count["ready"],
            suspended=count["suspended"],
        )
    ]


def evaluate_alerts(state: State, command: EvaluateAlerts, config: TelemetryConfig) -> Sequence[Event]:
    """Each alert is raised once when it is due, and cleared once when its condition has been gone for a while."""
    conditions: list[Condition] = []
    for name, pool in state.pools.items():
        conditions += [_pool_empty(state, name, pool, command.at, config), _vm_boots_failing(name, pool, config)]
    if command.parked is not None:
        conditions.append(_reactions_parked(command.parked, command.at))
    return [event for condition in conditions for event in _change(state, condition, command.at, config)]


def _pool_empty(state: State, name: str, pool: Pool, at: float, config: TelemetryConfig) -> Condition:
    since = pool.short_since
    empty_s = 0.0 if since is None else at - since
    waiting = sum(each == name for each in state.waiting.values())
    claims = f"{waiting} preview{'' if waiting == 1 else 's'} waiting"
    return Condition(
        alert=_of(POOL_EMPTY, name),
        due=since is not None and empty_s >= config.pool_empty_s,
        since=since or 0.0,
        over_since=None if since is not None else pool.short_until,
        message=f"The pool{_named(name)} has had no warm VM for {empty_s:.0f} s (target {pool.target}, {claims}).",
    )


def _vm_boots_failing(name: str, pool: Pool, config: TelemetryConfig) -> Condition:
    failing = pool.boot_failures >= config.boot_failures_min
    of = f" of the pool{_named(name)}" if name != DEFAULT else ""
    return Condition(
        alert=_of(VM_BOOTS_FAILING, name),
        due=failing,
        since=pool.boots_fail_since or 0.0,
        over_since=None if failing else pool.boots_failed_until,
        message=f"The last {pool.boot_failures} VM boots{of} failed; the pool's log says why.",
    )


def _of(alert: str, pool: str) -> str:
    """Each pool has alerts of its own: `pool_empty`, and `pool_empty-large` of one that is called large."""
    return alert if pool == DEFAULT else f"{alert}-{pool}"


def _named(pool: str) -> str:
    return "" if pool == DEFAULT else f" {pool}"


def _reactions_parked(count: int, at: float) -> Condition:
    """Somebody has to look, however few they are; and it is over once they are tried again or dropped."""
    what = "1 reaction has" if count == 1 else f"{count} reactions have"
    return Condition(
        alert=REACTIONS_PARKED,
        due=count > 0,
        since=at,
        over_since=None if count else at,
        message=f"{what} failed too often and wait: `drape parked ls` says why, `drape parked replay` tries again.",
        flaps=False,
    )


def _change(state: State, condition: Condition, at: float, config: TelemetryConfig) -> Sequence[Event]:
    raised = state.alerts.get(condition.alert)
    if raised is None:
        if not condition.due:
            return []
        return [AlertRaised(alert=condition.alert, message=condition.message, since=condition.since)]
    wait_s = config.clear_after_s if condition.flaps else 0.0
    if condition.over_since is None or at - condition.over_since < wait_s:
        return []
    return [AlertCleared(alert=condition.alert, lasted_s=round(condition.over_since - raised.since, 3))]
