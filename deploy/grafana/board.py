"""A dashboard: rows of panels laid out on Grafana's grid, variables, links to the other dashboards, and alerts as annotations."""

from collections.abc import Sequence

import msgspec

from deploy.grafana.panels import COLUMNS, PROMETHEUS, Json, Row

SCHEMA_VERSION = 40
"""Of the dashboards' JSON, as the Grafana in compose.yaml writes it; newer ones migrate it themselves."""
TAG = "drape"
GRAFANA: Json = {"type": "grafana", "uid": "-- Grafana --"}


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """What one may narrow a dashboard to: the values that `label` has in `metric`."""

    name: str
    label: str
    metric: str
    title: str


SERVICE = Variable(
    name="service", label="service_name", metric="messaging_process_duration_seconds_count", title="Service"
)
POOL = Variable(name="pool", label="drape_pool", metric="drape_pool_target", title="Pool")
FRAMEWORK = Variable(
    name="framework", label="drape_framework", metric="drape_preview_outcomes_total", title="Framework"
)


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """A dashboard. `uid` is its file's name and, after `drape-`, its address."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()
    since: str = "now-1h"


def dashboard(board: Board) -> Json:
    """What Grafana loads."""
    return {
        "uid": f"drape-{board.uid}",
        "title": f"Drape: {board.title}",
        "description": board.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": board.since, "to": "now"},
        "timezone": "browser",
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m", "15m"]},
        "links": [_others()],
        "annotations": {"list": [_built_in(), _alerts()]},
        "templating": {"list": [_variable(each) for each in board.variables]},
        "panels": _placed(board.rows),
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    """Every panel with an id and a place: each row of panels as high as its highest."""
    found: list[Json] = []
    top = 0
    for row in rows:
        found.append(
            {
                "id": len(found) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
                "panels": [],
            }
        )
        top += 1
        left = highest = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, highest = top + highest, 0, 0
            place = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            found.append({"id": len(found) + 1, "gridPos": place, **panel.body})
            left, highest = left + panel.width, max(highest, panel.height)
        top += highest
    return found


def _variable(variable: Variable) -> Json:
    query = f"label_values({variable.metric}, {variable.label})"
    return {
        "name": variable.name,
        "label": variable.title,
        "type": "query",
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": "values", "qryType": 5},
        "current": {"text": ["All"], "value": ["$__all"]},
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "options": [],
    }


def _others() -> Json:
    return {
        "title": "Drape",
        "type": "dashboards",
        "tags": [TAG],
        "asDropdown": True,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "The other dashboards",
    }


def _built_in() -> Json:
    return {
        "builtIn": 1,
        "name": "Annotations & Alerts",
        "type": "dashboard",
        "datasource": GRAFANA,
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
    }


def _alerts() -> Json:
    """While one of Drape's own alerts is raised, every panel shows it."""
    return {
        "name": "Alerts",
        "datasource": PROMETHEUS,
        "enable": True,
        "iconColor": "red",
        "expr": "max by (drape_alert) (drape_alert_raised) > 0",
        "step": "30s",
        "titleFormat": "{{drape_alert}}",
        "textFormat": "raised; see the runbook",
        "tagKeys": "drape_alert",
    }
