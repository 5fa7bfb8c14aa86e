"""Writes what Grafana and Prometheus load: `python -m deploy.grafana.render [--check]`.

With `--check` nothing is written: exit code 1 where a file is not what would be written now.
"""

import json
import sys
from pathlib import Path

import yaml

from deploy.grafana import alerts
from deploy.grafana.board import dashboard
from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Json

HERE = Path(__file__).parent
DASHBOARDS = HERE / "dashboards"
MADE = "# Made by `python -m deploy.grafana.render` from deploy/grafana/alerts.py.\n"


class _Dumper(yaml.SafeDumper):
    """Long expressions stay on their line, and nothing is an alias."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _yaml(tree: Json) -> str:
    return MADE + yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True)


def rendered() -> dict[Path, str]:
    """Every file with its text."""
    boards = {board.uid: dashboard(board) for board in BOARDS}
    panels = {uid: {each["title"]: each["id"] for each in tree["panels"]} for uid, tree in boards.items()}
    return {
        **{DASHBOARDS / f"{uid}.json": json.dumps(tree, indent=1) + "\n" for uid, tree in boards.items()},
        HERE / "alerts" / "drape.yaml": _yaml(alerts.grafana_rules(panels)),
        HERE / "prometheus-rules.yaml": _yaml(alerts.prometheus_rules()),
    }


def main() -> int:
    """0: written, or as it should be."""
    files = rendered()
    if "--check" in sys.argv[1:]:
        there = {path for folder in (DASHBOARDS, HERE / "alerts") for path in folder.glob("*")}
        stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
        stale += sorted(there - files.keys())
        for path in stale:
            print(
                f"{path.relative_to(HERE.parents[1])} is stale: run `python -m deploy.grafana.render`", file=sys.stderr
            )
        return 1 if stale else 0
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
