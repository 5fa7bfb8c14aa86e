"""The projects of a run: small ones that work, and some that fail, each in its own way."""

import json
from collections.abc import Mapping

import msgspec

from tests.live.client import SERVER

SLOW_INSTALL_S = 12
FAIL_EVERY = 4
"""Every fourth project fails, until as many have as are wanted."""
BROKEN_AT = 4
"""This one answers 500 for ever: its preview is there, and shows an error."""

Files = Mapping[str, str | bytes]


class Case(msgspec.Struct, frozen=True):
    """`code`: with which its preview has to fail; empty: it has to become ready, `broken`: with an error shown."""

    name: str
    files: Files
    code: str = ""
    broken: bool = False

    @property
    def ends(self) -> str:
        """What its preview has to come to."""
        return self.code or ("ready_with_errors" if self.broken else "ready")


_THROWS = "throw new Error('kaboom ' + {number})\n"
_UNCLOSED = "import http from 'node:http'\nconst port = \nhttp.createServer(() => {}).listen(port\n"
_NEEDS = "if (!process.env.SESSION_SECRET) throw new Error('Missing required environment variable: SESSION_SECRET')\n"
_FAILING: tuple[tuple[str, dict[str, str], str], ...] = (
    ("no_dev_script", {"dev": "npm run serve"}, ""),
    ("module_not_found", {}, "import 'express'\n"),
    ("syntax_error", {}, _UNCLOSED),
    ("env_variable_missing", {}, _NEEDS),
    ("dev_command_not_found", {"dev": "vitte --host"}, ""),
    ("dev_server_exited", {}, _THROWS),
    ("dev_server_killed", {}, "process.kill(process.pid, 'SIGKILL')\n"),
    ("install_failed", {"install": "node -e process.exit(3)"}, SERVER),
    ("bad_package_json", {"package": "{"}, SERVER),
    ("dev_server_exited", {}, _THROWS),
)


def cases(count: int, failing: int, slow: int) -> list[Case]:
    """`count` projects in the order of the run, `failing` of them among the first; `slow` installs in the last half."""
    found: list[Case] = []
    failed = 0
    slow_from = count * 6 // 10
    for number in range(count):
        if number % FAIL_EVERY == 1 and failed < failing:
            found.append(_failing(number, failed))
            failed += 1
        elif number == BROKEN_AT:
            script = SERVER.replace("response.end(", "response.statusCode = 500; response.end(")
            found.append(Case("answers 500", _files(number, script), broken=True))
        elif number % 6 == 2:
            found.append(Case("static", {"index.html": f"<title>evidence {number}</title>"}))
        else:
            is_slow = number >= slow_from and slow > 0
            slow -= is_slow
            found.append(node(number, SLOW_INSTALL_S if is_slow else 0))
    return found


def node(number: int, install_s: float = 0) -> Case:
    """A server of Node whose install takes so long: one of its own, for what was installed once would be skipped."""
    wait = f"setTimeout(()=>{number},{install_s * 1000:.0f})" if install_s else str(number)
    return Case("slow install" if install_s else "node", _files(number, SERVER, install=f'node -e "{wait}"'))


def _failing(number: int, which: int) -> Case:
    code, how, script = _FAILING[which % len(_FAILING)]
    return Case(code, _files(number, script.replace("{number}", str(number)), **how), code)


def _files(
    number: int, script: str, dev: str = "node server.mjs", install: str = "", package: str = ""
) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {
        "package.json": package or json.dumps({"name": f"evidence-{number}", "private": True, "scripts": {"dev": dev}}),
        "server.mjs": script,
    }
    if install:
        files["drape.toml"] = f"install = {json.dumps(install)}\n"
    return files
