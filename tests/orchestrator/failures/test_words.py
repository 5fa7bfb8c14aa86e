"""Words that tools print and that no recorded log holds: quoted from their sources and documentation."""

from typing import Literal

import pytest

from services.orchestrator.rules.failures import Ended, explain

Step = Literal["install", "dev_server"]
INSTALL: Step = "install"
DEV: Step = "dev_server"


@pytest.mark.parametrize(
    ("step", "lines", "code", "words"),
    [
        (DEV, ["Error: EMFILE: too many open files, watch"], "file_watch_limit", "watches more files"),
        (DEV, ["OS file watch limit reached."], "file_watch_limit", "watched files"),
        (DEV, ["Error: spawn ENOMEM"], "out_of_memory", "memory"),
        (DEV, ["Traceback (most recent call last):", "MemoryError"], "out_of_memory", "Python"),
        (
            INSTALL,
            [
                "npm ERR! code 1",
                "npm ERR! path /vm/app/node_modules/sharp",
                "npm ERR! command failed",
                "npm ERR! command sh -c node install/check",
                "npm ERR! sharp: Installation error: getaddrinfo ENOTFOUND github.com",
            ],
            "install_script_failed",
            "The install script of sharp needs github.com",
        ),
        (
            INSTALL,
            [
                "npm error code 1",
                "npm error path /vm/app/node_modules/@scope/native",
                "npm error command failed",
                "npm error command sh -c node-gyp rebuild",
            ],
            "install_script_failed",
            "The install script of @scope/native failed: node-gyp rebuild",
        ),
        (INSTALL, ["gyp ERR! not ok"], "install_script_failed", "native module"),
        (
            INSTALL,
            ["npm error The `npm ci` command can only install with an existing package-lock.json or"],
            "lockfile_mismatch",
            "package-lock.json",
        ),
        (INSTALL, [" ERR_PNPM_BROKEN_LOCKFILE  The lockfile is broken"], "lockfile_mismatch", "pnpm-lock.yaml"),
        (INSTALL, ["npm error code ERESOLVE"], "peer_conflict", "do not go together"),
        (INSTALL, [" ERR_PNPM_PEER_DEP_ISSUES  Unmet peer dependencies"], "peer_conflict", "do not go together"),
        (INSTALL, ["npm error code EINTEGRITY"], "integrity_mismatch", "not the one"),
        (INSTALL, ["npm ERR! 404  'left-pat@1' is not in this registry."], "package_not_found", "left-pat@1"),
        (INSTALL, ["npm error code ETARGET"], "package_not_found", "not in the registry"),
        (INSTALL, ["npm error code EBADENGINE"], "node_version_unsupported", "another version of Node"),
        (DEV, ["Node.js v20.3.0 is not supported by Astro!"], "node_version_unsupported", "Astro does not support"),
        (DEV, ["Error: this tool requires Node.js >= 22.12"], "node_version_unsupported", "Node >= 22.12"),
        (INSTALL, ["Temporary failure in name resolution"], "resolver_silent", "does not answer"),
        (
            INSTALL,
            [" WARN  GET https://packages.example/next error (ETIMEDOUT). Will retry in 10 seconds."],
            "registry_unreachable",
            "packages.example could not be reached: ETIMEDOUT",
        ),
        (DEV, ["Something is already running on port 3000."], "port_in_use", "Port 3000"),
        (
            DEV,
            ["[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use"],
            "port_in_use",
            "Port 8000",
        ),
        (DEV, ["Port 4200 is already in use. Use '--port' to specify a different port."], "port_in_use", "Port 4200"),
        (DEV, ["Error: That port is already in use."], "port_in_use", "taken"),
        (DEV, ["error: Uncaught (in promise) AddrInUse: Address already in use (os error 98)"], "port_in_use", "taken"),
        (DEV, ["Error: Environment variable API_URL is not set"], "env_variable_missing", "API_URL is missing"),
        (DEV, ["Error: STRIPE_KEY is required"], "env_variable_missing", "STRIPE_KEY is missing"),
        (
            DEV,
            ["Please define the MONGODB_URI environment variable inside .env"],
            "env_variable_missing",
            "MONGODB_URI",
        ),
        (DEV, ["Error: Missing env.NEXT_PUBLIC_SUPABASE_URL"], "env_variable_missing", "NEXT_PUBLIC_SUPABASE_URL"),
        (DEV, ["Error: spawn next ENOENT"], "dev_command_not_found", "next"),
        (DEV, ['error: Module not found "file:///vm/app/main.ts".'], "module_not_found", "main.ts"),
        (DEV, ["  code: 'MODULE_NOT_FOUND',"], "module_not_found", "was not found"),
        (DEV, ["SyntaxError: Unexpected end of JSON input"], "syntax_error", "Unexpected end of JSON input"),
        (DEV, ["SyntaxError: /vm/app/src/App.js: Unexpected token (7:4)"], "syntax_error", "src/App.js, line 7"),
        (DEV, ["mkdir: cannot create directory: Permission denied"], "permission_denied", "permission denied"),
        (DEV, ["Error: getaddrinfo EAI_AGAIN db.example"], "resolver_silent", "db.example"),
        (DEV, ["Error: queryA ETIMEOUT db.example"], "resolver_silent", "db.example"),
    ],
)
def test_words_that_are_known(step: Step, lines: list[str], code: str, words: str) -> None:
    """The code and the words of the message; a hint beside it, and the first line among the evidence."""
    why = explain(Ended(step=step, exit_code=1), lines)

    assert why.code == code, why
    assert words in why.message
    assert why.hint
    assert why.evidence


@pytest.mark.parametrize(
    "line",
    [
        "Port 3000 is in use, trying another one...",
        "Port 3000 is in use by process 4711, using available port 3001 instead.",
        "npm warn EBADENGINE Unsupported engine {",
        "ReferenceError: PUBLIC_URL is not defined",
        "INFO environment loaded from .env",
        "DeprecationWarning: NODE_ENV environment variable is set to development",
        "next/font: warning: Failed to download `Inter` from Google Fonts. Using fallback font instead.",
        "npm warn ERESOLVE overriding peer dependency",
        "error rate: 404 per minute",
    ],
)
def test_words_that_are_no_cause(line: str) -> None:
    """What sounds like a cause and is none leaves the end unrecognised."""
    assert explain(Ended(step="dev_server", exit_code=1), [line]).code == "dev_server_exited"
    assert explain(Ended(step="install", exit_code=1), [line]).code == "install_failed"


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [
        (Ended(step="install", timed_out=True, signal="SIGTERM", limit_s=120.0), "install_timeout", "120 s"),
        (Ended(step="install", exit_code=127), "package_manager_missing", "package manager"),
        (Ended(step="install", signal="SIGKILL"), "install_killed", "SIGKILL"),
        (Ended(step="install", exit_code=137), "out_of_memory", "137"),
        (Ended(step="install", exit_code=254), "install_failed", "code 254"),
        (Ended(step="install"), "install_failed", "ended"),
        (Ended(step="dev_server", exit_code=0, ready=True), "dev_server_exited", "while it ran"),
        (Ended(step="dev_server", exit_code=0), "dev_server_exited", "before it answered"),
        (Ended(step="dev_server", exit_code=127), "dev_command_not_found", "command was not found"),
        (Ended(step="dev_server", exit_code=137), "out_of_memory", "137"),
        (Ended(step="dev_server", signal="SIGKILL"), "dev_server_killed", "SIGKILL"),
        (Ended(step="dev_server", signal="SIGSEGV", ready=True), "dev_server_exited", "SIGSEGV"),
        (Ended(step="dev_server"), "dev_server_exited", "ended"),
    ],
)
def test_an_end_without_words_has_a_cause(ended: Ended, code: str, words: str) -> None:
    """How the job ended says something even where nothing was printed."""
    why = explain(ended, [])

    assert (why.code, why.evidence) == (code, ())
    assert words in why.message
    assert "None" not in why.message
    assert why.hint


def test_what_is_not_recognised_says_so_and_shows_the_tail() -> None:
    """The message admits it, and the evidence is the log's last lines that hold something."""
    lines = [*(f"line {n}" for n in range(50)), "", "no database: giving up", ""]

    why = explain(Ended(step="dev_server", exit_code=1), lines)

    assert why.code == "dev_server_exited"
    assert "does not know" in why.message
    assert "last lines" in why.hint
    assert [lines[index] for index in why.evidence][-2:] == ["line 49", "no database: giving up"]


def test_what_was_mended_long_ago_is_no_cause() -> None:
    """A dev server that answered, then ended: an error from long before is not what ended it."""
    lines = ["Error: Cannot find module 'express'", *(f"GET / 200 in {n} ms" for n in range(100))]

    assert explain(Ended(step="dev_server", exit_code=1, ready=True), lines).code == "dev_server_exited"
    assert explain(Ended(step="dev_server", exit_code=1), lines).code == "module_not_found"
