"""`python -m deploy.settings_docs`: writes docs/settings.md from the config Structs and the docstrings of their fields.

`--check` writes nothing and exits 1 when the file is not what it would be. Looks at the Structs that the services have
registered (`SETTINGS` in each `app.py`) and at their sources: no service is started, and no environment is looked at.
"""

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect as types

from deploy.settings import everything
from shared.config_file import place_of
from shared.settings import ELSEWHERE, places

SOURCE = Path(__file__).parents[1]
TARGET = SOURCE / "docs" / "settings.md"
HEAD = """\
# Settings

Made by `python -m deploy.settings_docs` from the config Structs; changes made here are lost.

Every setting is an environment variable that is read once, when the process starts; an empty one counts as not set. It
may also be in a file in TOML that `DRAPE_CONFIG` names (`drape up --config FILE`), under the table and key given here; the
environment goes before the file, the file before the default. All services may read the same file.
A secret may be in a file of its own: `DRAPE_SECRET_FILE` names it for `DRAPE_SECRET`, `secret_file` in the file.
The unit is the end of the name: `_s` seconds, `_bytes` bytes, `_mb` MiB. A value that can't be read stops the service, as does
a table or key that nobody reads; a variable `DRAPE_…` that nobody reads is warned about.
What has several parts is JSON in a variable, a table in the file.
`drape up` passes its environment on to the services that it starts, and sets their addresses itself.
"""


class Setting(msgspec.Struct, frozen=True):
    """One field: its variable, its place in a file, its type and default as the source has them, and its docstring."""

    variable: str
    place: str
    kind: str
    default: str
    meaning: str


def sections() -> dict[str, list[Setting]]:
    """The settings by section, `Every service` first. Raises `ValueError` for a field without a docstring."""
    return {_title(prefix): list(settings_of(kind, prefix)) for prefix, kind in everything().items()}


def _title(prefix: str) -> str:
    return " ".join(place_of(prefix)).capitalize() if prefix else "Every service"


def settings_of(kind: type[msgspec.Struct], prefix: str) -> Iterator[Setting]:
    """The fields of a Struct, in its order; below one that holds Structs, theirs."""
    texts = _sources(kind)
    for place in places(kind, prefix):
        annotation, default, meaning = texts[place.field.name]
        if place.twin:
            meaning += f" Or `{place.variable}_FILE`."
        where = f"[{place.table}] {place.key}"
        yield Setting(place.variable, where, annotation, default, meaning)
        for below in _structs(types.type_info(place.field.type)):
            for name, (annotation, default, meaning) in _sources(below).items():
                yield Setting("", f"[{place.table}.{place.key}.…] {name}", annotation, default, meaning)


def _structs(info: types.Type) -> Iterator[type[msgspec.Struct]]:
    """The Structs that values of this type hold."""
    if isinstance(info, types.StructType):
        yield info.cls
        for field in info.fields:
            yield from _structs(field.type)
    parts = [getattr(info, name, None) for name in ("type", "item_type", "value_type")]
    for each in [*parts, *getattr(info, "types", ())]:
        if isinstance(each, types.Type):
            yield from _structs(each)


def _sources(kind: type[msgspec.Struct]) -> dict[str, tuple[str, str, str]]:
    """Type, default and docstring of each field, as the source has them."""
    tree = ast.parse(Path(inspect.getfile(kind)).read_text("utf-8"))
    [struct] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__]
    found = {}
    for node, after in zip(struct.body, [*struct.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        meaning = _docstring(after)
        if not meaning:
            raise ValueError(f"{struct.name}.{node.target.id} has no docstring")
        default = ast.unparse(node.value) if node.value is not None else "needed"
        found[node.target.id] = (ast.unparse(node.annotation), default, meaning)
    return found


def _docstring(node: ast.stmt | None) -> str:
    """The text, on one line, where the statement is nothing but a text."""
    text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""
    return " ".join(text.split()) if isinstance(text, str) else ""


def text_of(found: dict[str, list[Setting]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for title, settings in found.items():
        rows = [f"## {title}", "", "| Variable | In the file | Default | Type | Meaning |", "|---|---|---|---|---|"]
        rows += [
            f"| {_code(each.variable)} | {_code(each.place)} | {_code(each.default)} | {_code(each.kind)} | {_cell(each.meaning)} |"
            for each in settings
        ]
        parts.append("\n".join(rows) + "\n")
    rows = ["## Read elsewhere", "", "| Variable | By | Meaning |", "|---|---|---|"]
    rows += [f"| `{name}` | {by} | {_cell(meaning)} |" for name, (by, meaning) in ELSEWHERE.items()]
    return "\n".join([*parts, "\n".join(rows) + "\n"])


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


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
