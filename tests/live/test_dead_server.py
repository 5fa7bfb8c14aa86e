"""Dev servers that die or never answer: the preview fails at once or at its limit, with a reason one can act on."""

import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.live.client import SERVER, Client, node_project
from tests.live.conftest import running
from tests.live.platform import Platform

BOOT_LIMIT_S = 4
NOTICED_WITHIN_S = 3.5
"""A second, and what a busy two-core machine adds; less than the boot limit, which would end it too."""

SILENT = "console.log('thinking it over'); setInterval(() => {}, 1000)"
BROKEN = SERVER.replace("response.end", "response.statusCode = 500; response.end")
QUITTING = "console.error('no database: giving up'); process.exit(1)"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that waits for a dev server for a few seconds only."""
    limits = {"DRAPE_ORCHESTRATOR_BOOT_LIMIT_S": str(BOOT_LIMIT_S), "DRAPE_ORCHESTRATOR_STEADY_ERROR_S": "1"}
    yield from running(tmp_path_factory.mktemp("impatient") / "home", limits)


@pytest.fixture
async def user(impatient: Platform) -> AsyncIterator[Client]:
    """A user of that platform."""
    async with aiohttp.ClientSession() as session:
        yield Client(impatient.gateway, session)


def dev_server(platform: Platform, vm_id: str) -> psutil.Process:
    """The dev server's process in the tree of its VM."""
    (found,) = [process for process in platform.vm_processes(vm_id) if process.cmdline()[-1:] == ["server.mjs"]]
    return found


async def test_a_killed_dev_server_is_known_within_a_second(platform: Platform, client: Client) -> None:
    """kill -9: PreviewFailed within about a second, with the signal in the message and the server's last words."""
    view = await client.ready(node_project(SERVER))
    victim = dev_server(platform, view["vm_id"])
    at = time.time()
    victim.kill()

    failed = await platform.event("PreviewFailed", view["preview_id"])

    assert failed.meta.at - at < NOTICED_WITHIN_S
    told = await client.ended(view["preview_id"])
    assert told["status"] == "failed"
    assert told["error"]["code"] == "dev_server_killed"
    assert "SIGKILL" in told["error"]["message"]
    assert told["error"]["hint"]
    assert any("listening on" in line for line in told["log_tail"]), told["log_tail"]
    page = await client.visit(view["preview_id"])
    assert page.status == 502
    assert "SIGKILL" in page.text
    assert "listening on" in page.text


@pytest.mark.parametrize(
    ("script", "dev", "code", "words", "printed"),
    [
        (QUITTING, "node server.mjs", "dev_server_exited", r"code 1\b", "no database: giving up"),
        ("", "no-such-server --dev", "dev_command_not_found", "command was not found", "not found"),
        (SILENT, "node server.mjs", "dev_server_timeout", rf"within {BOOT_LIMIT_S} s", "thinking it over"),
    ],
    ids=["exits", "not_found", "never_listens"],
)
async def test_a_dev_server_that_never_answers_fails_with_its_reason(
    user: Client, script: str, dev: str, code: str, words: str, printed: str
) -> None:
    """Each way to fail has its code, a message that says what happened, a hint, and the server's own words."""
    view = await user.ended(await user.request_preview(await user.project(node_project(script, dev))))

    assert view["status"] == "failed"
    assert view["error"]["code"] == code
    assert re.search(words, view["error"]["message"]), view["error"]
    assert view["error"]["hint"]
    assert any(printed in line for line in view["log_tail"]), view["log_tail"]


async def test_a_dev_server_that_only_answers_500_is_shown_as_what_it_is(user: Client) -> None:
    """Its own error page, at the preview's address; the view says which request answered what."""
    view = await user.ended(await user.request_preview(await user.project(node_project(BROKEN))))

    assert (view["status"], view["error"]) == ("ready_with_errors", None)
    assert re.search(r"\b500\b", view["message"])
    assert (await user.visit(view["preview_id"])).status == 500
    await user.stop(view["preview_id"])


async def test_the_cli_says_why_a_preview_failed(impatient: Platform, tmp_path: Path) -> None:
    """`drape preview --json` ends with `preview_failed`, its code, message, hint and log tail, and exit code 1."""
    for name, content in node_project(QUITTING).items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    ran = await impatient.drape("preview", tmp_path, "--json")

    assert ran.code == 1
    assert ran.last["type"] == "preview_failed"
    assert ran.last["code"] == "dev_server_exited"
    assert ran.last["message"]
    assert ran.last["hint"]
    assert any("no database" in line for line in ran.last["log_tail"])
