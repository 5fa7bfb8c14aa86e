"""The picture of a bench: whole, and with the figures in it."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from deploy.bench.plot import check_writable, draw
from deploy.bench.rows import Row
from shared.errors import Invalid

OWN_STEPS = {"syncing_files": 0.05, "confirming": 0.061}
ROWS = [
    Row(mode="restored", runs=3, bare_s=4.321, total_s=0.987, ratio=0.23, own_s=0.111, own_steps=OWN_STEPS),
    Row(mode="edit", runs=15, bare_s=0.012, total_s=0.034, ratio=2.83, own_s=0.022),
    Row(mode="hot", runs=0, note="never suspended"),
]


def test_an_svg_has_the_figures_as_text(tmp_path: Path) -> None:
    path = tmp_path / "bench.svg"
    draw(ROWS, path, "bench of it")
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    said = " ".join("".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text"))
    for wanted in ("bench of it", "4.321 s", "0.987 s", "0.034 s", "0.23 of bare", "111 ms", "syncing_files", "edit"):
        assert wanted in said
    assert "hot" not in said


def test_a_png_is_one(tmp_path: Path) -> None:
    path = tmp_path / "bench.PNG"
    draw(ROWS, path, "bench of it")
    raw = path.read_bytes()
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    assert raw.endswith(b"IEND\xaeB`\x82")


def test_without_any_row_there_is_still_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "empty.svg"
    draw([ROWS[2]], path, "nothing measured")
    assert "nothing measured" in path.read_text("utf-8")


@pytest.mark.parametrize(("name", "code"), [("bench.pdf", "plot_kind"), ("missing/bench.svg", "plot_unwritable")])
def test_where_no_picture_can_be_is_said_before_anything_is_measured(tmp_path: Path, name: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_writable(tmp_path / name)
    assert refused.value.code == code
