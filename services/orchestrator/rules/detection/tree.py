"""A project's files as detection sees them: names by folder, the texts that matter, package.json files read once."""

import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec
import yaml

from shared.errors import Invalid

TEXT_BYTES_MAX = 4 * 1024 * 1024
"""Callers give no more than this of a file; what is cut off does not count."""
YAML_CHARS_MAX = 64 * 1024
TOML_CHARS_MAX = 256 * 1024
TOML_DOTS_MAX = 200
"""In a line: reading a key takes time with the cube of its parts."""
SCRIPT_CHARS_MAX = 4_000
LEFT_OUT = frozenset({"node_modules", ".git", ".venv", "venv", "bower_components", ".next", ".nuxt"})

Json = dict[str, Any]


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package.json. `dependencies`: all kinds together, name to range. `broken`: why it can't be read; then it is empty."""

    folder: str
    data: Json = {}
    name: str = ""
    dependencies: dict[str, str] = {}
    scripts: dict[str, str] = {}
    broken: str = ""


class Tree:
    """The files of a project. Folders are named as in `Detection`: "." is the project itself."""

    def __init__(self, paths: Collection[str], texts: Mapping[str, str]) -> None:
        self.paths = frozenset(path for path in paths if usable(path))
        self._texts = texts
        self._folders: dict[str, set[str]] = {}
        for path in self.paths:
            folder, name = split(path)
            self._folders.setdefault(folder, set()).add(name)
        self._packages: dict[str, Package | None] = {}

    def names(self, folder: str) -> Collection[str]:
        """The files directly in this folder."""
        return self._folders.get(folder, ())

    def has(self, folder: str, *names: str) -> str:
        """The first of these files that this folder holds; empty: none."""
        held = self.names(folder)
        return next((name for name in names if join(folder, name) in self.paths or name in held), "")

    def text(self, folder: str, name: str) -> str:
        """The file's text; empty where there is none. What UTF-8 can't carry is replaced."""
        path = join(folder, name)
        if path not in self.paths:
            return ""
        return self._texts.get(path, "").encode("utf-8", "replace").decode().removeprefix("\ufeff")

    def folders_with(self, *names: str) -> Iterator[str]:
        """The folders that hold one of these files, sorted, the project itself first."""
        found = (folder for folder, held in self._folders.items() if not held.isdisjoint(names))
        return iter(sorted(found, key=lambda folder: (folder != ".", folder)))

    def package(self, folder: str) -> Package | None:
        """The folder's package.json; None where it has none."""
        if folder not in self._packages:
            self._packages[folder] = self._read_package(folder) if self.has(folder, "package.json") else None
        return self._packages[folder]

    def _read_package(self, folder: str) -> Package:
        path = join(folder, "package.json")
        try:
            data = parse_package_json(self._texts.get(path, ""), path)
        except Invalid as error:
            return Package(folder=folder, broken=error.message)
        name = data.get("name")
        return Package(
            folder=folder,
            data=data,
            name=name if isinstance(name, str) else "",
            dependencies=_dependencies(data),
            scripts=_scripts(data),
        )


def usable(path: str) -> bool:
    """Whether a file counts: not what tools made, and a name that can be stored."""
    if any(part in LEFT_OUT for part in path.split("/")):
        return False
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return bool(path)


def split(path: str) -> tuple[str, str]:
    """Folder and name."""
    folder, _, name = path.rpartition("/")
    return folder or ".", name


def join(folder: str, name: str) -> str:
    """The path of what is in a folder."""
    return name if folder == "." else f"{folder}/{name}"


def parse_package_json(text: str, path: str = "package.json") -> Json:
    """The object in package.json. Raises `Invalid("bad_package_json")` saying where it breaks."""
    try:
        value = json.loads(text.removeprefix("\ufeff"))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair fits in JSON, but in no event or argv
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        reason = str(error).encode("utf-8", "replace").decode()
        raise Invalid("bad_package_json", f"{path} is not JSON: {reason}.", f"Mend {path}.") from error
    if not isinstance(value, dict):
        raise Invalid("bad_package_json", f"{path} holds a {type(value).__name__}, not an object.", f"Mend {path}.")
    return value


def parse_toml(text: str) -> Json:
    """The tables of a TOML file. Raises ValueError saying why it can't be read."""
    if len(text) > TOML_CHARS_MAX:
        raise ValueError(f"it is longer than {TOML_CHARS_MAX // 1024} KiB")
    if any(line.count(".") > TOML_DOTS_MAX for line in text.splitlines()):
        raise ValueError(f"a line has more than {TOML_DOTS_MAX} dots")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_json(text: str) -> Json:
    """The object in a JSON file, comments and trailing commas allowed; empty where it can't be read."""
    try:
        value = json.loads(_without_comments(text))
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _without_comments(text: str) -> str:
    """The same JSON without what only JSONC allows. Strings are matched first, so that nothing in them is touched."""
    # The closing parts are optional, so that what never ends is passed over in one go.
    string = r'"(?:\\.|[^"\\])*+"?'
    text = re.sub(rf"({string})|//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?", _string_or(" "), text, flags=re.DOTALL)
    return re.sub(rf"({string})|,(?=\s*+[}}\]])", _string_or(""), text, flags=re.DOTALL)


def _string_or(instead: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[1] or instead


def parse_yaml(text: str) -> Any:
    """What a small YAML file holds, every scalar as text; None where it can't be read."""
    try:
        # It makes plain lists, mappings and strings only, and expands no merge keys.
        return yaml.load(text[:YAML_CHARS_MAX], Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return None


def strings(value: object) -> list[str]:
    """The strings in a list from outside; whatever else it is counts as nothing."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def mapping(value: object) -> Json:
    """A mapping from outside; whatever else it is counts as an empty one."""
    return value if isinstance(value, dict) else {}


def _dependencies(data: Json) -> dict[str, str]:
    found: dict[str, str] = {}
    for group in ("devDependencies", "optionalDependencies", "dependencies"):
        for name, version in mapping(data.get(group)).items():
            found[name] = version if isinstance(version, str) else ""
    return found


def _scripts(data: Json) -> dict[str, str]:
    scripts = mapping(data.get("scripts"))
    return {
        name: script.strip()
        for name, script in scripts.items()
        if isinstance(script, str) and script.strip() and len(script) <= SCRIPT_CHARS_MAX
    }
