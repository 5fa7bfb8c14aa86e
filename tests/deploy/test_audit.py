"""`python -m deploy.audit`, against a stand-in of the database."""

import asyncio
import datetime
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from deploy import audit
from deploy.audit import Accepted, NotAudited, Pinned, exceptions_in, judge, known_vulnerabilities, pinned_in
from deploy.local.ports import free_port

ROOT = Path(__file__).parents[2]
LOCK = """\
aiohttp==3.9.0 \\
    --hash=sha256:00
    # via drape
Foo-Bar==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:01
"""
TODAY = datetime.date(2026, 11, 29)


@asynccontextmanager
async def database(
    known: Mapping[tuple[str, str], list[str]], asked: list[Any], status: int = 200
) -> AsyncIterator[str]:
    """OSV's querybatch with these answers; gives its address. `asked` gets every query."""

    async def answer(request: web.Request) -> web.Response:
        queries = (await request.json())["queries"]
        asked.extend(queries)
        found = [known.get((each["package"]["name"], each["version"]), []) for each in queries]
        results = [{"vulns": [{"id": name, "modified": "x"} for name in names]} if names else {} for names in found]
        return web.json_response({"results": results}, status=status)

    app = web.Application()
    app.router.add_post("/v1/querybatch", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/querybatch"
    finally:
        await runner.cleanup()


def test_every_pin_of_the_locks_is_found(tmp_path: Path) -> None:
    """Extras, markers and hashes aside; our own locks too."""
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCK)

    assert pinned_in([lock, lock]) == [Pinned("aiohttp", "3.9.0"), Pinned("foo-bar", "1.0")]
    own = pinned_in(sorted(ROOT.glob("requirements*.lock")))
    assert {"aiohttp", "nats-py", "nkeys", "cryptography"} <= {each.name for each in own}


async def test_findings_are_told_with_package_and_version() -> None:
    """All packages in one question; what is known comes back with its package."""
    asked: list[Any] = []
    pinned = [Pinned("aiohttp", "3.9.0"), Pinned("foo-bar", "1.0")]
    async with database({("aiohttp", "3.9.0"): ["GHSA-1", "PYSEC-2"]}, asked) as url:
        found = await known_vulnerabilities(url, pinned)

    assert found == [(pinned[0], "GHSA-1"), (pinned[0], "PYSEC-2")]
    assert [each["package"] for each in asked] == [
        {"name": "aiohttp", "ecosystem": "PyPI"},
        {"name": "foo-bar", "ecosystem": "PyPI"},
    ]


async def test_no_usable_answer_is_not_audited() -> None:
    """Nobody there, an error, and an answer to a part only."""
    pinned = [Pinned("aiohttp", "3.9.0")]
    with pytest.raises(NotAudited, match="does not answer"):
        await known_vulnerabilities(f"http://127.0.0.1:{free_port()}/", pinned)
    async with database({}, [], status=503) as url:
        with pytest.raises(NotAudited, match="503"):
            await known_vulnerabilities(url, pinned)
        with pytest.raises(NotAudited, match=r"40[45]"):
            await known_vulnerabilities(url.replace("querybatch", "other"), pinned)


def test_an_exception_counts_until_its_last_day() -> None:
    """For its package and its id alone."""
    package = Pinned("aiohttp", "3.9.0")
    found = [(package, "GHSA-1"), (package, "GHSA-2"), (package, "GHSA-3"), (Pinned("other", "1"), "GHSA-1")]
    exceptions = (
        Accepted(id="GHSA-1", package="aiohttp", reason="not reached", last_day=TODAY),
        Accepted(id="GHSA-2", package="aiohttp", reason="old", last_day=TODAY - datetime.timedelta(days=1)),
    )
    wrong, passed = judge(found, exceptions, TODAY)

    assert [line.split(",")[0] for line in passed] == ["aiohttp 3.9.0: GHSA-1"]
    assert [line.split(",")[0] for line in wrong] == [
        *("aiohttp 3.9.0: GHSA-2", "aiohttp 3.9.0: GHSA-3", "other 1: GHSA-1")
    ]


def test_exceptions_need_a_reason_and_a_last_day(tmp_path: Path) -> None:
    """The repository's own file is read; an entry without a part is an error that names it."""
    exceptions_in(ROOT / "audit.toml")
    file = tmp_path / "audit.toml"
    file.write_text('[[exception]]\nid = "GHSA-1"\npackage = "a"\nreason = "r"\nuntil = 2027-01-31\n')
    assert exceptions_in(file) == (Accepted(id="GHSA-1", package="a", reason="r", last_day=datetime.date(2027, 1, 31)),)
    file.write_text('[[exception]]\nid = "GHSA-1"\npackage = "a"\nuntil = 2027-01-31\n')
    with pytest.raises(ValueError, match="reason"):
        exceptions_in(file)


async def test_the_command_fails_on_findings_and_not_on_an_outage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1 names what is wrong; without the database exit 0, and the words say that nothing was looked for."""
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "audit.toml").write_text("")
    known = {("aiohttp", "3.9.0"): ["GHSA-1"]}
    async with database(known, []) as url:
        told = await asyncio.to_thread(audit.main, ["--url", url, "--root", str(tmp_path)])
    words = capsys.readouterr()
    assert (told, "VULNERABLE: aiohttp 3.9.0: GHSA-1" in words.err) == (1, True)
    async with database({}, []) as url:
        assert await asyncio.to_thread(audit.main, ["--url", url, "--root", str(tmp_path)]) == 0
    assert "nothing is known" in capsys.readouterr().out
    gone = f"http://127.0.0.1:{free_port()}/"
    assert await asyncio.to_thread(audit.main, ["--url", gone, "--root", str(tmp_path)]) == 0
    assert "NOT AUDITED" in capsys.readouterr().err
    assert await asyncio.to_thread(audit.main, ["--url", gone, "--root", str(tmp_path / "none")]) == 1
