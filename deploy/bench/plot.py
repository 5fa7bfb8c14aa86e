"""The picture of a preview bench: each mode beside its bare cost, and the platform's own share by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.bench.rows import Row
from shared.errors import DrapeError, Invalid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (".png", ".svg")
BARE, OURS = "#b8b8b8", "#2f6fb0"
BAR = 0.38
"""Of the place that a mode has."""


def check_writable(path: Path) -> None:
    """Before anything is measured: raises `Invalid` where the picture could not be written."""
    if path.suffix.lower() not in KINDS:
        raise Invalid("plot_kind", f"{path} is neither .png nor .svg.", "Name the picture so.")
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise Invalid("plot_unwritable", f"{path} can't be written: {error.strerror}.", "Name another file.") from error
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        hint = "Install it beside Drape: .venv/bin/python -m pip install matplotlib"
        raise DrapeError("plot_unavailable", "A picture needs matplotlib, which is not installed.", hint) from error


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the picture; its kind follows from the file's name. Raises `Invalid` where it can't be written."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.runs]
    figure = Figure(figsize=(12, 1.6 + 0.75 * max(2, len(shown))), layout="constrained")
    costs, shares = figure.subplots(1, 2)
    figure.suptitle(title)
    _draw_costs(costs, shown)
    _draw_shares(shares, [row for row in shown if row.own_steps])
    try:
        with mpl.rc_context({"svg.fonttype": "none"}):  # letters stay letters
            figure.savefig(path, dpi=150)
    except OSError as error:
        raise Invalid("plot_unwritable", f"{path} can't be written: {error.strerror}.", "Name another file.") from error


def _draw_costs(axes: "Axes", rows: Sequence[Row]) -> None:
    places = range(len(rows))
    for offset, name, colour, values in (
        (-BAR / 2, "bare", BARE, [row.bare_s or 0.0 for row in rows]),
        (BAR / 2, "with Drape", OURS, [row.total_s or 0.0 for row in rows]),
    ):
        bars = axes.barh([place + offset for place in places], values, BAR, label=name, color=colour)
        axes.bar_label(bars, [f"{value:.3f} s" for value in values], padding=3)
    ratios = [f"{row.mode}\n{row.ratio:.2f} of bare" if row.ratio is not None else row.mode for row in rows]
    axes.set_yticks(list(places), ratios)
    axes.invert_yaxis()
    if rows:
        axes.set_xscale("log")  # an edit and a cold install in one picture
    axes.margins(x=0.25)
    axes.set_xlabel("seconds, medians")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def _draw_shares(axes: "Axes", rows: Sequence[Row]) -> None:
    places = list(range(len(rows)))
    reached = [0.0] * len(rows)
    for step in dict.fromkeys(step for row in rows for step in row.own_steps):
        shares = [max(0.0, 1000 * row.own_steps.get(step, 0.0)) for row in rows]
        axes.barh(places, shares, 2 * BAR, left=reached, label=step)
        reached = [before + share for before, share in zip(reached, shares, strict=True)]
    for place, row in enumerate(rows):
        axes.text(reached[place], place, f" {1000 * (row.own_s or 0.0):.0f} ms", va="center")
    axes.set_yticks(places, [row.mode for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("own share by step, ms")
    if rows:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
