"""`env`: a project's environment variables. Values go in, and never come out again."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import require_running
from deploy.cli.projects import find_project
from shared.errors import Invalid

PROJECT = click.argument("project")


@click.group()
def env() -> None:
    """A project's environment variables; PROJECT is its id, its name or its folder."""


@asynccontextmanager
async def _project(wanted: str) -> AsyncIterator[tuple[Api, str]]:
    running = require_running()
    async with aiohttp.ClientSession() as session:
        api = Api(running.gateway, session)
        yield api, (await find_project(api, wanted))["project_id"]


@env.command("set")
@PROJECT
@click.argument("variables", nargs=-1, required=True, metavar="KEY[=VALUE]...")
@command
async def set_(output: Output, project: str, variables: tuple[str, ...]) -> int:
    """Set variables. KEY alone takes the value that it has here. What runs with others begins anew."""
    values = parse_variables(variables)
    async with _project(project) as (api, project_id):
        answer = await api.call("PATCH", f"/api/projects/{project_id}/env", json=values)
    _tell(output, answer)
    return 0


@env.command()
@PROJECT
@click.argument("names", nargs=-1, required=True, metavar="KEY...")
@command
async def unset(output: Output, project: str, names: tuple[str, ...]) -> int:
    """Remove variables."""
    async with _project(project) as (api, project_id):
        answer = await api.call("PATCH", f"/api/projects/{project_id}/env", json=dict.fromkeys(names))
    _tell(output, answer)
    return 0


@env.command("list")
@PROJECT
@command
async def list_(output: Output, project: str) -> int:
    """The variables' names."""
    async with _project(project) as (api, project_id):
        answer = await api.call("GET", f"/api/projects/{project_id}/env")
    _tell(output, answer)
    return 0


def _tell(output: Output, answer: dict[str, Any]) -> None:
    names = answer["names"]
    output.result({"type": "env", "names": names}, "\n".join(names) or "There are none.")


def parse_variables(given: Sequence[str]) -> dict[str, str]:
    """{name: value} of KEY=VALUE, and of KEY where this process has it. Raises `Invalid`, never with a value in it."""
    values: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not separator:
            if name not in os.environ:
                raise Invalid("bad_variable", f"{name} has no value here.", "Write KEY=VALUE.")
            value = os.environ[name]
        values[name] = value
    return values


COMMANDS = (env,)
