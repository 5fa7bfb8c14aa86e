"""Counts and durations of the last hours, in slices of time, so that a condition can be told for any moment of them. Pure.

Slices are replaced, never changed, and the oldest go: what is kept is bounded whatever happens. Their numbers are texts,
for only such keys have an order in JSON, by which two states are compared.
"""

from collections.abc import Callable, Mapping
from math import ceil

import msgspec

SLICE_S = 10
"""So exact is a window's begin."""
KEPT_S = 6 * 3600
"""The longest window."""
SLICES_MAX = KEPT_S // SLICE_S + 1
CODES_MAX = 64
"""Reasons that are told apart in one slice; others count as `other`."""
OTHER = "other"
RECENT = 20
"""Installs that are compared with those before them."""
BASELINE = 200
"""So many of those, at most."""


class Outcomes(msgspec.Struct, frozen=True, array_like=True):
    """What came of previews in one slice: those that became ready, and the failures by code."""

    ready: int = 0
    failed: Mapping[str, int] = {}


class Installs(msgspec.Struct, frozen=True, kw_only=True):
    """One framework's installs, oldest first: (seconds UTC, seconds it took). `baseline`: what they took before they became
    slow, held while that alert is raised; None: what is before the newest."""

    times: tuple[tuple[float, float], ...] = ()
    baseline: tuple[float, ...] | None = None


def slice_of(at: float) -> int:
    """The slice that a time is in."""
    return int(at // SLICE_S)


def note_outcome(outcomes: dict[str, Outcomes], at: float, code: str | None) -> None:
    """A preview became ready (None), or failed with this code."""
    number = str(slice_of(at))
    known = outcomes.get(number, Outcomes())
    if code is None:
        outcomes[number] = Outcomes(known.ready + 1, known.failed)
    else:
        name = code if code in known.failed or len(known.failed) < CODES_MAX else OTHER
        outcomes[number] = Outcomes(known.ready, {**known.failed, name: known.failed.get(name, 0) + 1})
    _forget_old(outcomes, slice_of(at))


def note_count(counts: dict[str, int], at: float, count: int) -> None:
    """So many more."""
    number = str(slice_of(at))
    counts[number] = counts.get(number, 0) + count
    _forget_old(counts, slice_of(at))


def _forget_old(slices: dict[str, Outcomes] | dict[str, int], newest: int) -> None:
    while int(oldest := next(iter(slices))) < newest - SLICES_MAX or len(slices) > SLICES_MAX:
        del slices[oldest]


def counted(counts: Mapping[str, int], at: float, window_s: float) -> int:
    """How many in the window that ends at `at`."""
    first, last = slice_of(at - window_s), slice_of(at)
    return sum(count for number, count in counts.items() if first < int(number) <= last)


def outcomes_in(
    outcomes: Mapping[str, Outcomes], at: float, window_s: float, ignored: tuple[str, ...]
) -> tuple[int, int, int]:
    """(ready, failed, first slice with a failure) in the window that ends at `at`; failures with these codes don't count."""
    first, last = slice_of(at - window_s), slice_of(at)
    ready = failed = begun = 0
    for number, each in ((int(name), each) for name, each in outcomes.items()):
        if first < number <= last:
            ready += each.ready
            bad = sum(count for code, count in each.failed.items() if code not in ignored)
            failed += bad
            if bad and (not begun or number < begun):
                begun = number
    return ready, failed, begun


def gone_since(at: float, for_s: float, gone: Callable[[float], bool]) -> float | None:
    """The begin of the last `for_s` seconds, where the condition was gone in all of them; else None."""
    moments = [at - number * SLICE_S for number in range(ceil(for_s / SLICE_S))]
    return at - for_s if all(gone(moment) for moment in (*moments, at - for_s)) else None


def note_install(known: Installs, at: float, took_s: float) -> Installs:
    """One more."""
    times = (*known.times, (at, took_s))[-(RECENT + BASELINE) :]
    return msgspec.structs.replace(known, times=times)


def held(known: Installs) -> Installs:
    """From now on compared with what was usual until now."""
    return msgspec.structs.replace(known, baseline=tuple(took for _, took in known.times[:-RECENT]))


def compared(known: Installs, at: float, window_s: float) -> tuple[float, float, int, float] | None:
    """(p95 of the newest `RECENT`, p95 of those before them, their number, when the first of the newest was), as it was at
    `at`. None: too few of the newest are in the window, or there is nothing before them."""
    times = [each for each in known.times if each[0] <= at]
    recent = [each for each in times[-RECENT:] if each[0] > at - window_s]
    before = known.baseline if known.baseline is not None else tuple(took for _, took in times[:-RECENT])
    if len(recent) < RECENT or not before:
        return None
    return p95([took for _, took in recent]), p95(before), len(before), recent[0][0]


def p95(values: tuple[float, ...] | list[float]) -> float:
    """The 95th percentile, by the nearest rank."""
    return sorted(values)[ceil(0.95 * len(values)) - 1]
