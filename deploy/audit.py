"""`python -m deploy.audit`: are there known vulnerabilities in what the lock files pin? One question to OSV for all of it.

Exit 1 where there are, or where an exception has run out. Where the database does not answer it says so, loudly, and exits
0: an outage must not stop a build. Exceptions are in `audit.toml`, each with a reason and a last day.
"""

import argparse
import asyncio
import datetime
import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

import aiohttp
import msgspec

ROOT = Path(__file__).parents[1]
OSV_URL = "https://api.osv.dev/v1/querybatch"
TIMEOUT_S = 20.0
ANSWER_BYTES_MAX = 16 * 1024 * 1024
_JSON = {"Content-Type": "application/json"}
ASKED_MAX = 1_000
"""The database takes no more at once; the locks pin a tenth of that."""

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


class Pinned(msgspec.Struct, frozen=True, order=True):
    """A package in the version that a lock pins."""

    name: str
    version: str


class Accepted(msgspec.Struct, frozen=True, kw_only=True, rename={"last_day": "until"}):
    """A vulnerability that is known and does not stop the build until `last_day` has passed."""

    id: str
    package: str
    reason: str
    last_day: datetime.date


class _AcceptedFile(msgspec.Struct, frozen=True):
    exception: tuple[Accepted, ...] = ()


class _Vulnerability(msgspec.Struct, frozen=True):
    id: str


class _Result(msgspec.Struct, frozen=True):
    vulns: tuple[_Vulnerability, ...] = ()
    next_page_token: str = ""


class _Answer(msgspec.Struct, frozen=True):
    results: tuple[_Result, ...]


class NotAudited(Exception):
    """The database gave no answer that can be used; says why."""


def pinned_in(locks: Iterable[Path]) -> list[Pinned]:
    """Every package that the locks pin, once."""
    found = {
        Pinned(name.lower(), version) for lock in locks for name, version in _PINNED.findall(lock.read_text("utf-8"))
    }
    return sorted(found)


def exceptions_in(path: Path) -> tuple[Accepted, ...]:
    """The exceptions, in the file's order. Raises `ValueError` where one lacks a part."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), _AcceptedFile).exception
    except msgspec.ValidationError as error:
        raise ValueError(f"{path.name}: {error}") from error


async def known_vulnerabilities(
    url: str, pinned: Sequence[Pinned], timeout_s: float = TIMEOUT_S
) -> list[tuple[Pinned, str]]:
    """(package, id) of each. Raises `NotAudited` when the database does not answer, or not to all that was asked."""
    if len(pinned) > ASKED_MAX:
        raise NotAudited(f"{len(pinned)} packages are more than the {ASKED_MAX} that can be asked about at once")
    asked = [{"package": {"name": each.name, "ecosystem": "PyPI"}, "version": each.version} for each in pinned]
    try:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.post(url, data=msgspec.json.encode({"queries": asked}), headers=_JSON) as response,
        ):
            if response.status != 200:
                raise NotAudited(f"the database answered {response.status}")
            body = await response.content.read(ANSWER_BYTES_MAX)
            while chunk := await response.content.read(ANSWER_BYTES_MAX - len(body)):
                body += chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NotAudited(f"the database does not answer ({str(error) or type(error).__name__})") from error
    try:
        results = msgspec.json.decode(body, type=_Answer).results
    except msgspec.DecodeError as error:
        raise NotAudited("the database's answer cannot be read") from error
    if len(results) != len(pinned) or any(each.next_page_token for each in results):
        raise NotAudited("the database answered to a part only")
    return [(each, found.id) for each, result in zip(pinned, results, strict=True) for found in result.vulns]


def judge(
    found: Sequence[tuple[Pinned, str]], exceptions: Sequence[Accepted], today: datetime.date
) -> tuple[list[str], list[str]]:
    """(what stops the build, what is passed over), as lines."""
    known = {(each.package.lower(), each.id): each for each in exceptions}
    wrong, passed = [], []
    for package, vulnerability in found:
        exception = known.get((package.name, vulnerability))
        what = f"{package.name} {package.version}: {vulnerability}, https://osv.dev/vulnerability/{vulnerability}"
        if exception is None:
            wrong.append(what)
        elif exception.last_day < today:
            wrong.append(f"{what}; passed over until {exception.last_day}: {exception.reason}")
        else:
            passed.append(f"{what}; passed over until {exception.last_day}: {exception.reason}")
    return wrong, passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, and say what came of it. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=__doc__)
    parser.add_argument("--url", default=OSV_URL, help="where to ask; OSV's querybatch, or a mirror of it")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with the lock files")
    given = parser.parse_args(arguments)
    pinned = pinned_in(sorted(given.root.glob("requirements*.lock")))
    if not pinned:
        print(f"audit: no requirements*.lock in {given.root}", file=sys.stderr)
        return 1
    try:
        exceptions = exceptions_in(given.root / "audit.toml")
        found = asyncio.run(known_vulnerabilities(given.url, pinned))
    except NotAudited as error:
        print(
            f"NOT AUDITED: {error}. Known vulnerabilities in {len(pinned)} packages were not looked for.",
            file=sys.stderr,
        )
        return 0
    except (OSError, ValueError) as error:
        print(f"audit: the exceptions cannot be read: {error}", file=sys.stderr)
        return 1
    wrong, passed = judge(found, exceptions, datetime.datetime.now(datetime.UTC).date())
    for line in passed:
        print(f"audit: {line}")
    for line in wrong:
        print(f"audit: VULNERABLE: {line}", file=sys.stderr)
    if wrong:
        print("Renew the locks (`make lock`), or add an exception with a reason to audit.toml.", file=sys.stderr)
        return 1
    print(f"audit: nothing is known against {len(pinned)} packages.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
