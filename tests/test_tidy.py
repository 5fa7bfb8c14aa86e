"""The code keeps its shape: small files and functions, the same rooms in each service, nothing of one machine in it."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.events import EVENT_TYPES
from tests.parsing import parsed

ROOT = Path(__file__).parents[1]
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 450
LONG_FILES: dict[str, int] = {}
"""Files that may be longer, and how long: the loop that all services run reads best in one piece."""
ROOMS = {
    "__init__.py",
    "__main__.py",
    "adapters",
    "app.py",
    "config.py",
    "decide.py",
    "react.py",
    "state.py",
    "views.py",
}
MORE_ROOMS = {
    "pool": {
        "deps.py",
        "effects.py",
        "keeping.py",
        "measures.py",
        "placing.py",
        "ports.py",
        "providers.py",
        "reaping.py",
        "reconciling.py",
        "shapes.py",
        "sizing.py",
        "suspending.py",
        "warming.py",
    },
    "orchestrator": {
        "effects.py",
        "idling.py",
        "jobs.py",
        "measures.py",
        "model.py",
        "ports.py",
        "preparing.py",
        "rules",
        "syncing.py",
        "telling.py",
        "watching.py",
    },
    "gateway": {"effects.py", "erasing.py", "web"},
    "telemetry": {"effects.py", "rows.py"},
}
"""What a service has beside the rooms that all have."""
POLLING = {
    "tests/chaos/pacing.py",
    "tests/deploy/waiting.py",
    "tests/pool/contract_home.py",
    "tests/shared/agent/test_static_server.py",
    "tests/shared/agent/world.py",
}
"""Helpers that look again and again until a condition holds, each with a bound."""
VIRTUAL = "tests/journeys/"
"""Journeys run on a virtual clock: their sleeps pass no real time."""
PAST_IRREGULAR = {"Frozen", "Lost", "Withdrawn"}
NOT_PARTICIPLES = {"Ready"}
"""States that are reached, and end an event's name as an adjective."""
TEXT_BYTES_MAX = 2 * 1024 * 1024


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


TRACKED = _tracked()
SOURCES = [path for path in TRACKED if path.suffix == ".py"]
TREES = {path: parsed(path) for path in SOURCES}


def _own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, the docstring left out."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_functions_are_short() -> None:
    """No function is longer than a screen; docstrings do not count."""
    long = [
        f"{_name(path)}:{function.lineno} {function.name}: {_own_lines(function)}"
        for path, tree in TREES.items()
        for function in _functions(tree)
        if _own_lines(function) > FUNCTION_LINES_MAX
    ]

    assert long == []


def test_files_are_short() -> None:
    """No file is longer than one purpose takes; the exceptions are named, and still needed."""
    lengths = {_name(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}

    assert {name: n for name, n in lengths.items() if n > LONG_FILES.get(name, FILE_LINES_MAX)} == {}
    assert [name for name in LONG_FILES if lengths[name] <= FILE_LINES_MAX] == []


def test_no_exception_is_swallowed_in_silence() -> None:
    """No handler consists of `pass` or `...` alone."""
    silent = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and all(
                isinstance(each, ast.Pass) or (isinstance(each, ast.Expr) and ast.unparse(each) == "...")
                for each in node.body
            ):
                silent.append(f"{_name(path)}:{node.lineno}")

    assert silent == []


def _sleeps(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("asyncio.sleep", "time.sleep", "sleep"):
            zero = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if not zero:
                yield node


def test_tests_wait_for_conditions() -> None:
    """No test sleeps real time; the helpers that poll are named, and still do."""
    sleeping = {
        f"{_name(path)}:{call.lineno}"
        for path, tree in TREES.items()
        if _name(path).startswith("tests/") and not _name(path).startswith(VIRTUAL)
        for call in _sleeps(tree)
    }

    assert {place for place in sleeping if place.rpartition(":")[0] not in POLLING} == set()
    assert {place.rpartition(":")[0] for place in sleeping} == POLLING


@pytest.mark.parametrize("event", sorted(EVENT_TYPES))
def test_events_are_past_facts(event: str) -> None:
    """An event's name ends in a past participle, or in a state that was reached."""
    last = re.findall(r"[A-Z][a-z]+", event)[-1]

    assert last.endswith("ed") or last in PAST_IRREGULAR | NOT_PARTICIPLES


@pytest.mark.parametrize("service", sorted(MORE_ROOMS))
def test_services_have_the_same_rooms(service: str) -> None:
    """Each service has every common room, and beside them only those that are named here."""
    folder = ROOT / "services" / service
    names = {path.relative_to(folder).parts[0] for path in TRACKED if path.is_relative_to(folder)}

    assert names == ROOMS | MORE_ROOMS[service]


def test_every_service_is_looked_at() -> None:
    """A fifth service would have to be named above."""
    services = {path.relative_to(ROOT).parts[1] for path in TRACKED if _name(path).startswith("services/")}

    assert services - {"__init__.py"} == set(MORE_ROOMS)


MACHINE = re.compile(
    r"(?<![\w.$}/])/(?:root|work|workspace|Users|home/[a-z])(?:/[\w.-]+|\b(?=[\"'`\s]))"  # a folder of one machine
    r"|--(?:extra-)?index-url|--find-links|--trusted-host"
)
ALLOWED = {
    "services/pool/adapters/sandbox.py": {"/root"},
    "tests/live/test_sandbox.py": {"/root"},
    "tests/test_tidy.py": None,
}
"""Folders that are named as such, by file; None: whatever it names."""


def _texts() -> Iterator[tuple[str, str]]:
    for path in TRACKED:
        if path.stat().st_size > TEXT_BYTES_MAX:
            continue
        try:
            yield _name(path), path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture


def test_nothing_of_one_machine_is_kept() -> None:
    """No tracked text names a folder of the machine that it was written on, or an index that packages came from."""
    found = []
    for name, text in _texts():
        allowed = ALLOWED.get(name, set())
        if allowed is None:
            continue
        found += [f"{name}: {each}" for each in MACHINE.findall(text) if each not in allowed]

    assert found == []


def test_locks_name_no_registry() -> None:
    """Neither requirements nor npm's locks say where packages come from."""
    for name, text in _texts():
        if re.fullmatch(r"requirements.*\.lock", name):
            assert re.findall(r"https?://\S+", text) == [], name
        if name.endswith("package-lock.json"):
            assert re.findall(r'"resolved":\s+"https?:', text) == [], name
