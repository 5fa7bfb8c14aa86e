"""What a project is, from its file names and package.json: known kinds, odd ones, and rubbish."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from services.orchestrator.rules.detection import NPM_QUIET, PORT, STATIC_COMMAND, Detection, detect
from shared.errors import DrapeError, Invalid

VITE_FLAGS = ("--host", "127.0.0.1", "--port", PORT, "--strictPort")
NEXT_FLAGS = ("-H", "127.0.0.1", "-p", PORT)


def node(
    dev: str | None = None,
    dependencies: dict[str, str] | None = None,
    paths: tuple[str, ...] = ("package.json",),
    lockfile: str | None = None,
    **more: Any,
) -> Detection:
    package: dict[str, Any] = {"dependencies": dependencies or {}, **more}
    if dev is not None:
        package["scripts"] = {"dev": dev}
    return detect(paths, json.dumps(package), lockfile)


def refusal(paths: tuple[str, ...], package: str | None) -> str:
    with pytest.raises(Invalid) as refused:
        detect(paths, package)
    assert refused.value.message
    assert refused.value.hint
    return refused.value.code


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("vite", ("node_modules/.bin/vite", *VITE_FLAGS)),
        ("  vite  ", ("node_modules/.bin/vite", *VITE_FLAGS)),
        ("vite --open", ("node_modules/.bin/vite", "--open", *VITE_FLAGS)),
        ("vite --base '/my app/'", ("node_modules/.bin/vite", "--base", "/my app/", *VITE_FLAGS)),
        ("vite && x", ("npm", "run", "dev")),
        ("NODE_ENV=test vite", ("npm", "run", "dev")),
        ("vite --port $PORT", ("npm", "run", "dev")),
        ("vite 'unfinished", ("npm", "run", "dev")),
        ("cross-env NODE_ENV=test vite", ("npm", "run", "dev", "--", *VITE_FLAGS)),
        ("tsx tools/start.ts", ("npm", "run", "dev")),
    ],
)
def test_vite(script: str, command: tuple[str, ...]) -> None:
    """Its own binary where the script is one plain command; flags where they reach it; else as npm would run it."""
    found = node(script, {"vite": "^7.0.0"})
    assert (found.framework, found.dev_command) == ("vite", command)


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("next dev", ("node_modules/.bin/next", "dev", *NEXT_FLAGS)),
        ("next dev --turbopack", ("node_modules/.bin/next", "dev", "--turbopack", *NEXT_FLAGS)),
        ("next dev -p 4000", ("node_modules/.bin/next", "dev", "-p", "4000", *NEXT_FLAGS)),
        ("next", ("npm", "run", "dev", "--", *NEXT_FLAGS)),
        ("node server.mjs", ("node", "server.mjs")),
    ],
)
def test_next(script: str, command: tuple[str, ...]) -> None:
    """Our port comes after the script's own, so that it is the one that counts; telemetry is off."""
    found = node(script, {"next": "15.3.0", "react": "19"})
    assert (found.framework, found.dev_command) == ("nextjs", command)
    assert found.dev_env["NEXT_TELEMETRY_DISABLED"] == "1"


def test_next_with_vite_among_its_tools_is_next() -> None:
    assert node("next dev", {"next": "15", "vite": "7"}).framework == "nextjs"


@pytest.mark.parametrize(
    ("script", "command"),
    [("node server.js", ("node", "server.js")), ("nodemon server.js", ("npm", "run", "dev"))],
)
def test_express(script: str, command: tuple[str, ...]) -> None:
    """It listens where PORT says."""
    found = node(script, {"express": "5"})
    assert (found.framework, found.dev_command, found.dev_env["PORT"]) == ("express", command, PORT)


def test_a_plain_node_script() -> None:
    """No framework, nothing to install."""
    found = node("node index.mjs")
    assert (found.framework, found.package_manager, found.install_command) == ("node", "none", ())
    assert found.dev_command == ("node", "index.mjs")


def test_start_serves_where_there_is_no_dev() -> None:
    assert node(scripts={"start": "node a.js", "test": "x"}).dev_command == ("node", "a.js")
    assert node(scripts={"start": "node a.js", "dev": "tool"}).dev_command == ("npm", "run", "dev")
    assert node(scripts={"start": "node a.js", "dev": " "}).dev_command == ("node", "a.js")


@pytest.mark.parametrize("file", ["server.js", "index.js", "app.js", "src/it's here.js"])
def test_without_scripts_the_main_file_is_run(file: str) -> None:
    more: dict[str, Any] = {"main": file} if "/" in file else {}
    assert node(paths=("package.json", file), **more).dev_command == ("node", file)


@pytest.mark.parametrize("more", [{}, {"scripts": []}, {"scripts": {"dev": 7}}, {"main": "gone.js"}, {"main": 7}])
def test_nothing_to_run_is_refused(more: dict[str, Any]) -> None:
    assert refusal(("package.json",), json.dumps(more)) == "no_dev_script"


def test_static_html() -> None:
    found = detect(("index.html", "style.css"), None)
    assert (found.framework, found.package_manager, found.dev_command) == ("static", "none", STATIC_COMMAND)
    assert (found.install_command, found.dev_env) == ((), {})


@pytest.mark.parametrize("package", ['{"name": "h"}', "{}", '{"scripts": {}, "devDependencies": {}}'])
def test_a_package_json_that_starts_and_needs_nothing_leaves_static_html(package: str) -> None:
    found = detect(("index.html", "package.json"), package)
    assert (found.framework, found.install_command) == ("static", ())


def test_a_package_json_beside_index_html_counts() -> None:
    """Vite projects have both."""
    assert node("vite", {"vite": "7"}, paths=("index.html", "package.json")).framework == "vite"


def test_what_is_no_web_project_is_refused() -> None:
    assert refusal((), None) == "empty_project"
    assert refusal(("main.py", "sub/index.html"), None) == "not_a_web_project"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '"x"', "null", "{'a': 1}", "[" * 100_000, "[" + "9" * 5_000 + "]", "\0", "\ufeff"]
)
def test_a_package_json_that_is_no_object_is_refused(text: str) -> None:
    """Broken, of another kind, too deep, a number too long: an error that says so, never a crash."""
    assert refusal(("package.json",), text) == "bad_package_json"


def test_a_byte_order_mark_is_skipped() -> None:
    """Some editors on Windows write one."""
    assert detect(("package.json",), '\ufeff{"scripts": {"dev": "vite"}}').framework == "node"


@pytest.mark.parametrize(
    ("paths", "command"),
    [
        (("package.json", "package-lock.json"), "ci"),
        (("package.json", "npm-shrinkwrap.json"), "ci"),
        (("package.json",), "install"),
        (("package.json", "sub/package-lock.json"), "install"),
    ],
)
def test_npm_ci_where_there_is_a_lockfile(paths: tuple[str, ...], command: str) -> None:
    found = node("vite", {"vite": "7"}, paths=paths)
    assert (found.package_manager, found.install_command) == ("npm", ("npm", command, *NPM_QUIET))


def test_dependencies_of_any_kind_are_installed() -> None:
    for group in ("dependencies", "devDependencies", "optionalDependencies"):
        found = detect(("package.json",), json.dumps({"scripts": {"dev": "vite"}, group: {"vite": "7"}}))
        assert (found.framework, found.install_command[:2]) == ("vite", ("npm", "install"))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("^7.1.2", "7.1.2"),
        (">=14 <16", "14"),
        ("16.0.0-canary.3", "16.0.0-canary.3"),
        ("latest", ""),
        ("*", ""),
        ("", ""),
    ],
)
def test_the_version_that_a_range_starts_from(version: str, expected: str) -> None:
    assert node("vite", {"vite": version}).version == expected


def test_the_locked_version_counts_more_than_the_range() -> None:
    lockfile = json.dumps({"packages": {"node_modules/next": {"version": "16.0.3"}}})
    assert node("next dev", {"next": "^15.0.0"}, lockfile=lockfile).version == "16.0.3"


@pytest.mark.parametrize(
    "lockfile",
    ["", "{", "[]", "7", "null", '{"packages": 7}', '{"packages": {"node_modules/next": 7}}', "[" * 100_000]
    + [f'{{"packages": {{"node_modules/next": {{"version": {version}}}}}}}' for version in ("7", '"\\ud800"', '""')]
    + ["[" + "9" * 5_000 + "]"],
)
def test_a_broken_lockfile_is_npms_to_complain_about(lockfile: str) -> None:
    assert node("next dev", {"next": "^15.0.0"}, lockfile=lockfile).version == "15.0.0"


@pytest.mark.parametrize(
    ("named", "expected"), [("pnpm@9.1.0", "pnpm"), ("yarn", "yarn"), ("cargo", "npm"), (7, "npm")]
)
def test_the_named_package_manager(named: object, expected: str) -> None:
    assert node("vite", {"vite": "7"}, packageManager=named).package_manager == expected


def test_the_evidence_names_what_was_seen() -> None:
    found = node("vite", {"vite": "7"}, paths=("package.json", "package-lock.json"))
    assert found.evidence == ("package.json: vite", "script dev", "package-lock.json")


def test_a_half_character_in_package_json_is_refused() -> None:
    """JSON can write a lone surrogate; no event and no process can carry one."""
    assert refusal(("package.json",), '{"scripts": {"dev": "vite \\ud800"}}') == "bad_package_json"


# --- whatever comes -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
WORDS = st.sampled_from(["vite", "next", "dev", "node", "a.js", "'", '"', "&&", "\\", "$X", "A=1", "\n", "\ud800", " "])
SCRIPT = st.lists(WORDS, max_size=5).map(" ".join) | st.text(max_size=30)
NAMES = st.sampled_from(["vite", "next", "express", "other"])
PACKAGE = st.fixed_dictionaries(
    {},
    optional={
        "scripts": JSON | st.dictionaries(st.sampled_from(["dev", "start"]), SCRIPT | JSON),
        "dependencies": JSON | st.dictionaries(NAMES, JSON),
        "devDependencies": JSON | st.dictionaries(NAMES, st.text(max_size=10)),
        "main": JSON | st.just("a.js"),
        "packageManager": JSON,
    },
)
PATHS = st.lists(st.text(max_size=20) | st.sampled_from(["index.html", "package-lock.json", "a.js", "yarn.lock"]))


@given_any(
    PATHS, st.none() | st.text() | JSON.map(json.dumps) | PACKAGE.map(json.dumps), st.none() | JSON.map(json.dumps)
)
def test_detection_never_crashes(paths: list[str], package: str | None, lockfile: str | None) -> None:
    """A refusal with a code, or a detection that can be stored and run."""
    try:
        found = detect(paths, package, lockfile)
    except DrapeError as error:
        assert (error.status, bool(error.hint)) == (400, True)
    else:
        assert found.dev_command
        assert found.dev_command[0]
        assert msgspec.json.decode(msgspec.json.encode(found), type=Detection) == found
