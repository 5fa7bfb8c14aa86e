"""What the rendered dashboards and rules ask, for tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from deploy.grafana.alerts import RULES

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
Json = dict[str, Any]


class Asked(msgspec.Struct, frozen=True):
    """One query, and where it stands."""

    where: str
    expr: str
    instant: bool = False


def load(path: Path) -> Json:
    """A dashboard as Grafana reads it."""
    loaded: Json = json.loads(path.read_text("utf-8"))
    return loaded


def panels(board: Json) -> list[Json]:
    """Those that show something: no rows."""
    return [each for each in board["panels"] if each["type"] != "row"]


def _targets(kind: str) -> Iterator[tuple[str, Json]]:
    for path in FILES:
        for panel in panels(load(path)):
            for target in panel["targets"]:
                if target["datasource"]["type"] == kind:
                    yield f"{path.stem}: {panel['title']} ({target['refId']})", target


def dashboards_queries() -> list[Asked]:
    """Every query of every panel and annotation to Prometheus."""
    found = [Asked(where, target["expr"], target["instant"]) for where, target in _targets("prometheus")]
    for path in FILES:
        board = load(path)
        found += [
            Asked(f"{path.stem}: annotation {each['name']}", each["expr"])
            for each in board["annotations"]["list"]
            if each["datasource"]["type"] == "prometheus"
        ]
    return found


def rules_queries() -> list[Asked]:
    """What each alert rule looks at, without its comparison."""
    return [
        Asked(f"alert {rule.name}", condition.value)
        for rule in RULES
        for condition in (rule.condition, rule.also)
        if condition is not None
    ]


def trace_queries() -> list[Asked]:
    """Every query to Tempo."""
    return [Asked(where, target["query"]) for where, target in _targets("tempo")]


def values_of_variables() -> list[Asked]:
    """What each variable is filled from: `metric` and `label` of `label_values`, as a query for its values."""
    found = []
    for path in FILES:
        for each in load(path)["templating"]["list"]:
            metric, _, label = each["query"]["query"].removeprefix("label_values(").rstrip(")").partition(", ")
            found.append(
                Asked(f"{path.stem}: variable {each['name']}", f"count by ({label}) ({metric}{{{label}!=''}})")
            )
    return found
