"""The frameworks that Drape knows: `frameworks.toml`, checked and by name. Pure: the file is part of the program."""

import re
from importlib.resources import files
from typing import Literal

import msgspec


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that scripts run, and how its dev server is told where to listen.

    `binary`: its name where it differs from the tool's. `dev`: sub-commands that start a dev server; empty: any but
    those in `other`. `needs`: it is a dev server only with one of these switches. `flags`: host and port, with "{port}".
    `own`: options with a value that a script may have and that ours replace; `drop`: switches to leave out.
    """

    binary: str = ""
    dev: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class Hmr(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The socket over which edits are told. `paths`: where to try it; empty: there is none, or none known.

    `protocol`: the sub-protocol to ask for when probing (`vite-ping` answers and closes); empty: none.
    """

    paths: tuple[str, ...] = ()
    protocol: str = ""


class Framework(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one framework is recognised, started and treated.

    Matched by `dependencies` (any), all of `all_dependencies`, none of `excludes`, and by `config` (files that tell of it
    where the dependency is another package's of the workspace). `tools`: names in the table of tools; `command`: what is
    run where no script does. `cache`: folders of the app that the framework itself calls a cache, and checks when it uses
    them; what it merely generates is not among them. `restart_on`: globs below the app of files whose edit the dev server
    does not take in. `holds_first_request`: it listens long before its first page has compiled. `bundler`: serves a page of
    its own, or is a library's tool: a script has to run it. `secondary`: shows parts of an app, counts only where there is
    no other. `docs`: its pages may be in `docs/`. `memory_mb`: what its VM should have, for package manager and dev server.
    `source`, `needs_package`: see the table.
    """

    slug: str
    name: str
    kind: Literal["web", "server", "runtime", "python", "static"] = "web"
    dependencies: tuple[str, ...] = ()
    all_dependencies: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    default_port: int
    ready_path: str = "/"
    holds_first_request: bool = False
    hmr: Hmr = Hmr()
    cache: tuple[str, ...] = ()
    restart_on: tuple[str, ...] = ()
    env: dict[str, str] = {}
    bundler: bool = False
    secondary: bool = False
    docs: bool = False
    source: str = ""
    needs_package: str = ""
    memory_mb: int = 1024


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tools: dict[str, Tool]
    frameworks: list[Framework]


def load(text: str) -> tuple[dict[str, Tool], dict[str, Framework]]:
    """Tools and frameworks by name, in the table's order. Raises `ValueError` for a table that contradicts itself."""
    table = msgspec.toml.decode(text, type=_Table)
    tools = {name: msgspec.structs.replace(tool, binary=tool.binary or name) for name, tool in table.tools.items()}
    frameworks = {each.slug: each for each in table.frameworks}
    if len(frameworks) != len(table.frameworks):
        raise ValueError("a framework is in the table twice")
    for each in table.frameworks:
        unknown = [name for name in each.tools if name not in tools]
        if unknown:
            raise ValueError(f"{each.slug} names tools that are not in the table: {unknown}")
        re.compile(each.source)
    return tools, frameworks


TOOLS, FRAMEWORKS = load((files(__package__) / "frameworks.toml").read_text("utf-8"))
"""By name and by slug."""
