"""deploy/runbook.md names every alert, and nothing that does not exist. tests/live/test_runbook.py runs its commands."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from deploy.cli.main import MODULES, cli
from shared.events import EVENT_TYPES
from shared.settings import ELSEWHERE
from tests.live.operating import RUNBOOK, runbook
from tests.parsing import parsed

ROOT = Path(__file__).parents[2]
UNTRIED_MAX = 7
DRAPE_WORDS = re.compile(r"`drape ([a-z]+)")


def _text() -> str:
    return RUNBOOK.read_text("utf-8")


def _alerts() -> Iterator[str]:
    """Constants of telemetry's deciding rooms that hold their own name in small letters, of two words at least."""
    for room in ("decide.py", "model.py", "conditions.py"):
        path = ROOT / "services" / "telemetry" / room
        for node in parsed(path).body if path.is_file() else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                name, value = ast.unparse(node.targets[0]), node.value.value
                if isinstance(value, str) and "_" in value and value == name.lower():
                    yield value


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    """Under a heading that is its name, so that an alert rule can link to it; with all that somebody woken needs."""
    alerts = set(_alerts())
    part = _text().split("\n# Alerts\n")[1].split("\n# Situations\n")[0]
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", part, re.M | re.S))

    assert len(alerts) >= 3
    assert set(sections) == alerts
    for name, section in sections.items():
        assert {"**Means**", "**How bad**", "**Look**", "**Do**", "**Over**"} <= set(
            re.findall(r"\*\*[^*]+\*\*", section)
        ), name
        assert "```sh" in section, name


def test_every_drape_command_is_in_the_runbook_and_the_reverse() -> None:
    """Commands and their options, as click knows them."""
    text = _text()
    named = {line.split()[1] for block in runbook() for line in block.commands if line.startswith("drape ")}
    named |= {name for name in DRAPE_WORDS.findall(text) if name not in ("command",)}

    assert set(MODULES) - named == set()
    assert named - set(MODULES) == set()


def test_options_of_drape_commands_exist() -> None:
    """What the blocks give to each command is an option or a subcommand of it."""
    context = click.Context(cli)
    for line in (line for block in runbook() for line in block.commands if line.startswith("drape ")):
        words = shlex.split(line)[1:]
        command: click.Command | None = cli.get_command(context, words[0])
        if isinstance(command, click.Group) and len(words) > 1 and not words[1].startswith("-"):
            command = command.get_command(context, words[1])
        assert command is not None, line
        known = {option for each in command.params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_events_that_are_named_are_events() -> None:
    """After `--type`, and in subjects."""
    commands = " ".join(line for block in runbook() for line in block.commands)
    named = set(re.findall(r"--type (\w+)|drape\.evt\.[^ ']*\.([A-Z]\w+)", commands))

    assert len(named) > 5
    assert {name for pair in named for name in pair if name} <= set(EVENT_TYPES)


def test_few_commands_are_not_tried_and_each_says_why() -> None:
    """An excuse is one sentence at least."""
    untried = [block.untried for block in runbook() if block.untried]

    assert len(untried) <= UNTRIED_MAX
    assert all(len(each.split()) >= 6 for each in untried), untried
    assert sum(len(block.commands) for block in runbook() if not block.untried) > 80


def test_links_and_settings_lead_somewhere() -> None:
    """Headings that are linked to, files, and variables."""
    text = _text()
    headings = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^#+ (.+)$", text, re.M)}
    streams = {"DRAPE_EVENTS", "DRAPE_TIMERS", "DRAPE_PARKED", "DRAPE_LOGS"}
    settings = set(re.findall(r"DRAPE_[A-Z_]+", text)) - streams
    known = set(re.findall(r"`(DRAPE_[A-Z0-9_]+)`", (ROOT / "docs" / "settings.md").read_text("utf-8"))) | set(
        ELSEWHERE
    )

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (RUNBOOK.parent / target).exists(), target
    assert settings <= known


def test_codes_that_are_named_are_codes() -> None:
    """Words in backquotes of the alerts' lists that look like a code are in the source."""
    part = _text().split("\n# Alerts\n")[1]
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", part))
    sources = "".join(
        path.read_text("utf-8")
        for folder in ("services", "shared", "deploy")
        for kind in ("*.py", "*.toml")
        for path in (ROOT / folder).rglob(kind)
    )

    assert {each for each in named if not re.search(rf"\b{each}\b", sources)} == set()
