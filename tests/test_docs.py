"""The documents say what the code does: every name that others rely on is written down, and every command exists."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from deploy import settings_docs
from deploy.cli.main import MODULES, cli
from deploy.settings import everything
from shared.commands import COMMAND_TYPES
from shared.events import EVENT_TYPES
from shared.settings import ELSEWHERE, places
from tests.live import choice
from tests.parsing import parsed

ROOT = Path(__file__).parents[1]
SETTING_ROW = re.compile(r"^\| (?:`([A-Z][A-Z0-9_]+)`)? ?\| `([^`]+)` \|", re.MULTILINE)
SYSTEM = {"HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "GATEWAY", "COMPOSE_PROJECT_NAME", "DOCKER_CERT_PATH"}
"""Variables of the machine, which are none of ours to describe, and what a bench tells its own child."""
INSTRUMENT = re.compile(r"create_(?:observable_)?(?:counter|gauge|histogram|up_down_counter)")


def _text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _words(name: str) -> set[str]:
    """Everything in a document that is a name: words with dots and underscores in them kept whole."""
    return set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[a-z_]+)*", _text(name)))


def _metrics() -> Iterator[str]:
    for folder in ("shared", "services", "deploy"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(parsed(path)):
                called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
                if isinstance(node, ast.Call) and INSTRUMENT.fullmatch(called):
                    assert isinstance(node.args[0], ast.Constant), f"{path}: the instrument's name is not written out"
                    yield str(node.args[0].value)
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Gauge":
                    [name] = [each.value for each in node.keywords if each.arg == "name"]
                    assert isinstance(name, ast.Constant), f"{path}: the gauge's name is not written out"
                    yield str(name.value)


def _commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    assert None not in found.values()
    modules = {importlib.import_module(f"deploy.cli.{module}") for module in MODULES.values()}
    assert sorted(found) == sorted(str(each.name) for module in modules for each in module.COMMANDS)
    return {name: each for name, each in found.items() if each is not None}


def test_every_event_is_described() -> None:
    """ARCHITECTURE.md names each event that can be in the log."""
    assert set(EVENT_TYPES) - _words("ARCHITECTURE.md") == set()


def test_every_command_is_described() -> None:
    """ARCHITECTURE.md names each command that a service takes."""
    assert {kind.__name__ for kind in COMMAND_TYPES} - _words("ARCHITECTURE.md") == set()


def test_every_metric_is_described() -> None:
    """ARCHITECTURE.md names each instrument that is made anywhere."""
    metrics = set(_metrics())

    assert metrics
    assert metrics - _words("ARCHITECTURE.md") == set()


def test_settings_page_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/settings.md is what `python -m deploy.settings_docs` would write now."""
    monkeypatch.setattr(sys, "argv", ["settings_docs", "--check"])

    assert settings_docs.main() == 0, "run `python -m deploy.settings_docs`"


def test_stale_settings_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` ends with 1, says what to do, and leaves a page alone that differs by one word."""
    page = tmp_path / "settings.md"
    page.write_text(_text("docs/settings.md").replace("Port to listen on.", "Port."), "utf-8")
    monkeypatch.setattr(settings_docs, "TARGET", page)
    monkeypatch.setattr(sys, "argv", ["settings_docs", "--check"])

    assert settings_docs.main() == 1
    assert "python -m deploy.settings_docs" in capsys.readouterr().err
    assert "| Port. |" in page.read_text("utf-8")


@pytest.mark.parametrize("prefix", sorted(everything()))
def test_every_setting_is_on_its_page(prefix: str) -> None:
    """The page lists each field of each Struct as the environment and the file spell it, with its file if it is a secret, and
    what it is for; and has no other rows."""
    rows = {row[0]: row[1] for row in SETTING_ROW.findall(_text("docs/settings.md")) if row[0]}
    expected = {place.variable: place for place in places(everything()[prefix], prefix)}

    for variable, place in expected.items():
        row = re.search(rf"^\| `{variable}` \|.*", _text("docs/settings.md"), re.MULTILINE)
        assert row is not None, variable
        assert rows[variable] == f"[{place.table}] {place.key}"
        assert (f"`{variable}_FILE`" in row[0]) is place.twin, variable
        assert re.search(r"\| \S[^|]*\|$", row[0]), variable


def test_the_settings_page_has_no_rows_of_its_own() -> None:
    """Each is a field of a Struct, or is said to be read elsewhere."""
    known = {place.variable for prefix, kind in everything().items() for place in places(kind, prefix)}
    rows = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", _text("docs/settings.md"), re.MULTILINE))

    assert rows == known | set(ELSEWHERE)


def _calls() -> Iterator[tuple[Path, ast.Call]]:
    for folder in ("shared", "services", "deploy"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from ((path, node) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))


def test_every_config_is_registered() -> None:
    """What `from_env` reads is in a service's `SETTINGS`, by the same prefix: so it is checked and described."""
    read = {
        str(call.args[1].value): ast.unparse(call.args[0])
        for _, call in _calls()
        if ast.unparse(call.func).endswith("from_env") and len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
    }

    assert read == {prefix: kind.__name__ for prefix, kind in everything().items()}


def _variables_read() -> Iterator[tuple[str, str]]:
    """File and name of each environment variable that is read by its name."""
    for folder in ("shared", "services", "deploy"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                    source, name = node.value, node.slice
                elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
                    source, name = node.func.value, node.args[0]
                    if node.func.attr not in ("get", "pop", "getenv"):
                        continue
                else:
                    continue
                if isinstance(name, ast.Constant) and ast.unparse(source) in ("os.environ", "environ", "env", "os"):
                    yield str(path.relative_to(ROOT)), str(name.value)


def test_every_variable_that_is_read_is_described() -> None:
    """Beside the Structs' own, docs/settings.md has those that are read by their names; the system's are named here."""
    page = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", _text("docs/settings.md")))
    read = set(_variables_read())

    assert {(path, name) for path, name in read if name not in page | SYSTEM} == set()
    assert SYSTEM - {name for _, name in read} == set()


def test_settings_that_documents_name_exist() -> None:
    """A `DRAPE_…` in README.md or ARCHITECTURE.md is a setting, a stream or a bucket of ours."""
    known = set(re.findall(r"`(DRAPE_\w+)`", _text("docs/settings.md"))) | {
        *("DRAPE_EVENTS", "DRAPE_TIMERS", "DRAPE_LOGS", "DRAPE_PARKED"),
        *("DRAPE_POOL_", "DRAPE_ORCHESTRATOR_", "DRAPE_GATEWAY_", "DRAPE_TELEMETRY_", "DRAPE_HEALTH_", "DRAPE_"),
        *("DRAPE_TELEMETRY_ALERT_", "DRAPE_TELEMETRY_NOTIFY_"),
        choice.SETTING,
    }
    named = set(re.findall(r"\bDRAPE_\w*", _text("README.md") + _text("ARCHITECTURE.md")))

    assert named - known == set()


def test_make_targets_exist() -> None:
    """Each `make TARGET` that a document names is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", _text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", _text("README.md") + _text("ARCHITECTURE.md"), re.MULTILINE))

    assert {"demo", "test", "check"} <= named
    assert named - targets == set()


def test_drape_commands_exist() -> None:
    """Each `drape …` in a document is a command, its options are that command's, and no command is left out."""
    commands = _commands()
    named = set()
    for document in ("README.md", "ARCHITECTURE.md"):
        for line in re.findall(r"`drape ([a-z][^`]*)`", _text(document)):
            name, *rest = line.split()
            command = commands[name]
            if isinstance(command, click.Group) and (rest or not command.invoke_without_command):
                command = command.commands[rest[0]]
            options = {option for each in command.params for option in each.opts}
            assert {word for word in rest if word.startswith("-")} <= options, line
            named.add(name)

    assert {name for name, each in commands.items() if not each.hidden} - named == set()


def test_links_lead_somewhere() -> None:
    """Each link to a file of the repository finds it, and each link to a heading finds that heading."""
    for document in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)]+)\)", _text(document)):
            if target.startswith("https://"):
                continue
            path, _, heading = target.partition("#")
            file = path or document
            assert (ROOT / file).is_file(), target
            headings = (
                {line.lstrip("# ").lower().replace(" ", "-") for line in re.findall(r"^#+ .*", _text(file), re.M)}
                if heading
                else set()
            )
            assert not heading or heading in headings, target


def test_dependencies_have_a_reason() -> None:
    """ARCHITECTURE.md gives each runtime dependency of pyproject.toml a line, and names no other."""
    block = re.search(r"^dependencies = \[(.*?)^\]", _text("pyproject.toml"), re.MULTILINE | re.DOTALL)
    assert block is not None
    declared = set(re.findall(r'"([a-z0-9-]+)', block[1]))
    section = _text("ARCHITECTURE.md").split("\n## Dependencies\n")[1].split("\n## ")[0]

    assert set(re.findall(r"^\| `([a-z0-9-]+)` \| \S", section, re.MULTILINE)) == declared
