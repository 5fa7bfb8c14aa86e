"""`make matrix`: every row, one after the other, into docs/matrix.md. Arguments narrow it to rows by name."""

import asyncio
import sys
import tempfile
from pathlib import Path

import aiohttp

from tests.live.client import Client
from tests.live.platform import ROOT, Platform
from tests.matrix.rows import NotMade, Row, make_project, read_matrix
from tests.matrix.running import Outcome, run_row

TABLE = ROOT / "docs" / "matrix.md"
HEAD = """# Matrix

Small projects of each framework, from a lock file with the versions of {before} to a preview that answers: `make matrix`.

Seconds: install (the package manager, with an empty cache), boot (from the dev server's start to its first whole answer),
ready (from the request to the answer through the gateway). HMR: the socket for edits, tried through the gateway. On two
cores, one run: compare within the table.

| project | detected as | version | manager | install | boot | ready | HMR | right |
|---|---|---|---|---|---|---|---|---|
"""


async def main(names: list[str]) -> int:
    matrix = read_matrix()
    wanted = {name: row for name, row in matrix.row.items() if not names or name in names}
    with tempfile.TemporaryDirectory(prefix="drape-matrix-") as scratch:
        platform = Platform(Path(scratch) / "home", {"DRAPE_POOL_TARGET": "2"})
        platform.up()
        try:
            outcomes = [await _one(name, row, matrix.before, Path(scratch), platform) for name, row in wanted.items()]
        finally:
            platform.down()
    table = HEAD.format(before=matrix.before) + "".join(_line(outcome) for outcome in outcomes)
    if names:
        print(table)
    else:
        TABLE.write_text(table)
        print(f"Written: {TABLE}")
    return 0 if all(not outcome.problem for outcome in outcomes) else 1


async def _one(name: str, row: Row, before: str, scratch: Path, platform: Platform) -> Outcome:
    print(f"{name} ...", file=sys.stderr, flush=True)
    folder = scratch / "projects" / name
    try:
        await asyncio.to_thread(make_project, row, before, folder)
    except NotMade as error:
        outcome = Outcome(name=name, problem=f"not made: {error}")
    else:
        async with aiohttp.ClientSession() as session:
            outcome = await run_row(name, row, folder, platform, Client(platform.gateway, session))
    print(_line(outcome), file=sys.stderr, end="", flush=True)
    return outcome


def _line(outcome: Outcome) -> str:
    seconds = (outcome.install_s, outcome.boot_s, outcome.ready_s)
    figures = " | ".join("" if each is None else f"{each:.1f}" for each in seconds)
    problem = outcome.problem.replace("|", "\\|").replace("\n", " ") or "yes"
    return (
        f"| {outcome.name} | {outcome.framework} | {outcome.version} | {outcome.manager} | {figures} | {outcome.hmr} "
        f"| {problem} |\n"
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
