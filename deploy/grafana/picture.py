"""A dashboard as a picture, from what Prometheus answers: `python -m deploy.grafana.picture URL [BOARD] [--minutes N] [--out F]`.

For documents, where there is no Grafana: panels lie where Grafana puts them, figures have their thresholds' colours. Panels that
ask Tempo or Loki are left out. BOARD: `overview` unless said. FILE: .png or .svg, `docs/metrics.png` unless said.
"""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.bench.plot import check_writable
from deploy.grafana.board import dashboard
from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import COLUMNS, Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 120
TIMEOUT_S = 30.0
RATE_INTERVAL = "1m"
INCHES_A_COLUMN, INCHES_A_ROW = 0.62, 0.34
COLORS = {"green": "#56a64b", "orange": "#ff9830", "red": "#e02f44", "blue": "#3274d9"}
PALETTE = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300")
Line = tuple[str, list[float], list[float]]
"""Name, times (seconds before the end, so negative), values."""


def _ask(url: str, expr: str, end: float, seconds: float) -> list[Json]:
    step = max(1.0, seconds / POINTS)
    fields = {"query": expr, "start": end - seconds, "end": end, "step": step}
    asked = urllib.request.Request(  # noqa: S310 the address is the caller's
        f"{url.rstrip('/')}/api/v1/query_range", urllib.parse.urlencode(fields).encode()
    )
    with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310
        found: list[Json] = json.load(answer)["data"]["result"]
    return found


def _lines(url: str, panel: Json, end: float, seconds: float) -> list[Line]:
    lines: list[Line] = []
    for target in panel["targets"]:
        expr = re.sub(r"\$(\w+)", lambda found: RATE_INTERVAL if found[1].startswith("__") else ".+", target["expr"])
        for series in _ask(url, expr, end, seconds):
            labels: dict[str, str] = series["metric"]
            name = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), target["legendFormat"])  # noqa: B023
            points = [(float(at) - end, float(value)) for at, value in series["values"]]
            known = [(at, value) for at, value in points if math.isfinite(value)]
            if known:
                lines.append((name.strip(), [at for at, _ in known], [value for _, value in known]))
    return sorted(lines)


def formatted(value: float, unit: str) -> str:
    """A figure as a person reads it: 0.125 is `12.5 %` of `percentunit`, 0.0421 is `42 ms` of `s`."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit == "bytes":
        for name in ("B", "KiB", "MiB"):
            if value < 1024:
                return f"{value:.3g} {name}"
            value /= 1024
        return f"{value:.3g} GiB"
    return f"{value:.4g}/s" if unit == "cps" else f"{value:.4g}"


def color_of(value: float, steps: Sequence[Json]) -> str:
    """The colour of the highest step that the value reaches."""
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLORS[reached[-1]]


def _stat(axes: "Axes", panel: Json, lines: Sequence[Line]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    steps = defaults["thresholds"]["steps"]
    axes.set_axis_off()
    text, color = "none yet", "#888888"
    if lines:
        value = lines[0][2][-1]
        text, color = formatted(value, defaults["unit"]), color_of(value, steps)
    axes.add_patch(_rectangle(color, 1.0 if len(steps) > 1 else 0.15))
    shade = "white" if len(steps) > 1 else color
    axes.text(
        0.5, 0.45, text, ha="center", va="center", fontsize=17, color=shade, weight="bold", transform=axes.transAxes
    )


def _rectangle(color: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 1, 1, color=color, alpha=alpha, linewidth=0)


def _series(axes: "Axes", panel: Json, lines: Sequence[Line]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    fixed = {
        each["matcher"]["options"]: COLORS[each["properties"][0]["value"]["fixedColor"]]
        for each in panel["fieldConfig"]["overrides"]
    }
    below: dict[float, float] = {}
    for at, (name, times, values) in enumerate(lines):
        color = fixed.get(name, PALETTE[at % len(PALETTE)])
        bottoms = [below.get(moment, 0.0) if stacked else 0.0 for moment in times]
        tops = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
        axes.plot(times, tops, color=color, linewidth=1, label=name)
        axes.fill_between(times, bottoms, tops, color=color, alpha=0.5 if stacked else 0.08, linewidth=0)
        below |= dict(zip(times, tops, strict=True)) if stacked else {}
    axes.set_ylim(0, None if any(any(values) for _, _, values in lines) else 1)
    axes.yaxis.set_major_formatter(lambda value, _at: formatted(value, defaults["unit"]))
    if any(name for name, _, _ in lines):
        axes.legend(loc="upper left", fontsize=6, frameon=False, ncols=2)


def _timeline(axes: "Axes", panel: Json, lines: Sequence[Line]) -> None:
    states = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    for at, (_, times, values) in enumerate(lines):
        colors = [COLORS[states[f"{value:g}"]["color"]] for value in values]
        axes.scatter(times, [at] * len(times), c=colors, marker="s", s=14, linewidths=0)
    axes.set_yticks(range(len(lines)), [name for name, _, _ in lines])
    axes.set_ylim(-0.6, max(0.6, len(lines) - 0.4))


DRAWN: dict[str, Callable[["Axes", Json, Sequence[Line]], None]] = {
    "stat": _stat,
    "timeseries": _series,
    "state-timeline": _timeline,
}


def draw(url: str, uid: str, minutes: float, path: Path) -> None:
    """Write the picture of the last minutes. Raises `Invalid` where the file can't be written, `OSError` where nobody answers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    board = dashboard(next(each for each in BOARDS if each.uid == uid))
    shown = [panel for panel in board["panels"] if panel["type"] in DRAWN]
    end, rows = time.time(), max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown)
    figure = Figure(figsize=(COLUMNS * INCHES_A_COLUMN, (rows + 1) * INCHES_A_ROW))
    figure.text(0.01, 1 - 0.6 / (rows + 1), board["title"], fontsize=13, weight="bold")
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 7}):
        for panel in shown:
            place = panel["gridPos"]
            axes = figure.add_axes(_box(place, rows, flat=panel["type"] == "stat"))
            axes.set_title(panel["title"], fontsize=8, loc="left")
            axes.tick_params(labelsize=6, length=2)
            axes.spines[["top", "right"]].set_visible(False)
            DRAWN[panel["type"]](axes, panel, _lines(url, panel, end, 60 * minutes))
            if panel["type"] != "stat":
                axes.set_xlim(-60 * minutes, 0)
                axes.xaxis.set_major_locator(MultipleLocator(60 * max(1, math.ceil(minutes / 5))))
                axes.xaxis.set_major_formatter(lambda value, _at: f"{value / 60:.0f} min")
        figure.savefig(path, dpi=90)


def _box(place: Json, rows: int, *, flat: bool) -> tuple[float, float, float, float]:
    """Left, bottom, width and height, as parts of the figure, with room for what stands beside the axes."""
    left, right = (0.1, 0.1) if flat else (1.3, 0.3)
    above, under = 0.9, 0.1 if flat else 0.9
    high = rows + 1
    bottom = rows - place["y"] - place["h"] + under
    return (
        (place["x"] + left) / COLUMNS,
        bottom / high,
        (place["w"] - left - right) / COLUMNS,
        (place["h"] - above - under) / high,
    )


def main() -> int:
    """0: written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", help="Prometheus, such as http://127.0.0.1:9090")
    parser.add_argument("board", nargs="?", default="overview", choices=[each.uid for each in BOARDS])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path("docs/metrics.png"))
    given = parser.parse_args()
    check_writable(given.out)
    draw(given.url, given.board, given.minutes, given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
