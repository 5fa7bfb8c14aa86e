"""The Node and the package managers that a project asks for, fetched once and put first on the PATH."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.agent.toolchain import parse

from .world import REPOSITORY

FAKE_NPM = """#!/bin/sh
# An npm that installs a program of the package's name, which says which version it is and what it sees.
if [ "$1" = "--version" ]; then echo 11.0.0; exit 0; fi
if [ "$1" = "config" ]; then echo http://registry.test:4873/; exit 0; fi
for word in "$@"; do package=$word; done
echo "$package userconfig=$npm_config_userconfig" >> "$HOME/fetched"
case "$package" in *@0.0.0) echo "npm error code ETARGET" >&2; echo "npm error notarget No matching version" >&2; exit 1;; esac
name=${package%@*}; name=${name##*/}; name=${name%-dist}; [ "$name" = cli ] && name=yarn
mkdir -p node_modules/.bin "node_modules/$name/bin"
node="node_modules/$name/bin/node"
case "$name" in node-*) printf '#!/bin/sh\necho v22.9.9\n' > "$node"; chmod +x "$node";; esac
printf '#!/bin/sh\necho "%s $YARN_NPM_REGISTRY_SERVER $PYTHONPATH" "$@"\n' "$package" > "node_modules/.bin/$name"
chmod +x "node_modules/.bin/$name"
"""


class Vm:
    """A home folder with a project in it, and a PATH on which there is only the fake npm."""

    def __init__(self, root: Path) -> None:
        self.home, self.app, bins = root / "home", root / "home" / "app", root / "bin"
        self.app.mkdir(parents=True)
        bins.mkdir()
        (bins / "npm").write_text(FAKE_NPM)
        (bins / "npm").chmod(0o755)
        (bins / "node").write_text("#!/bin/sh\necho v24.1.0\n")
        (bins / "node").chmod(0o755)
        path = f"{self.app}/node_modules/.bin:{bins}:/usr/bin:/bin"
        self.env = {"HOME": str(self.home), "PATH": path, "PYTHONPATH": str(REPOSITORY)}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "shared.agent.toolchain", *arguments]
        return subprocess.Popen(
            command, env=self.env, cwd=self.app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=30)
        return process.returncode, out.strip(), err.strip()

    @property
    def fetched(self) -> list[str]:
        log = self.home / "fetched"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm(tmp_path)


def test_a_tool_is_fetched_once_and_then_there(vm: Vm) -> None:
    """The command gets its own words, and nothing that leads to our code."""
    assert vm.run("--tool", "pnpm@10.4.0", "--", "pnpm", "install") == (
        0,
        "pnpm@10.4.0   install",
        "Fetching pnpm 10.4.0",
    )
    assert vm.run("--tool", "pnpm@10.4.0", "--", "pnpm", "run", "dev") == (0, "pnpm@10.4.0   run dev", "")
    assert vm.fetched == ["pnpm@10.4.0"]
    assert list(vm.app.iterdir()) == []


def test_two_versions_live_side_by_side(vm: Vm) -> None:
    assert vm.run("--tool", "pnpm@9.0.0", "--", "pnpm")[1].startswith("pnpm@9.0.0")
    assert vm.run("--tool", "pnpm@10.4.0", "--", "pnpm")[1].startswith("pnpm@10.4.0")


def test_yarn_from_two_on_is_another_package_and_hears_of_the_registry(vm: Vm) -> None:
    """It does not read npm's configuration by itself."""
    assert vm.run("--tool", "yarn@4.9.1", "--", "yarn")[1].split() == [
        "@yarnpkg/cli-dist@4.9.1",
        "http://registry.test:4873",
    ]
    assert vm.run("--tool", "yarn@1.22.22", "--", "yarn")[1] == "yarn@1.22.22"


def test_another_node_comes_with_its_own_npm(vm: Vm) -> None:
    """Only where the one that is there is another."""
    assert vm.run("--node", "24", "--", "node") == (0, "v24.1.0", "")
    assert vm.run("--node", "22", "--", "node")[1] == "v22.9.9"
    assert len(vm.fetched) == 1


def test_a_node_that_can_not_be_had_is_said_and_done_without(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho 'npm error network down' >&2\nexit 1\n")
    code, out, err = vm.run("--node", "22", "--", "node")
    assert (code, out) == (0, "v24.1.0")
    assert "could not fetch Node 22: npm error network down; going on with Node v24.1.0" in err


def test_a_tool_that_can_not_be_had_ends_with_one_clear_line(vm: Vm) -> None:
    """And leaves nothing that a later run would take for it."""
    code, out, err = vm.run("--tool", "pnpm@0.0.0", "--", "pnpm")
    assert (code, out) == (69, "")
    assert err.splitlines()[-1] == "drape: could not fetch pnpm 0.0.0: npm error notarget No matching version"
    assert list((vm.home / ".drape" / "tools").iterdir()) == []


def test_the_reason_is_what_happened_not_the_number_of_it(vm: Vm, tmp_path: Path) -> None:
    """npm says an error's code, number and system call before it says in words what went wrong."""
    said = "npm error code ENOTFOUND\nnpm error syscall getaddrinfo\nnpm error errno ENOTFOUND\nnpm error network no such host"
    (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    code, _, err = vm.run("--tool", "pnpm@9.0.0", "--", "pnpm")
    assert (code, err.splitlines()[-1]) == (69, "drape: could not fetch pnpm 9.0.0: npm error network no such host")


def test_two_at_once_do_no_harm(vm: Vm) -> None:
    running = [vm.start("--tool", "pnpm@10.4.0", "--", "pnpm") for _ in range(4)]
    answers = [process.communicate(timeout=30)[0].strip() for process in running]
    assert answers == ["pnpm@10.4.0"] * 4
    assert [folder.name for folder in (vm.home / ".drape" / "tools").iterdir()] == ["pnpm-10.4.0"]


def test_the_projects_npmrc_counts(vm: Vm) -> None:
    """Also from a folder of a workspace: it may name a private registry."""
    (vm.app / ".npmrc").write_text("registry=http://private.test/")
    vm.run("--tool", "pnpm@10.4.0", "--", "pnpm")
    assert f"userconfig={vm.app / '.npmrc'}" in (vm.home / "fetched").read_text()


def test_what_the_project_has_installed_comes_first(vm: Vm) -> None:
    folder = vm.app / "node_modules" / ".bin"
    folder.mkdir(parents=True)
    (folder / "pnpm").write_text("#!/bin/sh\necho own\n")
    (folder / "pnpm").chmod(0o755)
    assert vm.run("--tool", "pnpm@10.4.0", "--", "pnpm")[1] == "own"


def test_the_npm_that_is_there_is_not_fetched(vm: Vm) -> None:
    assert vm.run("--tool", "npm@11.0.0", "--", "npm", "--version") == (0, "11.0.0", "")
    assert vm.fetched == []


def test_a_command_that_is_not_there_ends_with_127(vm: Vm) -> None:
    assert vm.run("--", "no-such-command") == (127, "", "no-such-command: command not found")


WRONG = (
    ["pnpm"],
    ["--"],
    ["--node", "x", "--", "a"],
    ["--tool", "pnpm", "--", "a"],
    ["--what", "1", "--", "a"],
    ["--node", "--", "a"],
)


@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_refused(vm: Vm, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(words)
    assert vm.run(*words)[0] == 2


def test_options_are_read_in_any_number() -> None:
    found = parse(["--node", "22", "--tool", "pnpm@10.4.0", "--tool", "bun@1.2.0", "--", "pnpm", "--", "x"])
    assert found == ("22", ["pnpm@10.4.0", "bun@1.2.0"], ["pnpm", "--", "x"])
