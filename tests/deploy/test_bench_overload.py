"""`drape bench overload`: its figures from durations, its table, and wrong use."""

from pathlib import Path

import msgspec
from click.testing import CliRunner

from deploy.bench.overload import Figures, row, table
from deploy.cli.bench import bench


def test_a_row_is_medians_and_percentiles_in_milliseconds() -> None:
    """The ratio is of the medians; the 95th of twenty is the nineteenth."""
    quiet = [number / 1000 for number in range(1, 21)]
    flood = [2 * duration_s for duration_s in quiet]
    made = row("api", quiet, flood)
    assert (made.runs, made.quiet_p50_ms, made.quiet_p95_ms) == (20, 10.5, 19.0)
    assert (made.flood_p50_ms, made.flood_p95_ms, made.times) == (21.0, 38.0, 2.0)


def test_the_table_tells_what_the_flood_was_answered() -> None:
    figures = Figures(rows=[row("page", [0.01], [0.03])], answers={"uploads": {"429": 7, "200": 2}})
    lines = table(figures)
    assert "3.00" in lines[1]
    assert lines[-1] == "the flood's uploads: 2 x 200, 7 x 429"


def test_a_folder_with_no_project_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to show")
    asked = CliRunner().invoke(bench, ["overload", str(tmp_path), "--json"])
    assert asked.exit_code == 1
    assert msgspec.json.decode(asked.output)["type"] == "error"
    assert CliRunner().invoke(bench, ["overload", str(tmp_path), "--runs", "0"]).exit_code == 2
