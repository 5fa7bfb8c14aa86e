"""What a bench of previews found: the runs as the log tells them, and rows of medians. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import msgspec

from shared.errors import DrapeError
from shared.events import (
    DevServerReady,
    Event,
    FilesSynced,
    InstallCompleted,
    InstallSkipped,
    PreviewReady,
    VmCleaned,
    VmDestroyed,
    VmReleased,
    VmRetired,
)
from shared.ids import PreviewId

Mode = Literal["cold", "store", "restored", "preserved", "resident", "hot", "edit"]
MODES: tuple[Mode, ...] = get_args(Mode)
TAKES: dict[Mode, str] = {
    "cold": "completed",
    "store": "completed",
    "restored": "restored",
    "preserved": "preserved",
    "resident": "resident",
}
"""How a preview of this mode comes by its dependencies: `completed`, an install ran; else why none was needed."""


class Run(msgspec.Struct, frozen=True):
    """Seconds of one preview. `took`: as in `TAKES`. `own_s`: `total_s` less the package manager's time and the dev
    server's, from its spawn to its answer; `own_steps`: the same by step. `restore_s`: of kept dependencies."""

    took: str
    total_s: float
    own_s: float
    steps: dict[str, float]
    own_steps: dict[str, float]
    restore_s: float = 0.0


class Pair(msgspec.Struct, frozen=True):
    """Seconds of the same work, by hand and with us."""

    bare_s: float
    ours_s: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One mode. All numbers are medians but `p95_s` and `bare_p95_s`; None where there is no such number.

    `runs`: 0 where the mode could not be measured, and `note` says why. `ratio`: total over bare, of each run. `own_s`:
    see `Run`; of `hot` and `edit` it is total less bare. `restore_ratio`: the restore alone over the bare install.
    """

    mode: Mode
    runs: int
    bare_s: float | None = None
    total_s: float | None = None
    ratio: float | None = None
    own_s: float | None = None
    bare_p95_s: float | None = None
    p95_s: float | None = None
    restore_ratio: float | None = None
    steps: dict[str, float] = {}
    own_steps: dict[str, float] = {}
    note: str = ""


def read_run(events: Iterable[Event], preview_id: PreviewId, attempt: int) -> Run:
    """One attempt's run, from its events. Raises `DrapeError` where it never was ready."""
    took, install_s, boot_s, restore_s = "", 0.0, 0.0, 0.0
    ready: PreviewReady | None = None
    for event in events:
        if getattr(event, "preview_id", "") != preview_id or getattr(event, "attempt", 0) != attempt:
            continue
        match event:
            case FilesSynced(restored=restored) if restored:
                restore_s = event.restore_s
            case InstallCompleted():
                took, install_s = "completed", install_s + event.install_s
            case InstallSkipped(reason=reason):
                took = reason
            case DevServerReady() if ready is None:
                boot_s = event.boot_s
            case PreviewReady() if ready is None:
                ready = event
            case _:
                pass
    if ready is None:
        raise DrapeError("bench_no_ready", "The log has no PreviewReady for the run.")
    foreign = {"installing": install_s, "waiting_server": boot_s}
    own = {step: round(seconds - foreign.get(step, 0.0), 4) for step, seconds in ready.steps.items()}
    return Run(took, ready.total_s, round(ready.total_s - install_s - boot_s, 4), ready.steps, own, restore_s)


def kept_of(events: Iterable[Event], preview_id: PreviewId) -> bool | None:
    """Whether the VM that this preview released last was kept; None as long as that is not known."""
    vm_id, kept = "", None
    for event in events:
        match event:
            case VmReleased() if event.preview_id == preview_id:
                vm_id, kept = event.vm_id, None if event.keep else False
            case VmCleaned() if event.vm_id == vm_id:
                kept = True
            case VmRetired() | VmDestroyed() if event.vm_id == vm_id and kept is None:
                kept = False
            case _:
                pass
    return kept


def verify(mode: Mode, run: Run, *, installs: bool) -> None:
    """Raises `DrapeError` where the run was of another mode than its row says. `installs`: the project has something to
    install."""
    wanted = TAKES[mode] if installs else "no_dependencies"
    if run.took != wanted:
        raise DrapeError(
            "bench_wrong_mode",
            f"A run for {mode!r} was none: the log says {run.took or 'nothing'!r} of its dependencies, not {wanted!r}.",
            "Its install may not be kept: install scripts of its own and file: dependencies are reasons.",
        )


def preview_row(
    mode: Mode, pairs: Sequence[tuple[Pair, Run]], *, install_s: float | None = None, note: str = ""
) -> Row:
    """Previews beside their bare cost. `install_s`: the bare install's median, where a restore stood in for it."""
    runs = [run for _, run in pairs]
    restore_s = _median(run.restore_s for run in runs)
    return msgspec.structs.replace(
        pair_row(mode, [pair for pair, _ in pairs], note),
        own_s=_median(run.own_s for run in runs),
        restore_ratio=round(restore_s / install_s, 4) if install_s else None,
        steps=_medians([run.steps for run in runs]),
        own_steps=_medians([run.own_steps for run in runs]),
    )


def pair_row(mode: Mode, pairs: Sequence[Pair], note: str = "") -> Row:
    """Repeated work beside its bare cost."""
    bare, ours = [pair.bare_s for pair in pairs], [pair.ours_s for pair in pairs]
    return Row(
        mode=mode,
        runs=len(pairs),
        bare_s=_median(bare),
        total_s=_median(ours),
        ratio=_median(mine / by_hand for mine, by_hand in zip(ours, bare, strict=True)),
        own_s=round(_median(ours) - _median(bare), 4),
        bare_p95_s=percentile(bare, 95),
        p95_s=percentile(ours, 95),
        note=note,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Of at least one value, between its neighbours."""
    if len(values) == 1:
        return round(values[0], 4)
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 4)


def table(rows: Sequence[Row]) -> list[str]:
    """For a terminal, with what its columns mean."""
    lines = ["mode        runs   bare_s  total_s   ratio    own_s    p95_s"]
    for row in rows:
        if not row.runs:
            lines.append(f"{row.mode:<10} {row.runs:>5}  {row.note}")
            continue
        lines.append(
            f"{row.mode:<10} {row.runs:>5} {_number(row.bare_s)} {_number(row.total_s)} {_number(row.ratio, 7, 2)}"
            f" {_number(row.own_s)} {_number(row.p95_s)}"
        )
        if row.steps:
            lines.append("  by step: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in row.steps.items()))
        if row.own_steps:
            own = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in row.own_steps.items())
            lines.append(f"  own share by step: {own}")
        if row.restore_ratio is not None:
            lines.append(f"  the restore alone / the bare install: {row.restore_ratio:.3f}")
        if row.note:
            lines.append(f"  {row.note}")
    return [*lines, *LEGEND]


LEGEND = (
    "bare: by hand in a plain folder. cold: an install with an empty npm cache, and the dev script to the first 200;",
    "  store, restored: the same with a warm npm cache; preserved: the dev script alone, where it is installed;",
    "  hot: a GET of the dev server; edit: from saving a file to seeing the change.",
    "own_s: total less the package manager's time and the dev server's from spawn to answer; hot, edit: total less bare.",
)


def _number(value: float | None, width: int = 8, digits: int = 3) -> str:
    return f"{value:>{width}.{digits}f}" if value is not None else " " * width


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {step: _median(run.get(step, 0.0) for run in runs) for step in runs[0]}
