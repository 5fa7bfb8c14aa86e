"""Grafana's panels as dictionaries, in the shape that its own types have (tests check them against those types)."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Json = dict[str, Any]

PROMETHEUS: Json = {"type": "prometheus", "uid": "prometheus"}
TEMPO: Json = {"type": "tempo", "uid": "tempo"}
LOKI: Json = {"type": "loki", "uid": "loki"}
COLUMNS = 24
"""Of Grafana's grid."""
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
Steps = Sequence[tuple[str, float | None]]
PLAIN: Steps = ((BLUE, None),)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question to Prometheus. `instant`: asked for now only, as a figure needs it; `exemplars`: with the traces behind it."""

    expr: str
    legend: str = ""
    instant: bool = False
    exemplars: bool = False
    heatmap: bool = False


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """A panel before it has its place: `body` is what Grafana gets beside `id` and `gridPos`."""

    width: int
    height: int
    body: Json


class Row(msgspec.Struct, frozen=True):
    """Panels under one heading, from left to right and then down."""

    title: str
    panels: Sequence[Panel]


def above(orange: float, red: float) -> Steps:
    """Fine below `orange`, bad from `red` on."""
    return ((GREEN, None), (ORANGE, orange), (RED, red))


def below(orange: float, red: float) -> Steps:
    """Bad below `red`, fine from `orange` on."""
    return ((RED, None), (ORANGE, red), (GREEN, orange))


def target(query: Query, ref: str) -> Json:
    """A query as a panel has it."""
    return {
        "refId": ref,
        "datasource": PROMETHEUS,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": not query.instant,
        "instant": query.instant,
        "exemplar": query.exemplars,
        "format": "heatmap" if query.heatmap else "time_series",
    }


def _targets(queries: Sequence[Query]) -> list[Json]:
    return [target(query, chr(ord("A") + at)) for at, query in enumerate(queries)]


def _defaults(unit: str, steps: Steps, decimals: int | None, **more: Any) -> Json:
    found: Json = {
        "unit": unit,
        "thresholds": {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]},
        **more,
    }
    if decimals is not None:
        found["decimals"] = decimals
    return found


def link(title: str, url: str) -> Json:
    """From a panel to where one looks next."""
    return {
        "title": title,
        "url": url,
        "type": "link",
        "icon": "external link",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": True,
        "keepTime": True,
    }


def to_board(uid: str, title: str) -> Json:
    """A link to another dashboard, with the same time and variables."""
    return link(title, f"/d/drape-{uid}")


def _panel(kind: str, title: str, description: str, size: tuple[int, int], links: Sequence[Json], body: Json) -> Panel:
    width, height = size
    shown = {"type": kind, "title": title, "description": description, "datasource": PROMETHEUS, **body}
    if links:
        shown["links"] = list(links)
    return Panel(width=width, height=height, body=shown)


def stat(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    steps: Steps = PLAIN,
    decimals: int | None = None,
    size: tuple[int, int] = (4, 4),
    links: Sequence[Json] = (),
    maximum: float | None = None,
) -> Panel:
    """One figure with its recent course behind it, coloured by its thresholds."""
    more: Json = {"color": {"mode": "thresholds"}, "noValue": "none yet"}
    if maximum is not None:
        more |= {"min": 0, "max": maximum}
    options: Json = {
        "colorMode": "background_solid" if len(steps) > 1 else "value",
        "graphMode": "none" if query.instant else "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "auto",
        "wideLayout": True,
    }
    body = {
        "targets": _targets([query]),
        "fieldConfig": {"defaults": _defaults(unit, steps, decimals, **more), "overrides": []},
        "options": options,
    }
    return _panel("stat", title, description, size, links, body)


def _legend(calcs: Sequence[str]) -> Json:
    return {
        "calcs": list(calcs),
        "displayMode": "table" if calcs else "list",
        "placement": "bottom",
        "showLegend": True,
    }


def series(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    steps: Steps = PLAIN,
    stacked: bool = False,
    bars: bool = False,
    colors: Mapping[str, str] | None = None,
    calcs: Sequence[str] = (),
    size: tuple[int, int] = (12, 8),
    links: Sequence[Json] = (),
    maximum: float | None = None,
) -> Panel:
    """Lines over time; a threshold is a dashed line. `colors`: of series, by name."""
    custom: Json = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if bars else (25 if stacked else 8),
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": 60_000,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if len(steps) > 1 else "off"},
        "axisSoftMin": 0,
    }
    more: Json = {"color": {"mode": "palette-classic"}, "custom": custom, "min": 0}
    if maximum is not None:
        more["max"] = maximum
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for name, color in (colors or {}).items()
    ]
    body = {
        "targets": _targets(queries),
        "fieldConfig": {"defaults": _defaults(unit, steps, None, **more), "overrides": overrides},
        "options": {"legend": _legend(calcs), "tooltip": {"mode": "multi", "sort": "desc"}},
    }
    return _panel("timeseries", title, description, size, links, body)


def ranking(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    steps: Steps = PLAIN,
    size: tuple[int, int] = (12, 8),
    links: Sequence[Json] = (),
) -> Panel:
    """One bar for each of a few things, the figure beside it."""
    options: Json = {
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "left",
        "sizing": "auto",
        "minVizHeight": 16,
        "minVizWidth": 8,
        "maxVizHeight": 28,
        "showUnfilled": True,
        "orientation": "horizontal",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    more: Json = {"color": {"mode": "thresholds"}, "min": 0, "noValue": "none yet"}
    body = {
        "targets": _targets([query]),
        "fieldConfig": {"defaults": _defaults(unit, steps, None, **more), "overrides": []},
        "options": options,
    }
    return _panel("bargauge", title, description, size, links, body)


def heatmap(title: str, description: str, unit: str, query: Query, *, size: tuple[int, int] = (12, 8)) -> Panel:
    """How often each duration came, over time; a dot is an exemplar and leads to its trace."""
    options: Json = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Blues",
            "scale": "exponential",
            "exponent": 0.5,
            "fill": "dark-blue",
            "steps": 64,
            "reverse": False,
        },
        "exemplars": {"color": "rgba(255,120,10,0.8)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "yAxis": {"unit": unit, "axisPlacement": "left", "reverse": False},
    }
    custom = {"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}}
    body = {
        "targets": _targets([query]),
        "fieldConfig": {"defaults": _defaults(unit, PLAIN, None, custom=custom), "overrides": []},
        "options": options,
    }
    return _panel("heatmap", title, description, size, (), body)


def timeline(
    title: str,
    description: str,
    query: Query,
    states: Mapping[str, tuple[str, str]],
    *,
    size: tuple[int, int] = (24, 6),
    links: Sequence[Json] = (),
) -> Panel:
    """When each of a few things was in which state. `states`: value to text and colour."""
    mapped = {
        value: {"text": text, "color": color, "index": at} for at, (value, (text, color)) in enumerate(states.items())
    }
    options: Json = {
        "alignValue": "left",
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "never",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    more: Json = {
        "custom": {"fillOpacity": 80, "lineWidth": 0},
        "mappings": [{"type": "value", "options": mapped}],
        "noValue": "none yet",
    }
    body = {
        "targets": _targets([query]),
        "fieldConfig": {"defaults": _defaults("short", PLAIN, None, **more), "overrides": []},
        "options": options,
    }
    return _panel("state-timeline", title, description, size, links, body)


def traces(title: str, description: str, query: str, *, size: tuple[int, int] = (12, 8)) -> Panel:
    """Traces that Tempo finds, newest first; a click opens one."""
    asked = {
        "refId": "A",
        "datasource": TEMPO,
        "queryType": "traceql",
        "query": query,
        "filters": [],
        "limit": 20,
        "tableType": "traces",
    }
    body: Json = {
        "datasource": TEMPO,
        "targets": [asked],
        "fieldConfig": {"defaults": _defaults("short", PLAIN, None), "overrides": []},
        "options": {"cellHeight": "sm", "frameIndex": 0, "showHeader": True},
    }
    return _panel("table", title, description, size, (), body)


def logs(title: str, description: str, query: str, *, size: tuple[int, int] = (12, 8)) -> Panel:
    """Lines that Loki finds; each leads to its trace."""
    body: Json = {
        "datasource": LOKI,
        "targets": [{"refId": "A", "datasource": LOKI, "expr": query, "queryType": "range", "maxLines": 200}],
        "fieldConfig": {"defaults": _defaults("short", PLAIN, None), "overrides": []},
        "options": {
            "dedupStrategy": "none",
            "enableLogDetails": True,
            "prettifyLogMessage": False,
            "showCommonLabels": False,
            "showLabels": False,
            "showLogContextToggle": True,
            "showTime": True,
            "sortOrder": "Descending",
            "wrapLogMessage": True,
        },
    }
    return _panel("logs", title, description, size, (), body)
