"""`env`: the variables of a project. They go in and are never shown again."""

import os
import sys

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import require_running
from deploy.cli.projects import find_project
from deploy.local.paths import Home
from shared.errors import Invalid
from shared.project_env import VARIABLES_BYTES_MAX

EFFECT = "It takes effect at the dev server's next start; a preview that runs is restarted."


@click.group()
def env() -> None:
    """The variables of a project: set, unset and list them."""


@env.command("set")
@click.argument("project")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--from-env", is_flag=True, help="Take a KEY without a value from this environment, not standard input.")
@command
async def set_variables(output: Output, project: str, pairs: tuple[str, ...], from_env: bool) -> int:
    """Set variables of PROJECT: its id, its name, or the folder that was shown.

    A KEY without =VALUE is read from standard input, one line each, so that it is in no shell history.
    """
    values = parse_pairs(pairs, from_env=from_env)
    return await _change(output, project, dict(values))


@env.command("unset")
@click.argument("project")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@command
async def unset_variables(output: Output, project: str, keys: tuple[str, ...]) -> int:
    """Take variables of PROJECT away."""
    return await _change(output, project, dict.fromkeys(keys))


@env.command("list")
@click.argument("project")
@command
async def list_variables(output: Output, project: str) -> int:
    """The names of PROJECT's variables; their values are never shown."""
    async with aiohttp.ClientSession() as session:
        api = Api(require_running().gateway, session)
        found = await find_project(api, Home.from_env(), project)
        told = await api.call("GET", f"/api/projects/{found['project_id']}/env")
    output.result({"type": "env", **told}, "\n".join(told["names"]) or "No variables are set.")
    return 0


async def _change(output: Output, project: str, changes: dict[str, str | None]) -> int:
    async with aiohttp.ClientSession() as session:
        api = Api(require_running().gateway, session)
        found = await find_project(api, Home.from_env(), project)
        told = await api.call("PATCH", f"/api/projects/{found['project_id']}/env", json=changes)
    names = ", ".join(told["names"]) or "none"
    output.result({"type": "env", **told, "note": EFFECT}, f"Variables of {found['name']}: {names}. {EFFECT}")
    return 0


def parse_pairs(pairs: tuple[str, ...], *, from_env: bool = False) -> dict[str, str]:
    """KEY=VALUE as {KEY: VALUE}; the value of a bare KEY comes from the environment or from standard input.

    Raises `Invalid` (`env_value_missing`) naming the key.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        values[name] = value if equals else _from_elsewhere(name, from_env)
    return values


def _from_elsewhere(name: str, from_env: bool) -> str:
    if from_env:
        if name not in os.environ:
            raise Invalid("env_value_missing", f"{name} is not set in this environment.", f"Give {name}=VALUE.")
        return os.environ[name]
    if sys.stdin.isatty():
        return str(click.prompt(name, hide_input=True, err=True))
    line = sys.stdin.readline(VARIABLES_BYTES_MAX + 1)
    if not line:
        raise Invalid("env_value_missing", f"Standard input has no value for {name}.", f"Give {name}=VALUE.")
    return line.rstrip("\r\n")


COMMANDS = (env,)
