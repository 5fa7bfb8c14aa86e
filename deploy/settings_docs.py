"""`python -m deploy.settings_docs`: writes docs/settings.md from the config Structs and the docstrings of their fields.

`--check` writes nothing and exits 1 when the file is not what it would be. Reads sources only: no service is started,
and no environment is looked at.
"""

import argparse
import ast
import sys
from pathlib import Path

import msgspec

SOURCE = Path(__file__).parents[1]
TARGET = SOURCE / "docs" / "settings.md"
COMMON = "shared/settings.py"
HEAD = """\
# Settings

Made by `python -m deploy.settings_docs` from the config Structs; changes made here are lost.

Every setting is an environment variable that is read once, when the process starts; an empty one counts as not set.
The unit is the end of the name: `_s` seconds, `_bytes` bytes, `_mb` MiB. A value that can't be read stops the service.
`drape up` passes its environment on to the services that it starts, and sets their addresses itself.
"""
OTHERS = """\
## Read elsewhere

| Variable | By | Meaning |
|---|---|---|
| `DRAPE_API_TOKENS` | gateway | `token:owner,…`: who may use the API. Needed wherever the gateway listens beyond loopback. |
| `DRAPE_API_TOKEN` | `drape` | The token that the command line sends to a gateway that asks for one. |
| `DRAPE_STREAM_REPLICAS` | provisioning | Copies of each stream, 1 by default; 3 on a cluster of three servers. |
| `FLY_API_TOKEN` | pool, `drape`, `push-image` | Fly's API token, where `DRAPE_POOL_FLY_TOKEN_FILE` names no file. |
| `DRAPE_FLY_OPENAPI` | tests | A copy of the document that Fly publishes of its API; the fake is then held to that one. |
| `DRAPE_CHROMIUM` | tests | The Chromium of the browser tests; else the first one on `PATH`. |
"""


class Setting(msgspec.Struct, frozen=True):
    """One field: its variable, its type and default as the source has them, and its docstring."""

    variable: str
    kind: str
    default: str
    meaning: str


def sections(root: Path = SOURCE) -> dict[str, list[Setting]]:
    """The settings by section, `Every service` first. Raises `ValueError` for a field without a docstring."""
    found = {"Every service": settings_in(root / COMMON, "")}
    for path in sorted((root / "services").glob("*/config.py")):
        service = path.parent.name
        found[service.capitalize()] = settings_in(path, f"DRAPE_{service.upper()}_")
    found["Pool, on Fly machines"] = settings_in(root / "services/pool/adapters/fly_config.py", "DRAPE_POOL_FLY_")
    return found


def settings_in(path: Path, prefix: str) -> list[Setting]:
    """The fields of the Structs of one file, in its order."""
    structs = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    return [setting for struct in structs for setting in _fields(struct, prefix)]


def _fields(struct: ast.ClassDef, prefix: str) -> list[Setting]:
    settings = []
    for node, after in zip(struct.body, [*struct.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            continue
        meaning = _docstring(after)
        if not meaning:
            raise ValueError(f"{struct.name}.{node.target.id} has no docstring")
        variable = f"{prefix}{node.target.id}".upper()
        settings.append(Setting(variable, ast.unparse(node.annotation), ast.unparse(node.value), meaning))
    return settings


def _docstring(node: ast.stmt | None) -> str:
    """The text, on one line, where the statement is nothing but a text."""
    text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""
    return " ".join(text.split()) if isinstance(text, str) else ""


def text_of(found: dict[str, list[Setting]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for title, settings in found.items():
        rows = [f"## {title}", "", "| Variable | Default | Type | Meaning |", "|---|---|---|---|"]
        rows += [
            f"| `{each.variable}` | `{_cell(each.default)}` | `{_cell(each.kind)}` | {_cell(each.meaning)} |"
            for each in settings
        ]
        parts.append("\n".join(rows) + "\n")
    return "\n".join([*parts, OTHERS])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the page, or with `--check` compare it. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.settings_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file is stale")
    fresh = text_of(sections())
    if parser.parse_args().check:
        if TARGET.is_file() and TARGET.read_text("utf-8") == fresh:
            return 0
        print("docs/settings.md is stale: run `python -m deploy.settings_docs`.", file=sys.stderr)
        return 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(fresh, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
