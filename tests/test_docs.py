"""The documents say what the code does: every name that others rely on is written down, and every command exists."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from deploy import settings_docs
from deploy.cli.main import MODULES, cli
from shared.commands import COMMAND_TYPES
from shared.events import EVENT_TYPES
from tests.live import choice
from tests.parsing import parsed

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("name", ["pool", "orchestrator", "gateway", "telemetry"])
def test_every_setting_is_on_its_page(name: str) -> None:
    """The page lists each field of the service's config as the environment spells it, with what it is for."""
    module = __import__(f"services.{name}.config", fromlist=["config"])
    config = getattr(module, f"{name.capitalize()}Config")
    page = _text("docs/settings.md")

    for field in msgspec.structs.fields(config):
        assert re.search(rf"\| `DRAPE_{name}_{field.name}` \|.*\| \S.*\|\n", page, re.IGNORECASE), field.name


def test_settings_that_documents_name_exist() -> None:
    """A `DRAPE_…` in README.md or ARCHITECTURE.md is a setting, a stream or a bucket of ours."""
    known = set(re.findall(r"`(DRAPE_\w+)`", _text("docs/settings.md"))) | {
        *("DRAPE_EVENTS", "DRAPE_TIMERS", "DRAPE_LOGS", "DRAPE_PARKED"),
        *("DRAPE_POOL_", "DRAPE_ORCHESTRATOR_", "DRAPE_GATEWAY_", "DRAPE_TELEMETRY_"),
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
            if isinstance(command, click.Group):
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
