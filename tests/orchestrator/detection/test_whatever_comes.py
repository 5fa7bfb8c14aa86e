"""Rubbish of every kind: an answer or a refusal with a code, soon."""

import json
import time

import msgspec
import pytest
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st

from services.orchestrator.rules.detection import AppChoiceNeeded, Detection, detect, wanted_files
from services.orchestrator.rules.detection.managers import LOCKFILES
from services.orchestrator.rules.frameworks import FRAMEWORKS, TOOLS
from shared.errors import DrapeError
from tests.orchestrator.detection.trees import package

SOON_S = 20.0
"""Of processor time: far more than any of it takes, far less than what a runaway pattern would."""

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just("\ud800")
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
DEPENDENCIES = sorted({name for each in FRAMEWORKS.values() for name in each.dependencies})
WORDS = st.sampled_from(
    [
        *(tool.binary for tool in TOOLS.values()),
        "dev",
        "start",
        "serve",
        "run",
        "node",
        "npm",
        "bun",
        "deno",
        "a.js",
        "--port",
        "-p",
        "'",
        '"',
        "&&",
        "|",
        "&",
        ";",
        "\\",
        "$X",
        "A=1",
        "\n",
        "�",
        " ",
        "--",
        "#",
        "(",
        ">",
        "--watch",
        "{port}",
        "\x00",
    ]
)
SCRIPT = st.lists(WORDS, max_size=8).map(" ".join) | st.text(max_size=30)
SCRIPTS = st.dictionaries(
    st.sampled_from(["dev", "start", "web", "storybook", "predev", "docs:dev"]) | st.text(max_size=5), SCRIPT | JSON
)
NAMES = st.dictionaries(st.sampled_from(DEPENDENCIES) | st.text(max_size=8), st.text(max_size=10) | JSON, max_size=6)
GLOBS = st.lists(
    st.sampled_from(["apps/*", "**", "!apps/web", "packages/**", "{a,b}/*", "", "*" * 50, "[", "../*"]) | JSON,
    max_size=5,
)
VERSIONS = st.sampled_from([">=18", "22", "lts/*", "^", "||", "1 - 2", "9" * 400, ">" * 100, "~>1", "v"]) | st.text(
    max_size=20
)
PACKAGE = st.fixed_dictionaries(
    {},
    optional={
        "name": JSON,
        "scripts": JSON | SCRIPTS,
        "dependencies": JSON | NAMES,
        "devDependencies": JSON | NAMES,
        "main": JSON | st.just("a.js"),
        "module": JSON,
        "packageManager": JSON | st.sampled_from(["pnpm@", "yarn@berry", "npm@x", "bun@1", "pnpm@^9 || 8"]),
        "devEngines": JSON | st.fixed_dictionaries({}, optional={"packageManager": JSON, "runtime": JSON}),
        "engines": JSON | st.dictionaries(st.sampled_from(["node", "pnpm", "npm"]), VERSIONS | JSON),
        "volta": JSON,
        "workspaces": JSON | GLOBS | st.fixed_dictionaries({"packages": GLOBS | JSON}),
    },
).map(json.dumps)
TOML_VALUE = st.sampled_from(
    ['""', '"x"', "7", "false", "[]", '["a"]', "{}", "1.5", '"/a"', '"astro"', '"static"', '"flask"', "nan"]
)
TOML_KEY = st.sampled_from(
    ["framework", "app", "package_manager", "install", "dev", "port", "ready_path", "node", "env", "other"]
)
DRAPE_TOML = st.lists(st.tuples(TOML_KEY, TOML_VALUE), max_size=4).map(
    lambda pairs: "\n".join(" = ".join(pair) for pair in pairs)
)
LOCK_LINE = st.sampled_from(
    [
        "lockfileVersion: '9.0'",
        "importers:",
        "  .:",
        "  next:",
        "    version: 1",
        "__metadata:",
        "  version: 8",
        '"vite@^7":',
        "next@1:",
        '"node_modules/next": {"version": "1"',
        '"next": ["next@1"',
        "{",
        "}",
        "packages:",
        "\t",
        "- a",
        "&a [*a]",
        "<<: *a",
        "? :",
    ]
)
TEXT = (
    st.text(max_size=50) | JSON.map(json.dumps) | PACKAGE | DRAPE_TOML | st.lists(LOCK_LINE, max_size=10).map("\n".join)
)
FOLDERS = ["", "apps/web/", "apps/api/", "packages/ui/", "frontend/", "a/b/c/d/e/f/g/"]
FILES = [
    "package.json", "drape.toml", "pnpm-workspace.yaml", "nx.json", "project.json", ".nvmrc", ".yarnrc.yml", "deno.json",
    "requirements.txt", "pyproject.toml", "Pipfile", "manage.py", "main.py", "app.py", "index.html", "a.js", "vite.config.ts",
    *LOCKFILES,
]  # fmt: skip
PATH = (
    st.builds(str.__add__, st.sampled_from(FOLDERS), st.sampled_from(FILES))
    | st.text(max_size=20)
    | st.just("\ud800/x")
)
RIGHT = {"package.json": PACKAGE, "drape.toml": DRAPE_TOML}


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str]:
    """Mostly files whose texts fit their names, so that rubbish gets past the first check."""
    paths = draw(st.lists(PATH, max_size=8))
    return {path: draw(TEXT | RIGHT.get(path.rpartition("/")[2], TEXT)) for path in paths}


@settings(max_examples=400, deadline=None)
@given_any(
    trees(),
    st.just("") | st.sampled_from(["apps/web", "frontend", "."]) | st.text(max_size=10),
    st.sampled_from([20, 22, 24, 26]),
)
def test_detection_never_crashes(files: dict[str, str], app: str, default: int) -> None:
    """A refusal with a code and a hint, or a detection that can be stored and run."""
    try:
        found = detect(files, {path: files[path] for path in wanted_files(files)}, app=app, default_node=default)
    except AppChoiceNeeded as needed:
        assert len(needed.choices) > 1
        assert msgspec.json.encode(needed.choices)
    except DrapeError as error:
        assert (error.status, bool(error.hint)) == (400, True)
        assert error.message.encode()
    else:
        assert found.dev_command
        assert found.dev_command[0]
        assert msgspec.json.decode(msgspec.json.encode(found), type=Detection) == found
        assert not any("\0" in word for word in (*found.dev_command, *found.install_command))


@given_any(st.lists(st.text(max_size=30) | PATH, max_size=50))
def test_what_is_wanted_is_among_the_files(paths: list[str]) -> None:
    wanted = wanted_files(paths)
    assert set(wanted) <= set(paths)


BIG = 1024 * 1024


@pytest.mark.parametrize(
    "files",
    [
        {"package.json": "[" * BIG},
        {"package.json": '{"a":' * (BIG // 5)},
        {"package.json": '{"scripts": {"dev": "' + "vite && " * (BIG // 8) + '"}}'},
        {"package.json": package("'" * 3_999, "", "vite")},
        {"package.json": package("( " * 1_999, "", "vite")},
        {"package.json": package("npm run " * 499, "", "vite")},
        {"package.json": package("x", "", "vite", engines={"node": ">=1 " * 40})},
        {"package.json": package("x", "", "vite", engines={"node": "9" * BIG})},
        {"package.json": package("x", "", "vite", workspaces=["*a" * 90 + "b"] * 100), **{f"{'a' * 200}{n}/package.json": "{}" for n in range(200)}},
        {"package.json": package("x", workspaces=["**/" * 60]), "/".join("abcdefghij") + "/package.json": "{}"},
        {"package.json": package("x"), "pnpm-workspace.yaml": "packages:\n" + "- a\n" * BIG},
        {"package.json": package("x"), "pnpm-workspace.yaml": "[" * BIG},
        {"package.json": package("x"), "pnpm-workspace.yaml": "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))},
        {"package.json": package("vite", "", "vite"), "package-lock.json": '"node_modules/vite": {' * (BIG // 20)},
        {"package.json": package("vite", "", "vite"), "yarn.lock": "vite@" * BIG},
        {"package.json": package("vite", "", "vite"), "yarn.lock": "vite@x:\n " * (BIG // 4)},
        {"package.json": package("vite", "", "vite"), "pnpm-lock.yaml": "\n" + " " * (2 * BIG)},
        {"package.json": package("vite", "", "vite"), "pnpm-lock.yaml": "\n vite:\n specifier: " * (BIG // 20)},
        {"package.json": package("vite", "", "vite"), ".yarnrc.yml": "yarnPath: " * BIG, "yarn.lock": ""},
        {"nx.json": "{}", "package.json": package("x"), "a/project.json": "/*" * BIG},
        {"nx.json": "{}", "package.json": package("x"), "a/project.json": '\\"' * BIG},
        {"nx.json": "{}", "package.json": package("x"), "a/project.json": ", " * BIG},
        {"deno.json": "/" * BIG, "index.html": ""},
        {"main.py": "a" * BIG, "app.py": "app = " * BIG, "index.html": ""},
        {"requirements.txt": "a[" * BIG, "index.html": ""},
        {"requirements.txt": "a" * BIG + ";", "index.html": ""},
        {"pyproject.toml": "[" * BIG, "index.html": ""},
        {".nvmrc": "2" * BIG, "package.json": package("x", "y")},
        {"drape.toml": "a." * BIG, "index.html": ""},
        {"drape.toml": ("a." * 60_000) + "b = 1", "index.html": ""},
        {"pyproject.toml": ("a." * 60_000) + "b = 1", "index.html": ""},
        {f"p{n}/package.json": package("vite", "", "vite") for n in range(3_000)},
        {f"p{n}/src/main.js": "" for n in range(20_000)} | {"index.html": ""},
    ],
    ids=range(33),
)  # fmt: skip
def test_large_rubbish_ends_soon(files: dict[str, str]) -> None:
    """Depth, length and number: no pattern runs away, no parser is fed more than it can take."""
    started = time.process_time()
    try:
        found = detect(files, {path: files[path] for path in wanted_files(files)})
    except DrapeError as error:
        assert error.message.encode()
        assert len(error.message) < 2_000
    else:
        assert found.dev_command
    assert time.process_time() - started < SOON_S
