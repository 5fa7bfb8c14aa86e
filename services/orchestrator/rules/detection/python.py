"""Python projects: which framework, its app object, and how a virtual environment is made for it."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping

import msgspec

from services.orchestrator.rules.detection.tree import Json, Tree, join, mapping, parse_toml, strings
from services.orchestrator.rules.frameworks import FRAMEWORKS, Framework

ENTRY_FILES = (
    "app.py", "main.py", "server.py", "wsgi.py", "asgi.py", "application.py", "api.py", "run.py", "index.py", "streamlit_app.py",
    "Home.py", "app/main.py", "app/app.py", "app/__init__.py", "src/main.py", "src/app.py", "src/app/main.py", "api/main.py",
    "backend/main.py", "api/index.py",
)  # fmt: skip
"""Where an app object is looked for, in this order."""
MANIFESTS = ("requirements.txt", "pyproject.toml", "Pipfile")
SOURCE_CHARS_MAX = 256 * 1024
REQUIREMENTS_MAX = 500
ENV = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
INSTALL_ENV = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off"}
VENV = '"{python}" -m venv "{home}/venv" && "{home}/venv/bin/python" -m pip install'


class PythonMatch(msgspec.Struct, frozen=True, kw_only=True):
    """A Python app. `command`: its argv, with "{home}" and "{port}"; `requirements`: names to their versions or ranges."""

    framework: Framework
    evidence: str
    command: tuple[str, ...]
    requirements: dict[str, str] = {}


def recognise_python(tree: Tree, folder: str, forced: str = "") -> PythonMatch | None:
    """The Python app in this folder; None where there is none."""
    requirements = _requirements(tree, folder)
    for framework in FRAMEWORKS.values():
        if framework.kind != "python" or (forced and framework.slug != forced):
            continue
        found = _match(tree, folder, framework, requirements)
        if found is not None:
            return found
    return None


def _match(tree: Tree, folder: str, framework: Framework, requirements: Mapping[str, str]) -> PythonMatch | None:
    config = tree.has(folder, *framework.config)
    if framework.config and not config:
        return None
    file, name = _entry(tree, folder, framework)
    named = next((each for each in framework.dependencies if each in requirements), "")
    if not config and not file and not named:
        return None
    if framework.source and not file:
        if framework.slug != "flask":
            return None  # nothing says what to run
        file, name = next((each for each in ENTRY_FILES if join(folder, each) in tree.paths), "app.py"), ""
    if config:
        evidence = join(folder, config)
    else:
        evidence = f"{named} in the requirements, {join(folder, file)}" if named else join(folder, file)
    return PythonMatch(
        framework=framework,
        evidence=evidence,
        command=tuple(_filled(word, file, name) for word in framework.command),
        requirements=dict(requirements),
    )


def _entry(tree: Tree, folder: str, framework: Framework) -> tuple[str, str]:
    """The file that makes the app, and the name of the app object in it."""
    if not framework.source:
        return "", ""
    manifest = tree.has(folder, *MANIFESTS)
    for file in ENTRY_FILES:
        if "/" in file and not manifest:
            continue  # without requirements here, that folder is the project
        parent, _, base = join(folder, file).rpartition("/")
        text = tree.text(parent or ".", base)[:SOURCE_CHARS_MAX]
        found = re.search(framework.source, text, flags=re.MULTILINE)
        if found:
            return file, found[1]
    return "", ""


def _filled(word: str, file: str, name: str) -> str:
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    app = f"{module}:{name}" if name else module
    return word.replace("{file}", file).replace("{app}", app)


def python_install(tree: Tree, folder: str, match: PythonMatch) -> tuple[str, ...]:
    """One line for the shell: a virtual environment in the VM's home, and the requirements in it."""
    if "requirements.txt" in tree.names(folder):
        wanted = ["-r", "requirements.txt"]
    else:
        wanted = [_pip_word(name, version) for name, version in match.requirements.items()]
    names = match.requirements
    extra = [
        *match.framework.dependencies[:1],
        *([match.framework.needs_package] if match.framework.needs_package else ()),
    ]
    wanted += [name for name in extra if name not in names]
    line = " ".join(shlex.quote(word) for word in wanted)
    return ("sh", "-c", f"{VENV} {line}")


def python_fingerprint(tree: Tree, folder: str, command: tuple[str, ...]) -> str:
    """SHA-256 over the install and every text that it reads."""
    texts = [(path, tree.text(*_split(path))) for path in sorted(_requirement_files(tree, folder))]
    return hashlib.sha256(json.dumps([command, texts]).encode()).hexdigest()


def _requirement_files(tree: Tree, folder: str) -> Iterator[str]:
    for place in (folder, join(folder, "requirements")):
        for name in tree.names(place):
            if name in MANIFESTS or re.fullmatch(r"(requirements.*|constraints.*|base|dev|local)\.txt", name):
                yield join(place, name)


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder or ".", name


def _requirements(tree: Tree, folder: str) -> dict[str, str]:
    """What the project asks for, by name in lower case."""
    found = _from_requirements(tree, folder)
    if not found:
        found = _from_pyproject(_toml(tree.text(folder, "pyproject.toml"))) or _from_pipfile(
            _toml(tree.text(folder, "Pipfile"))
        )
    return dict(list(found.items())[:REQUIREMENTS_MAX])


def _from_requirements(tree: Tree, folder: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(_requirement_files(tree, folder)):
        if path.endswith(".txt"):
            for line in tree.text(*_split(path)).splitlines()[:REQUIREMENTS_MAX]:
                _add(found, line.partition("#")[0])
    return found


def _from_pyproject(data: Json) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in strings(mapping(data.get("project")).get("dependencies")):
        _add(found, line)
    poetry = mapping(mapping(mapping(data.get("tool")).get("poetry")).get("dependencies"))
    for name, value in poetry.items():
        version = value if isinstance(value, str) else mapping(value).get("version")
        if name.lower() != "python":
            _add(found, name + _poetry_range(version if isinstance(version, str) else ""))
    return found


def _from_pipfile(data: Json) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in mapping(data.get("packages")).items():
        version = value if isinstance(value, str) else mapping(value).get("version")
        _add(found, name + (version if isinstance(version, str) and version != "*" else ""))
    return found


def _add(found: dict[str, str], line: str) -> None:
    """A requirement such as `fastapi[standard]>=0.110`; what is none (options, addresses) is left out."""
    match = re.fullmatch(
        r"\s*([A-Za-z0-9][A-Za-z0-9._-]{0,100})(\[[\w,. -]{0,200}\])?\s*([=<>!~][^;@\\]{0,200})?(;.{0,300})?",
        line.strip(),
    )
    if match:
        found[match[1].lower()] = (match[2] or "") + (match[3] or "").strip()


def _poetry_range(version: str) -> str:
    """Poetry's `^1.2` and `~1.2` as pip writes them."""
    caret = re.fullmatch(r"\^(\d{1,9})((?:\.\d{1,9}){0,3})", version.strip())
    if caret:
        return f">={caret[1]}{caret[2]},<{int(caret[1]) + 1}" if caret[1] != "0" else f">=0{caret[2]}"
    tilde = re.fullmatch(r"~(\d+(?:\.\d+){1,3})", version.strip())
    if tilde:
        return f"~={tilde[1]}"
    if re.fullmatch(r"\d+(\.\d+){0,3}", version.strip()):
        return f"=={version.strip()}"
    return version if version.strip()[:1] in ("=", "<", ">", "!") else ""


def _pip_word(name: str, version: str) -> str:
    return f"{name}{version}"


def python_version(match: PythonMatch) -> str:
    """The framework's version, as far as the requirements tell."""
    declared = match.requirements.get(match.framework.dependencies[0], "")
    found = re.search(r"(\d{1,9}(?:\.\d{1,9}){0,2})", declared)
    return found[1] if found else ""


def _toml(text: str) -> Json:
    try:
        return mapping(parse_toml(text))
    except ValueError:
        return {}
