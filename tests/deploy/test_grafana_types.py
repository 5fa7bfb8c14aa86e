"""Dashboards fit Grafana's own types (`@grafana/schema` of the version that compose runs, by TypeScript), and trace queries Tempo's
own grammar; what does not fit is noticed."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import dashboards

SCHEMA = Path(__file__).parent / "grafana_schema"
MODULES = dashboards.FOLDER.parents[1] / ".tools" / "grafana-schema"
INSTALL_TIMEOUT_S = 120
CHECK_TIMEOUT_S = 150
BAD_TRACEQL = ["{ resource.service.name = }", "{ status = error", 'name = "x"']
Json = dict[str, Any]


def _program(name: str) -> str:
    own = Path(sys.executable).with_name(name)
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


def _modules() -> Path:
    """The packages of the lock file, installed once."""
    lock = SCHEMA / "package-lock.json"
    there = MODULES / "node_modules" / ".package-lock.json"
    if not there.exists() or (MODULES / lock.name).read_bytes() != lock.read_bytes():
        MODULES.mkdir(parents=True, exist_ok=True)
        shutil.copy(SCHEMA / "package.json", MODULES)
        shutil.copy(lock, MODULES)
        done = subprocess.run(
            [_program("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=MODULES,
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_TIMEOUT_S,
        )
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"Grafana's types can't be installed here: {done.stderr.strip().splitlines()[-1:]}")
        assert done.returncode == 0, done.stderr
    return MODULES


def _panel(board: Json, kind: str) -> Json:
    found: Json = next(each for each in board["panels"] if each["type"] == kind)
    return found


def _wrong() -> dict[str, Json]:
    """A good dashboard with one mistake each, of the kinds that Grafana would pass over or show an empty panel for."""
    overview = dashboards.load(dashboards.FOLDER / "dashboards" / "overview.json")
    wrong = {name: copy.deepcopy(overview) for name in ("option", "value", "unit", "kind", "place", "query", "schema")}
    _panel(wrong["option"], "stat")["options"]["colourMode"] = "value"
    _panel(wrong["value"], "timeseries")["options"]["legend"]["displayMode"] = "tables"
    _panel(wrong["unit"], "timeseries")["fieldConfig"]["defaults"]["units"] = "s"
    _panel(wrong["kind"], "stat")["type"] = "singlestat"
    del _panel(wrong["place"], "logs")["gridPos"]["w"]
    _panel(wrong["query"], "stat")["targets"][0]["expression"] = "up"
    del wrong["schema"]["schemaVersion"]
    return wrong


@pytest.fixture(scope="module")
def told() -> Json:
    """What is wrong with each dashboard and each trace query, good and bad: TypeScript is started once."""
    boards = {path.stem: dashboards.load(path) for path in dashboards.FILES}
    asked = {
        "dashboards": {**boards, **{f"wrong-{name}": board for name, board in _wrong().items()}},
        "traceql": [each.expr for each in dashboards.trace_queries()] + BAD_TRACEQL,
    }
    done = subprocess.run(
        [_program("node"), SCHEMA / "check.mjs", _modules()],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=CHECK_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    answer: Json = json.loads(done.stdout)
    return answer


def test_dashboards_fit_grafanas_types(told: Json) -> None:
    """Each panel's options are those of its type, each query those of its data source."""
    names = {path.stem for path in dashboards.FILES}

    assert {name: told["dashboards"][name] for name in names} == {name: [] for name in names}


def test_mistakes_are_noticed(told: Json) -> None:
    """An option, a value, a field, a panel's type, a place, a query's field, the version: none goes through."""
    assert [name for name in _wrong() if not told["dashboards"][f"wrong-{name}"]] == []


def test_trace_queries_are_traceql(told: Json) -> None:
    """By the grammar that Grafana's own editor has; and it knows what is none."""
    queries = dashboards.trace_queries()

    assert queries
    assert told["traceql"] == [[]] * len(queries) + [*told["traceql"][len(queries) :]]
    assert all(told["traceql"][len(queries) :])


def test_types_are_of_the_grafana_that_runs() -> None:
    """The package has the version of the image."""
    compose = yaml.safe_load((dashboards.FOLDER.parent / "compose.yaml").read_text("utf-8"))
    image = re.search(r"grafana/grafana:([\d.]+)", compose["services"]["grafana"]["image"])
    assert image is not None

    assert json.loads((SCHEMA / "package.json").read_text("utf-8"))["dependencies"]["@grafana/schema"] == image[1]
