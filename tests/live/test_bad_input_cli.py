"""Wrong input to the CLI: each gets its code, a sentence that helps, and exit code 1; wrong use gets 2."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.client import Client
from tests.live.platform import Platform

QUICK_S = 90.0
"""A refusal that needs no upload; most of it is Python starting on a busy machine."""


def _missing(root: Path) -> Path:
    return root / "nowhere"


def _a_file(root: Path) -> Path:
    (root / "file.txt").write_text("not a folder")
    return root / "file.txt"


def _empty(root: Path) -> Path:
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main")
    return root


def _too_large(root: Path) -> Path:
    with (root / "huge.bin").open("wb") as file:
        file.truncate(600 * 1024 * 1024)  # sparse: it takes no space, and must not be read either
    return root


def _link_outside(root: Path) -> Path:
    (root / "index.html").write_text("hello")
    (root / "passwd").symlink_to("/etc/passwd")
    return root


def _backslash(root: Path) -> Path:
    (root / "back\\slash.html").write_text("hello")
    return root


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (_missing, "no_such_folder", "nowhere"),
        (_a_file, "not_a_folder", "file.txt"),
        (_empty, "empty_project", "no files"),
        (_too_large, "project_too_large", "512 MiB"),
        (_link_outside, "symlink_outside", "passwd"),
        (_backslash, "bad_path", "back"),
    ],
)
async def test_a_folder_that_cannot_be_sent_is_refused_at_once(
    platform: Platform, tmp_path: Path, make: Callable[[Path], Path], code: str, words: str
) -> None:
    """The CLI says what is wrong with the folder, before anything is uploaded."""
    began = time.monotonic()
    ran = await platform.drape("preview", make(tmp_path), "--json")
    assert ran.code == 1
    assert (ran.last["type"], ran.last["code"]) == ("preview_failed", code)
    assert words in ran.last["message"]
    assert ran.last["hint"]
    assert ran.last["log_tail"] == []
    assert time.monotonic() - began < QUICK_S


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("readme.md", "# nothing to show", "not_a_web_project", "index.html"),
        ("package.json", '{"name": "broken",', "bad_package_json", "not JSON"),
        ("package.json", '["an", "array"]', "bad_package_json", "not an object"),
        ("package.json", '{"name": "no scripts"}', "no_dev_script", "dev"),
    ],
)
async def test_a_folder_that_is_no_web_project_fails_with_the_reason(
    platform: Platform, tmp_path: Path, name: str, content: str, code: str, words: str
) -> None:
    """`preview_failed` with the code and words that say what is wrong, and exit code 1."""
    (tmp_path / name).write_text(content)
    ran = await platform.drape("preview", tmp_path, "--json")
    assert ran.code == 1
    assert (ran.last["type"], ran.last["code"]) == ("preview_failed", code)
    assert words in ran.last["message"]
    assert ran.last["hint"]


async def test_errors_for_people_go_to_standard_error_without_a_traceback(platform: Platform, tmp_path: Path) -> None:
    """Without `--json`: the reason and the hint, nothing on standard output, no traceback."""
    ran = await platform.drape("preview", tmp_path / "nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "There is no folder" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("preview",),
        ("no-such-command",),
        ("up", "--port", "70000"),
        ("stats", "--days", "0"),
        ("errors", "--days", "0"),
        ("explain",),
        ("logs",),
    ],
    ids=" ".join,
)
async def test_wrong_use_ends_with_two(platform: Platform, arguments: tuple[str, ...]) -> None:
    """Exit code 2 and the usage."""
    ran = await platform.drape(*arguments)
    assert ran.code == 2
    assert "Usage:" in ran.err


async def test_an_unknown_preview_is_an_error_with_a_code(platform: Platform) -> None:
    """`logs`, `stop` and `restart` of an id that is none."""
    for verb in ("logs", "stop", "restart"):
        ran = await platform.drape(verb, "nope", "--json")
        assert (ran.code, ran.last["type"], ran.last["code"]) == (1, "error", "preview_not_found"), verb


async def test_a_type_of_event_that_does_not_exist(platform: Platform) -> None:
    """Not an empty list, as if nothing had happened: the nearest name is named."""
    ran = await platform.drape("events", "--type", "PreviewReddy", "--json")
    assert (ran.code, ran.last["code"]) == (1, "unknown_event_type")
    assert "PreviewReady" in ran.last["hint"]


async def test_residents_of_a_folder_that_can_be_none(platform: Platform, tmp_path: Path) -> None:
    """No folder, no web project, one whose server nobody could take over, more than the pool has VMs."""
    ran = await platform.drape("resident", tmp_path / "nowhere", "--json")
    assert (ran.code, ran.last["code"]) == (1, "no_such_folder")
    (tmp_path / "readme.md").write_text("# nothing to show")
    ran = await platform.drape("resident", tmp_path, "--json")
    assert (ran.code, ran.last["code"]) == (1, "not_a_web_project")
    (tmp_path / "package.json").write_text('{"scripts": {"dev": "node x.js"}, "dependencies": {"express": "5.1.0"}}')
    ran = await platform.drape("resident", tmp_path, "--json")
    assert (ran.code, ran.last["code"]) == (1, "never_taken_over")
    (tmp_path / "package.json").write_text('{"scripts": {"dev": "vite"}, "devDependencies": {"vite": "7.1.2"}}')
    ran = await platform.drape("resident", tmp_path, "--count", "100", "--json")
    assert (ran.code, ran.last["code"]) == (1, "pool_too_small")


async def test_a_second_up_says_so_and_does_no_harm(platform: Platform, client: Client) -> None:
    """`drape up` twice: exit 0, the address of what runs, and the same processes as before."""
    before = platform.status.pids
    ran = await platform.drape("up", "--detach", "--json", "--port", "0")
    assert (ran.code, ran.last) == (0, {"type": "already_running", "gateway": client.gateway})
    other = await platform.drape("up", "--detach", "--replicas", "3", "--port", "1", "--json")
    assert (other.code, other.last["code"]) == (1, "runs_otherwise")
    assert "replicas of each service: 1" in other.last["detail"]
    assert platform.status.pids == before
    assert (await client.call("GET", "/health")).status == 200


async def test_a_port_that_is_taken_is_named(platform: Platform, tmp_path: Path) -> None:
    """A second platform on the first one's port: exit 1 with `port_taken`, and nothing is left running."""
    port = platform.gateway.rsplit(":", 1)[1]
    second = Platform(tmp_path / "second")
    ran = await second.drape("up", "--detach", "--json", "--port", port)
    assert (ran.code, ran.last["code"]) == (1, "port_taken")
    assert port in ran.last["detail"]
    assert ran.last["hint"]
    assert not list(second.home.run.glob("*.pid"))


async def test_commands_say_when_nothing_runs(tmp_path: Path) -> None:
    """Without a platform, `ps` fails with `not_running` and says how to start it; `down` is harmless."""
    nobody = Platform(tmp_path / "nobody")
    ran = await nobody.drape("ps", "--json")
    assert (ran.code, ran.last["code"]) == (1, "not_running")
    assert "drape up" in ran.last["hint"]
    ended = await nobody.drape("down", "--json")
    assert (ended.code, ended.last["supervisor"]) == (0, "not_running")
