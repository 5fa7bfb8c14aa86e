"""`drape bench preview` used wrongly: refused at once, with the reason, before anything is started."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from deploy.cli.bench import bench


def bench_preview(*arguments: str | Path) -> Result:
    return CliRunner().invoke(bench, ["preview", *map(str, arguments), "--json"])


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--runs", "51"], ["--mode", "lukewarm"]])
def test_wrong_use(tmp_path: Path, wrong: list[str]) -> None:
    asked = bench_preview(tmp_path, *wrong)
    assert asked.exit_code == 2
    assert wrong[0] in asked.output


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    asked = bench_preview(tmp_path / "nowhere")
    assert asked.exit_code == 1
    assert msgspec.json.decode(asked.output)["code"] == "no_such_folder"


def test_a_folder_with_no_project(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to show")
    asked = bench_preview(tmp_path)
    assert asked.exit_code == 1
    assert msgspec.json.decode(asked.output)["type"] == "error"


@pytest.mark.parametrize(("plot", "code"), [("gone/bench.svg", "plot_unwritable"), ("bench.gif", "plot_kind")])
def test_a_picture_that_could_not_be_written(tmp_path: Path, plot: str, code: str) -> None:
    asked = bench_preview(tmp_path, "--plot", tmp_path / plot)
    assert asked.exit_code == 1
    assert msgspec.json.decode(asked.output)["code"] == code
