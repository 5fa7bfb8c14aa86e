"""What the platform answers about a run, against what its log says. Each gives what is wrong; empty is what is wanted."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from services.telemetry import costs, errors
from shared.codec import Recorded
from shared.events import AlertCleared, AlertRaised

COST_ROUNDING_S = 0.01

Json = dict[str, Any]


def wrong_errors(groups: Iterable[Json], events: Sequence[Recorded], made: Counter[str]) -> list[str]:
    """The groups of `/api/errors` against the same fold of the log, and both against the failures that were `made`, by code."""
    _, found = errors.fold({}, events)
    logged = Counter(each.fingerprint for each in found)
    answered = Counter({each["fingerprint"]: each["count"] for each in groups})
    wrong = [
        f"errors: {key} was counted {answered[key]} times, the log has it {logged[key]} times"
        for key in sorted({*logged, *answered})
        if answered[key] != logged[key]
    ]
    failed = Counter(each.code for each in found if each.type == "PreviewFailed")
    return wrong + [
        f"errors: {failed[code]} previews failed with {code}, {made[code]} were made to"
        for code in sorted({*failed, *made})
        if failed[code] != made[code]
    ]


def wrong_costs(rows: Iterable[Json], events: Sequence[Recorded], per_s: float) -> list[str]:
    """The rows of `/api/costs?by=preview` against the times for which the log says that each held a VM, at `per_s`."""
    held: Counter[str] = Counter()
    for bucket, spent in costs.fold({}, events).added.items():
        if bucket.preview_id:
            held[bucket.preview_id] += spent.running_ms + spent.suspended_ms
    told = {each["key"]: each for each in rows if each["key"]}
    wrong = []
    for key in sorted({*held, *told}):
        running_s, amount = (told[key]["running_s"], told[key]["amount"]) if key in told else (0.0, 0.0)
        if abs(running_s - held[key] / 1000) > COST_ROUNDING_S or abs(amount - running_s * per_s) > COST_ROUNDING_S * 2:
            wrong.append(f"costs: {key} {running_s} s for {amount}, the log says {held[key] / 1000} s")
    return wrong


def wrong_notices(events: Iterable[Recorded], received: Iterable[Json], names: Iterable[str]) -> list[str]:
    """Each alert was raised once and cleared once, and told once each time, by the id of its event; no other one was."""
    raised, cleared = Counter[str](), Counter[str]()
    expected: dict[str, str] = {}
    for each in events:
        if isinstance(each.event, AlertRaised):
            raised[each.event.alert] += 1
            expected[each.meta.id] = f"alert_raised {each.event.alert}"
        elif isinstance(each.event, AlertCleared):
            cleared[each.event.alert] += 1
            expected[each.meta.id] = f"alert_cleared {each.event.alert}"
    wanted = set(names)
    wrong = [
        f"alerts: {name} was raised {raised[name]} times and cleared {cleared[name]} times"
        for name in sorted({*wanted, *raised, *cleared})
        if (raised[name], cleared[name]) != ((1, 1) if name in wanted else (0, 0))
    ]
    told = Counter((each["id"], f"{each['type']} {each['alert']}") for each in received)
    wrong += [f"notices: {what} came {told[key, what]} times" for key, what in expected.items() if told[key, what] != 1]
    return wrong + [f"notices: {what} is of no event" for (key, what) in told if expected.get(key) != what]


def wrong_stats(stats: Json, asked: int, ready: int, made: Counter[str]) -> list[str]:
    """`/metrics/stats` against what whoever asked for the previews has seen: each was tried once."""
    seen = {"count": asked, "success": ready, "failed": sum(made.values())}
    wrong = [
        f"stats: {name} is {stats['previews'][name]}, seen were {number}"
        for name, number in seen.items()
        if stats["previews"][name] != number
    ]
    if stats["failures"] != dict(made):
        wrong.append(f"stats: failures are {stats['failures']}, made were {dict(made)}")
    return wrong
