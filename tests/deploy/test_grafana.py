"""Dashboards, alert rules and what Grafana is provisioned with: rendered, whole, and about metrics that exist."""

import ast
import re
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import render
from deploy.grafana.alerts import RULES
from tests.deploy import dashboards
from tests.deploy.prometheus import filled, promtool
from tests.parsing import parsed

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
BOARDS = {path.stem: dashboards.load(path) for path in dashboards.FILES}
INSTRUMENT = re.compile(r"create_(?:observable_)?(?P<kind>counter|gauge|histogram|up_down_counter)")
SUFFIX = {"s": "_seconds", "By": "_bytes", "ms": "_milliseconds", "1": "_ratio"}
PER = {"h": "_per_hour", "s": "_per_second"}
METRIC = re.compile(r"\b((?:drape|messaging|http_server)_\w+)\b")
LABELS = re.compile(
    r"\{[^{}]*\}|(?:by|on|without) \([^()]*\)",
)


def _panels() -> Iterator[tuple[str, Json]]:
    for name, board in BOARDS.items():
        yield from ((name, panel) for panel in dashboards.panels(board))


def _yaml(name: str) -> Json:
    loaded: Json = yaml.safe_load((dashboards.FOLDER / name).read_text("utf-8"))
    return loaded


# --- what exists ----------------------------------------------------------------------------------------------------


def _unit_suffix(unit: str, kind: str) -> str:
    """What Prometheus appends to a name that comes by OTLP (a unit in braces is a remark and goes)."""
    unit = re.sub(r"\{[^}]*\}", "", unit)
    whole, _, per = unit.partition("/")
    if whole == "1" and kind != "gauge":
        whole = ""
    return (SUFFIX[whole] if whole else "") + (PER[per] if per else "") + ("_total" if kind == "counter" else "")


def _told() -> set[str]:
    """The names that our instruments have in Prometheus."""
    found = set()
    for folder in ("shared", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(parsed(path)):
                called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
                made = INSTRUMENT.fullmatch(called)
                if made is None or not isinstance(node, ast.Call):
                    continue
                name = ast.literal_eval(node.args[0]).replace(".", "_")
                units = [ast.unparse(each.value) for each in node.keywords if each.arg == "unit"]
                # A unit with a currency in it is put together: `{{{currency}}}/h`.
                unit = re.sub(r"\{+\w+\}+", "{}", units[0].removeprefix("f").strip("'\"")) if units else ""
                name += _unit_suffix(unit, made["kind"])
                found |= (
                    {f"{name}_{part}" for part in ("bucket", "count", "sum")} if made["kind"] == "histogram" else {name}
                )
    return found


def _named(expr: str) -> set[str]:
    """The metrics of a query: names that are no label's."""
    return set(METRIC.findall(LABELS.sub(" ", expr)))


def test_metrics_exist() -> None:
    """Each that is asked for is one of our instruments' as Prometheus names it."""
    told = _told()
    asked = [*dashboards.dashboards_queries(), *dashboards.rules_queries(), *dashboards.values_of_variables()]
    named = {(each.where, name) for each in asked for name in _named(each.expr)}

    assert {"drape_preview_outcomes_total", "drape_pool_vms", "drape_vm_boot_duration_seconds_bucket"} <= told
    assert sorted((where, name) for where, name in named if name not in told) == []


def test_what_is_told_is_shown() -> None:
    """Each instrument of the services is on some dashboard, but for two that say less than what is there."""
    shown = {name for each in dashboards.dashboards_queries() for name in _named(each.expr)}
    stems = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    left = {re.sub(r"_(bucket|count|sum)$", "", name) for name in _told()} - stems

    assert left == {"drape_projection_position"}  # `drape_projection_lag` says it better


# --- dashboards -----------------------------------------------------------------------------------------------------


def test_files_are_fresh(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in the repository is what the code would write now."""
    monkeypatch.setattr(sys, "argv", ["render", "--check"])

    assert render.main() == 0, capsys.readouterr().err


def test_stale_files_are_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One that differs by a character, and one that nothing writes any more."""
    texts = render.rendered()
    gone = dashboards.FOLDER / "dashboards" / "overview.json"
    changed = dashboards.FOLDER / "dashboards" / "pool.json"
    monkeypatch.setattr(
        render,
        "rendered",
        lambda: {path: text + " " * (path == changed) for path, text in texts.items() if path != gone},
    )
    monkeypatch.setattr(sys, "argv", ["render", "--check"])

    assert render.main() == 1
    said = capsys.readouterr().err
    assert "overview.json is stale" in said
    assert "pool.json is stale" in said
    assert said.count("\n") == 2


def test_five_dashboards_are_their_own() -> None:
    """Each has an id and a title of its own, and within it each panel."""
    assert BOARDS.keys() == {"overview", "pool", "previews", "event_log", "cost"}
    assert {name: board["uid"] for name, board in BOARDS.items()} == {name: f"drape-{name}" for name in BOARDS}
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)
    for name, board in BOARDS.items():
        ids = [panel["id"] for panel in board["panels"]]
        titles = [panel["title"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), name
        assert len(set(titles)) == len(titles), name


def test_panels_have_their_places() -> None:
    """All lie within the grid, none on another, and none floats above a hole."""
    for name, board in BOARDS.items():
        places = [(panel["title"], panel["gridPos"]) for panel in board["panels"]]
        for (one, a), (other, b) in combinations(places, 2):
            beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
            below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
            assert beside or below, f"{name}: {one} lies on {other}"
        assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for _, place in places), name


def test_panels_can_be_read() -> None:
    """Each says what it shows and in which unit; its series have names; its thresholds rise."""
    for name, panel in _panels():
        where = f"{name}: {panel['title']}"
        defaults = panel["fieldConfig"]["defaults"]
        assert re.fullmatch(r"[^a-z].+[.]", panel["description"], re.DOTALL), where
        assert defaults["unit"], where
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert steps[0] is None, where
        assert steps[1:] == sorted(steps[1:]), where
        several = [each for each in panel["targets"] if re.search(r"\bby \((?!le\))", each.get("expr", "")[:60])]
        assert all("{{" in each["legendFormat"] for each in several if panel["type"] != "stat"), where


def test_what_is_linked_is_there() -> None:
    """Data sources, dashboards, variables that are used, and the traces behind histograms."""
    sources = {each["uid"]: each["type"] for each in _yaml("datasources.yaml")["datasources"]}
    prometheus = next(each for each in _yaml("datasources.yaml")["datasources"] if each["uid"] == "prometheus")
    uids = {board["uid"] for board in BOARDS.values()}

    assert {each["datasourceUid"] for each in prometheus["jsonData"]["exemplarTraceIdDestinations"]} == {"tempo"}
    for name, panel in _panels():
        used = [panel["datasource"], *(each["datasource"] for each in panel["targets"])]
        assert all(sources[each["uid"]] == each["type"] for each in used), f"{name}: {panel['title']}"
        pages = [each["url"].removeprefix("/d/") for each in panel.get("links", ()) if each["url"].startswith("/d/")]
        assert set(pages) <= uids, f"{name}: {panel['title']}"
    for name, board in BOARDS.items():
        variables = {each["name"] for each in board["templating"]["list"]}
        used_in = {each.expr for each in dashboards.dashboards_queries() if each.where.startswith(f"{name}: ")}
        mentioned = {found for expr in used_in for found in re.findall(r"\$(\w+)", expr)} - {"__rate_interval"}
        assert mentioned == variables, name
    assert any(target.get("exemplar") for _, panel in _panels() for target in panel["targets"])


def test_queries_are_promql(tmp_path: Path) -> None:
    """Prometheus' own parser takes each, its variables filled in."""
    asked = [*dashboards.dashboards_queries(), *dashboards.rules_queries(), *dashboards.values_of_variables()]
    rules = [{"record": f"asked:{at}", "expr": filled(each.expr)} for at, each in enumerate(asked)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}), "utf-8")

    assert f"{len(asked)} rules found" in promtool("check", "rules", "--lint=none", path)


# --- alert rules ----------------------------------------------------------------------------------------------------


def test_every_alert_has_its_rule() -> None:
    """The names are those of Drape's own alerts, and one for when Drape is silent; each leads to a panel and the runbook."""
    assert {rule.name for rule in RULES} == {
        "error_rate",
        "pool_empty",
        "vm_boots_failing",
        "replay_lag",
        "reactions_parked",
        "install_slow",
        "cost_over_budget",
        "vm_leaks",
        "metrics_silent",
    }
    for rule in RULES:
        assert rule.annotations["runbook_url"] == f"deploy/runbook.md#{rule.name}"


def test_grafanas_rules_ask_the_same() -> None:
    """Each is Prometheus' rule in two steps, with a panel that is there; nothing in it is taken for a variable."""
    (group,) = _yaml("alerts/drape.yaml")["groups"]
    panels = {(board["uid"], panel["id"]) for board in BOARDS.values() for panel in dashboards.panels(board)}
    uids = [each["uid"] for each in group["rules"]]

    assert len(set(uids)) == len(RULES)
    for rule, made in zip(RULES, group["rules"], strict=True):
        asked, threshold = made["data"]
        (condition,) = threshold["model"]["conditions"]
        assert (made["title"], made["for"], made["annotations"]) == (rule.name, rule.lasting, rule.annotations)
        assert asked["datasourceUid"] == "prometheus"
        assert rule.condition.value in asked["model"]["expr"]
        assert rule.also is None or rule.also.expr in asked["model"]["expr"]
        assert (condition["evaluator"]["type"], condition["evaluator"]["params"]) == ("gt", [rule.condition.above])
        assert made["condition"] == threshold["refId"] == "B"
        assert threshold["model"]["expression"] == asked["refId"] == "A"
        assert (made["dashboardUid"], made["panelId"]) in panels
    assert "$" not in (dashboards.FOLDER / "alerts" / "drape.yaml").read_text("utf-8")


def test_prometheus_takes_the_rules() -> None:
    """All of them, without a remark."""
    assert f"{len(RULES)} rules found" in promtool(
        "check", "rules", "--lint-fatal", dashboards.FOLDER / "prometheus-rules.yaml"
    )


def test_prometheus_takes_its_configuration() -> None:
    """As compose gives it."""
    promtool("check", "config", "--syntax-only", ROOT / "deploy" / "compose.d" / "prometheus.yaml")


def test_what_comes_twice_is_taken_once() -> None:
    """What health ports tell for autoscalers under a name that dashboards ask for, compose's Prometheus leaves out."""
    (dropped,) = _scraped()["metric_relabel_configs"]
    asked = {name for each in dashboards.dashboards_queries() for name in _named(each.expr)}
    gauges = {
        ast.literal_eval(keyword.value)
        for folder in ("shared", "services")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Gauge"
        for keyword in node.keywords
        if keyword.arg == "name"
    }

    assert gauges & asked
    assert [name for name in gauges & asked if not re.fullmatch(dropped["regex"], name)] == []
    assert dropped["action"] == "drop"


def _scraped() -> Json:
    config = yaml.safe_load((ROOT / "deploy" / "compose.d" / "prometheus.yaml").read_text("utf-8"))
    found: Json = next(each for each in config["scrape_configs"] if each["job_name"] == "drape")
    return found


def test_rules_rise_and_fall() -> None:
    """What each needs to be raised, what does not raise it, and when it is cleared."""
    files = [Path(__file__).with_name(name) for name in ("alert_rules.yaml", "alert_rules_slow.yaml")]
    tests = [test for path in files for test in yaml.safe_load(path.read_text("utf-8"))["tests"]]
    seen = {(case["alertname"], bool(case.get("exp_alerts"))) for test in tests for case in test["alert_rule_test"]}

    assert seen == {(rule.name, raised) for rule in RULES for raised in (True, False)}
    for path in files:
        promtool("test", "rules", path)
