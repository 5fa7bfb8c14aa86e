"""Package managers, their versions, their commands; Node; and what decides an install."""

import msgspec
import pytest

from services.orchestrator.rules.detection import NPM_QUIET, PORT
from services.orchestrator.rules.detection.managers import TOOLCHAIN, VERSIONS
from tests.orchestrator.detection.trees import Files, found_in, package

VITE = ("--host", "127.0.0.1", "--port", PORT, "--strictPort")
PNPM = ("pnpm", "install", "--prefer-offline", "--config.strictDepBuilds=false")
YARN = ("yarn", "install", "--non-interactive", "--prefer-offline")
BERRY_LOCK = '__metadata:\n  version: {}\n  cacheKey: 10\n\n"vite@npm:^7.0.0":\n  version: 7.1.2\n'
CLASSIC_LOCK = '# yarn lockfile v1\n\n\nvite@^7.0.0:\n  version "7.1.3"\n  resolved "x"\n'


def vite(script: str = "vite", more: Files | None = None, **keys: object) -> Files:
    return {"package.json": package(script, "", "vite", **keys), **(more or {})}


def tool(name: str, *argv: str, node: str = "") -> tuple[str, ...]:
    return (*TOOLCHAIN, *(("--node", node) if node else ()), *(("--tool", name) if name else ()), "--", *argv)


@pytest.mark.parametrize(
    ("files", "manager", "version"),
    [
        (vite(), "npm", ""),
        (vite(more={"package-lock.json": "{}"}), "npm", ""),
        (vite(more={"npm-shrinkwrap.json": "{}"}), "npm", ""),
        (vite(more={"pnpm-lock.yaml": "lockfileVersion: '9.0'\n"}), "pnpm", "10.34.5"),
        (vite(more={"pnpm-lock.yaml": "lockfileVersion: '6.0'\n"}), "pnpm", "8.15.9"),
        (vite(more={"pnpm-lock.yaml": "lockfileVersion: '6.1'\n"}), "pnpm", "8.15.9"),
        (vite(more={"pnpm-lock.yaml": "lockfileVersion: 5.4\n"}), "pnpm", "7.33.7"),
        (vite(more={"pnpm-lock.yaml": "lockfileVersion: 5.3\n"}), "pnpm", "7.33.7"),
        (vite(more={"pnpm-lock.yaml": ""}), "pnpm", "10.34.5"),
        (vite(more={"yarn.lock": CLASSIC_LOCK}), "yarn", "1.22.22"),
        (vite(more={"yarn.lock": BERRY_LOCK.format(8)}), "yarn", "4.17.1"),
        (vite(more={"yarn.lock": BERRY_LOCK.format(6)}), "yarn", "3.8.7"),
        (vite(more={"yarn.lock": BERRY_LOCK.format(4)}), "yarn", "2.4.2"),
        (vite(more={"yarn.lock": BERRY_LOCK.format(8), ".yarnrc.yml": "yarnPath: .yarn/releases/yarn-4.1.0.cjs\n"}), "yarn", "4.1.0"),
        (vite(more={"bun.lock": "{}"}), "bun", "1.3.14"),
        (vite(more={"bun.lockb": ""}), "bun", "1.3.14"),
        (vite(packageManager="pnpm@10.4.0"), "pnpm", "10.4.0"),
        (vite(packageManager="pnpm@9.1.0+sha512.abc"), "pnpm", "9.1.0"),
        (vite(packageManager="pnpm@8.0.0-rc.1"), "pnpm", "8.0.0-rc.1"),
        (vite(packageManager="pnpm@9"), "pnpm", "9.15.9"),
        (vite(packageManager="pnpm"), "pnpm", "10.34.5"),
        (vite(packageManager="yarn@4.5.0", more={"yarn.lock": CLASSIC_LOCK}), "yarn", "4.5.0"),
        (vite(packageManager="yarn@1.22.19"), "yarn", "1.22.19"),
        (vite(packageManager="yarn@berry"), "yarn", "4.17.1"),
        (vite(packageManager="yarn@stable"), "yarn", "4.17.1"),
        (vite(packageManager="yarn@1"), "yarn", "1.22.22"),
        (vite(packageManager="bun@1.1.0"), "bun", "1.1.0"),
        (vite(packageManager="npm@10.2.3"), "npm", "10.2.3"),
        (vite(packageManager="npm@^10"), "npm", "10.9.8"),
        (vite(packageManager="cargo@1"), "npm", ""),
        (vite(packageManager=7), "npm", ""),
        (vite(packageManager="pnpm@latest"), "pnpm", "10.34.5"),
        (vite(packageManager="pnpm@9.1.0", more={"package-lock.json": "{}"}), "pnpm", "9.1.0"),
        (vite(devEngines={"packageManager": {"name": "pnpm", "version": "^9.0.0"}}), "pnpm", "9.15.9"),
        (vite(devEngines={"packageManager": [{"name": "bun"}]}), "bun", "1.3.14"),
        (vite(devEngines={"packageManager": {"name": "npm", "version": ">=10"}}), "npm", ""),
        (vite(devEngines=7), "npm", ""),
        (vite(more={"pnpm-lock.yaml": ""}, engines={"pnpm": "^8"}), "pnpm", "8.15.9"),
        (vite(more={"pnpm-lock.yaml": ""}, engines={"pnpm": ">=9"}), "pnpm", "10.34.5"),
        (vite(more={"pnpm-lock.yaml": ""}, engines={"pnpm": "rubbish"}), "pnpm", "10.34.5"),
        (vite(more={"drape.toml": 'package_manager = "yarn"', "pnpm-lock.yaml": ""}), "yarn", "1.22.22"),
    ],
)  # fmt: skip
def test_the_manager_and_its_version(files: Files, manager: str, version: str) -> None:
    """The field, its version honoured, then the lockfile and what wrote it, then npm as it is."""
    found = found_in(files)
    assert (found.package_manager, found.package_manager_version) == (manager, version)


def test_the_versions_that_are_taken_by_default_are_exact() -> None:
    """Nothing floats: what is fetched today is what was fetched yesterday."""
    for versions in VERSIONS.values():
        assert all(len(version.split(".")) == 3 and version.replace(".", "").isdigit() for version in versions)


@pytest.mark.parametrize(
    ("files", "install", "retry"),
    [
        (vite(), ("npm", "install", *NPM_QUIET), ()),
        (vite(more={"package-lock.json": ""}), ("npm", "ci", *NPM_QUIET), ("npm", "install", *NPM_QUIET)),
        (vite(more={"sub/package-lock.json": ""}), ("npm", "install", *NPM_QUIET), ()),
        (
            vite(more={"pnpm-lock.yaml": ""}),
            tool("pnpm@10.34.5", *PNPM, "--frozen-lockfile"),
            tool("pnpm@10.34.5", *PNPM, "--no-frozen-lockfile"),
        ),
        (vite(packageManager="pnpm@10.4.0"), tool("pnpm@10.4.0", *PNPM, "--no-frozen-lockfile"), ()),
        (vite(more={"yarn.lock": CLASSIC_LOCK}), tool("yarn@1.22.22", *YARN, "--frozen-lockfile"), tool("yarn@1.22.22", *YARN)),
        (
            vite(more={"yarn.lock": BERRY_LOCK.format(8)}),
            tool("yarn@4.17.1", "yarn", "install", "--immutable"),
            tool("yarn@4.17.1", "yarn", "install", "--no-immutable"),
        ),
        (vite(packageManager="yarn@4.5.0"), tool("yarn@4.5.0", "yarn", "install", "--no-immutable"), ()),
        (
            vite(more={"bun.lock": ""}),
            tool("bun@1.3.14", "bun", "install", "--frozen-lockfile"),
            tool("bun@1.3.14", "bun", "install"),
        ),
        (vite(packageManager="npm@10.2.3"), tool("npm@10.2.3", "npm", "install", *NPM_QUIET), ()),
        (
            vite(more={".nvmrc": "22", "package-lock.json": ""}),
            tool("", "npm", "ci", *NPM_QUIET, node="22"),
            tool("", "npm", "install", *NPM_QUIET, node="22"),
        ),
        (
            vite(more={".nvmrc": "20", "pnpm-lock.yaml": ""}),
            tool("pnpm@10.34.5", *PNPM, "--frozen-lockfile", node="20"),
            tool("pnpm@10.34.5", *PNPM, "--no-frozen-lockfile", node="20"),
        ),
    ],
)  # fmt: skip
def test_installs_are_frozen_first(files: Files, install: tuple[str, ...], retry: tuple[str, ...]) -> None:
    """What the lockfile says, and one free try where there is a lockfile that may not fit."""
    found = found_in(files)
    assert (found.install_command, found.install_retry_command) == (install, retry)


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (vite(more={"pnpm-lock.yaml": ""}), ("vite", *VITE)),
        (vite(more={"yarn.lock": CLASSIC_LOCK}), ("vite", *VITE)),
        (vite(more={".nvmrc": "22"}), tool("", "vite", *VITE, node="22")),
        (vite("x && vite"), ("npm", "run", "dev", "--", *VITE)),
        (vite("x && vite", packageManager="npm@10.2.3"), tool("npm@10.2.3", "npm", "run", "dev", "--", *VITE)),
        (vite("x && vite", {"pnpm-lock.yaml": ""}), tool("pnpm@10.34.5", "pnpm", "run", "dev", *VITE)),
        (vite("x && vite", {"yarn.lock": CLASSIC_LOCK}), tool("yarn@1.22.22", "yarn", "run", "dev", *VITE)),
        (vite("x && vite", {"bun.lock": ""}), tool("bun@1.3.14", "bun", "run", "dev", *VITE)),
        # Yarn without node_modules: nothing runs but through yarn.
        (vite(more={"yarn.lock": BERRY_LOCK.format(8)}), tool("yarn@4.17.1", "yarn", "run", "dev", *VITE)),
        (
            vite(more={"yarn.lock": BERRY_LOCK.format(8), ".yarnrc.yml": "nodeLinker: node-modules\n"}),
            ("vite", *VITE),
        ),
        (vite("bunx --bun vite", {"bun.lock": ""}), tool("bun@1.3.14", "bun", "run", "dev", *VITE)),
        (vite("bun --hot server.ts", {"package-lock.json": ""}), tool("bun@1.3.14", "bun", "--hot", "server.ts")),
        (vite("bun --hot server.ts", packageManager="bun@1.2.0"), tool("bun@1.2.0", "bun", "--hot", "server.ts")),
        (vite("x && bun server.ts"), tool("bun@1.3.14", "bun", "run", "dev")),
    ],
)
def test_dev_commands_bring_what_they_need(files: Files, command: tuple[str, ...]) -> None:
    """The manager where a script runs through it, another Node where it is asked for; a plain binary needs neither."""
    assert found_in(files).dev_command == command


@pytest.mark.parametrize(
    ("lockfiles", "manager", "left"),
    [
        (("package-lock.json", "pnpm-lock.yaml"), "pnpm", "package-lock.json"),
        (("package-lock.json", "yarn.lock"), "yarn", "package-lock.json"),
        (("yarn.lock", "pnpm-lock.yaml"), "pnpm", "yarn.lock"),
        (("bun.lock", "package-lock.json"), "bun", "package-lock.json"),
        (("bun.lock", "yarn.lock"), "yarn", "bun.lock"),
    ],
)
def test_two_lockfiles_are_a_warning(lockfiles: tuple[str, ...], manager: str, left: str) -> None:
    """One counts, by a fixed order; the warning names the other."""
    found = found_in(vite(more=dict.fromkeys(lockfiles, "")))
    [warning] = found.warnings
    assert (found.package_manager, warning.code, left in warning.recommendation) == (manager, "several_lockfiles", True)


def test_two_lockfiles_of_one_manager_are_none() -> None:
    assert found_in(vite(more={"bun.lock": "", "bun.lockb": ""})).warnings == ()


@pytest.mark.parametrize(
    ("more", "keys", "default", "node"),
    [
        ({}, {}, 24, ""),
        ({".nvmrc": "22\n"}, {}, 24, "22"),
        ({".nvmrc": "v20.11.1"}, {}, 24, "20"),
        ({".nvmrc": "lts/jod"}, {}, 24, "22"),
        ({".nvmrc": "lts/*"}, {}, 24, ""),
        ({".nvmrc": "# why\n22"}, {}, 24, "22"),
        ({".node-version": "22.11.0"}, {}, 24, "22"),
        ({".nvmrc": "20", ".node-version": "22"}, {}, 24, "20"),
        ({}, {"engines": {"node": ">=18"}}, 24, ""),
        ({}, {"engines": {"node": "^20.9.0 || >=22"}}, 24, ""),
        ({}, {"engines": {"node": "22.x"}}, 24, "22"),
        ({}, {"engines": {"node": "^22.12.0 || ^20.19.0"}}, 24, "22"),
        ({}, {"engines": {"node": ">=20 <21"}}, 24, "20"),
        ({}, {"engines": {"node": "~20.11"}}, 24, ""),
        ({}, {"engines": {"node": ">=18 <23"}}, 24, "22"),
        ({}, {"engines": {"node": "24.1.0"}}, 24, ""),
        ({}, {"engines": {"node": "*"}}, 24, ""),
        ({}, {"engines": {"node": 22}}, 24, ""),
        ({}, {"engines": "node"}, 24, ""),
        ({}, {"volta": {"node": "20.11.0"}}, 24, "20"),
        ({}, {"devEngines": {"runtime": {"name": "node", "version": "^22.0.0"}}}, 24, "22"),
        ({".nvmrc": "22"}, {"engines": {"node": ">=20"}}, 24, "22"),
        ({".nvmrc": "24"}, {}, 22, "24"),
        ({".nvmrc": "22"}, {}, 22, ""),
        ({}, {"engines": {"node": ">=20"}}, 22, ""),
        ({}, {"engines": {"node": ">=24"}}, 22, "24"),
        ({}, {"engines": {"node": ">=18"}}, 26, ""),
        ({"drape.toml": 'node = "20"', ".nvmrc": "22"}, {}, 24, "20"),
        ({"drape.toml": "node = 22"}, {}, 24, "22"),
    ],
)
def test_node(more: Files, keys: dict[str, object], default: int, node: str) -> None:
    """The default wherever it serves, else the highest that does; the most binding word counts."""
    assert found_in(vite("vite", more, **keys), default_node=default).node_version == node


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ({".nvmrc": "18.17.0"}, {}),
        ({".nvmrc": "lts/hydrogen"}, {}),
        ({}, {"engines": {"node": ">=14 <16"}}),
        ({}, {"engines": {"node": "99"}}),
        ({}, {"engines": {"node": "9" * 5_000}}),
        ({}, {"engines": {"node": "of our time"}}),
        ({".nvmrc": "\u0662\u0662"}, {}),
        ({"drape.toml": "node = 12"}, {}),
    ],
)
def test_a_node_that_there_is_not_is_a_warning(more: Files, keys: dict[str, object]) -> None:
    """The default runs, and it is said."""
    found = found_in(vite("vite", more, **keys))
    [warning] = found.warnings
    assert (found.node_version, warning.code) == ("", "node_version_unmet")


def test_yarn_is_told_not_to_refuse_another_node() -> None:
    """Yarn 1 would fail an install for what is only a warning here."""
    found = found_in(vite(more={"yarn.lock": CLASSIC_LOCK, ".nvmrc": "14"}))
    assert "--ignore-engines" in found.install_command


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        ("package-lock.json", '{"packages": {"node_modules/vite": {"version": "7.1.2"}}}', "7.1.2"),
        ("package-lock.json", '{"dependencies": {"vite": {"version": "7.1.2"}}}', "7.1.2"),
        ("package-lock.json", '{"packages": {"node_modules/vite": {"version": "7.1.2', "1.0.0"),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n\nimporters:\n\n  .:\n    devDependencies:\n      vite:\n        specifier: ^7\n        version: 7.1.4(@types/node@22)\n", "7.1.4"),
        ("pnpm-lock.yaml", "lockfileVersion: '6.0'\n\ndevDependencies:\n  vite:\n    specifier: ^7\n    version: 7.1.5\n", "7.1.5"),
        ("pnpm-lock.yaml", "lockfileVersion: 5.4\n\nspecifiers:\n  vite: ^4\n\ndevDependencies:\n  vite: 4.1.0_abc\n", "4.1.0"),
        ("yarn.lock", CLASSIC_LOCK, "7.1.3"),
        ("yarn.lock", BERRY_LOCK.format(8), "7.1.2"),
        ("bun.lock", '{"packages": {"vite": ["vite@7.1.6", "", {}]}}', "7.1.6"),
        ("pnpm-lock.yaml", "rubbish", "1.0.0"),
    ],
)  # fmt: skip
def test_the_locked_version(name: str, text: str, version: str) -> None:
    """From the lockfile of any manager; a broken one is the manager's to complain about."""
    assert found_in(vite(more={name: text})).version == version


def test_the_locked_version_is_that_of_the_app() -> None:
    """In a workspace, two apps may have two versions."""
    lock = (
        "lockfileVersion: '9.0'\n\nimporters:\n\n  apps/old:\n    dependencies:\n      next:\n        specifier: ^15\n"
        "        version: 15.3.0\n\n  apps/web:\n    dependencies:\n      next:\n        specifier: ^16\n        version: 16.0.1(react@19)\n"
    )
    files = {
        "package.json": package(),
        "pnpm-workspace.yaml": "packages:\n  - apps/*\n",
        "pnpm-lock.yaml": lock,
        "apps/web/package.json": package("next dev", "next@^16.0.0"),
        "apps/old/package.json": package("next dev", "next@^15.0.0"),
    }
    found = found_in(files, "apps/web")
    assert (found.version, [warning.code for warning in found.warnings]) == ("16.0.1", ["nextjs_version"])
    assert (found_in(files, "apps/old").version, found_in(files, "apps/old").warnings) == ("15.3.0", ())


def test_nothing_to_install() -> None:
    """A package without dependencies: no manager, no command, no fingerprint."""
    found = found_in({"package.json": package("node a.js"), "package-lock.json": ""})
    assert (found.package_manager, found.install_command, found.install_retry_command, found.deps) == (
        "none",
        (),
        (),
        "",
    )


BASE = vite(more={"package-lock.json": "{}", ".npmrc": "", "patches/a.patch": "1", "src/main.js": "1"})


@pytest.mark.parametrize(
    "change",
    [
        {"package-lock.json": '{"packages": {"": {"dependencies": {"a": "1"}}}}'},
        {"package-lock.json": '{"packages": {"node_modules/a": {"name": "b"}}}'},
        {"package-lock.json": "{ half"},
        {".npmrc": "legacy-peer-deps=true"},
        {"patches/a.patch": "2"},
        {".nvmrc": "22"},
        {"package.json": package("vite", "", "vite@2")},
        {"package.json": package("vite", "", "vite", overrides={"a": "1"})},
        {"package.json": package("vite", "", "vite", packageManager="npm@10.0.0")},
        {"package.json": package({"dev": "vite", "postinstall": "node x.js"}, "", "vite")},
        {"drape.toml": 'install = "npm ci --legacy-peer-deps"'},
    ],
)
def test_the_fingerprint_changes_with_what_decides_an_install(change: Files) -> None:
    assert found_in({**BASE, **change}).deps != found_in(BASE).deps


@pytest.mark.parametrize(
    "change",
    [
        {"src/main.js": "2"},
        {"README.md": "new"},
        {
            "package-lock.json": '{"name": "renamed", "version": "2", "packages": {"": {"name": "renamed", "version": "2"}}}'
        },
        {"package.json": package("vite", "", "vite", name="renamed")},
        {"package.json": package({"dev": "vite", "lint": "eslint ."}, "", "vite", version="2.0.0", description="x")},
        {"drape.toml": 'ready_path = "/docs/"'},
    ],
)
def test_the_fingerprint_does_not_change_with_anything_else(change: Files) -> None:
    """An edit of a source, a script or a description needs no install."""
    assert found_in({**BASE, **change}).deps == found_in(BASE).deps
    assert len(found_in(BASE).deps) == 64


def test_the_fingerprint_of_a_workspace_holds_its_packages() -> None:
    """A dependency of a sibling is installed by the same command."""
    files = {
        "package.json": package(workspaces=["apps/*", "packages/*"]),
        "apps/web/package.json": package("vite", "", "vite", name="web"),
        "packages/ui/package.json": package(None, "react", name="ui"),
    }
    changed = {**files, "packages/ui/package.json": package(None, "react@19", name="ui")}
    assert found_in(files).deps != found_in(changed).deps


def test_what_a_manager_needs_in_its_environment() -> None:
    """No telemetry, and no manager that fetches another version of itself."""
    assert found_in(vite(more={"yarn.lock": ""})).install_env["YARN_ENABLE_TELEMETRY"] == "0"
    pnpm = found_in(vite(more={"pnpm-lock.yaml": ""})).install_env
    assert pnpm["npm_config_manage_package_manager_versions"] == "false"
    assert found_in(vite()).install_env == {}


def test_the_evidence_says_why() -> None:
    """Each finding with the file that tells it."""
    files = vite(packageManager="pnpm@9.1.0", engines={"node": "22"}, more={"pnpm-lock.yaml": ""})
    found = found_in(files)
    assert found.evidence == (
        "dependency vite in package.json",
        "script dev in package.json",
        "packageManager pnpm@9.1.0 in package.json",
        "lockfile pnpm-lock.yaml",
        "Node 22 in engines in package.json",
    )
    assert msgspec.json.encode(found)


@pytest.mark.parametrize("script", ["preinstall", "install", "postinstall", "prepare"])
def test_without_dependencies_an_install_runs_where_it_has_scripts(script: str) -> None:
    """They are the project's own, and may make what the dev server needs."""
    scripts = {"dev": "node server.js", script: "node make.js"}
    assert found_in({"package.json": package(scripts), "server.js": ""}).install_command == (
        "npm",
        "install",
        *NPM_QUIET,
    )
    assert found_in({"package.json": package({"dev": "node server.js"}), "server.js": ""}).install_command == ()


@pytest.mark.parametrize(
    ("files", "keeps"),
    [
        (vite(), True),
        (vite(more={"pnpm-lock.yaml": ""}), True),
        (vite(more={"yarn.lock": BERRY_LOCK.format(8)}), False),
        ({"package.json": package({"dev": "vite", "postinstall": "node make.js"}, "", "vite")}, False),
        ({"package.json": package({"dev": "vite", "prepare": "husky"}, "", "vite")}, False),
        ({"package.json": '{"scripts":{"dev":"vite"},"dependencies":{"vite":"^7","ui":"file:./ui"}}'}, False),
        ({"index.html": ""}, False),
        ({"requirements.txt": "flask", "app.py": "from flask import Flask\napp = Flask(__name__)"}, False),
    ],
    ids=["npm", "pnpm", "plug'n'play", "postinstall", "prepare", "copied package", "static", "pip"],
)  # fmt: skip
def test_an_install_is_kept_that_is_in_node_modules_alone(files: Files, keeps: bool) -> None:
    """And that its fingerprint tells wholly: what else it writes, or copies of the project, would be missing or old."""
    assert found_in(files).keeps is keeps


@pytest.mark.parametrize("field", ["cnpm@1", "  pnpm@9.0.0 ", "pnpm@9.0.0; rm -rf /", 5, {}, ["pnpm"]])
def test_a_manager_that_there_is_not_is_a_warning(field: object) -> None:
    found = found_in(vite("vite", None, packageManager=field))
    assert [warning.code for warning in found.warnings] == ["package_manager_unmet"]


@pytest.mark.parametrize("field", ["pnpm@9.0.0", "npm@11.0.0+sha512.ab==", "yarn@^4", "bun@latest", None])
def test_a_manager_that_there_is_is_none(field: object) -> None:
    assert found_in(vite("vite", None, packageManager=field)).warnings == ()
