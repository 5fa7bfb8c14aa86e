"""Every command of deploy/runbook.md is run, word for word, on a platform with a preview and something that is parked."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from deploy.nats.permissions import OBSERVER, OPERATOR
from shared.jetstream.topology import PARKED_ROOT
from shared.parked import Parked
from tests.live.client import SERVER, Client, node_project
from tests.live.nats_requests import ask, identity_of
from tests.live.operating import DENIAL, Operator, nats_command, runbook, ticked
from tests.live.platform import Platform, Ran

AT_ONCE = 5
CHANGING = (
    *("drape pool resize", "drape parked replay", "drape parked drop", "drape rollout", "drape restart", "drape stop"),
    *("nats --context drape req drape.cmd.", "drape provision", "nats context select", "drape preview", "drape backup"),
    *("drape alerts silence", "drape projections rebuild"),
)
"""They run one after another, in the page's order, after those that only look."""
SEQ = "3"
WARNS = "nats server check stream --stream DRAPE_PARKED"
"""Something is parked."""


@pytest.fixture
async def filled(rough: Platform, rough_client: Client, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """What stands for the page's placeholders."""
    view = await rough_client.ready(node_project(SERVER))
    parked = [_parked(number) for number in (1, 2)]
    async with rough.connected("pool") as pool:
        for each in parked:
            await pool.jetstream().publish(f"{PARKED_ROOT}.{each.key}", msgspec.json.encode(each))
    (tmp_path / "index.html").write_text("<title>runbook</title>")
    yield {
        "<preview>": view["preview_id"],
        "<project>": view["project_id"],
        "<key>": parked[0].key,
        "<seq>": SEQ,
        "<folder>": str(tmp_path),
    }
    for key in (each.key for each in parked):
        await rough.drape("parked", "drop", key, "--json")  # one of them is gone already
    await rough.drape("project", "delete", tmp_path, "--yes", "--json")  # `drape preview` has made one of the folder
    await rough_client.stop(view["preview_id"])
    await rough.drape("pool", "resize", "--target", "1", "--minimum", "1", "--maximum", "6", "--json")


def _parked(seq: int) -> Parked:
    """A reaction of the pool to one of its first events, which would do no harm a second time."""
    subject = "drape.evt.pool.pool.default.PoolResized"
    return Parked(
        service="pool", kind="event", seq=seq, subject=subject, reason="a test", attempts=12, at="2026-11-30T00:00:00Z"
    )


def _commands(filled: dict[str, str]) -> list[str]:
    """Each once, in order, with the placeholders filled in; but for what is not to be tried. Of
    `drape events --type` one type will do: a test without a platform knows the others' names."""
    lines = [line for block in runbook() if not block.untried for line in block.commands]
    lines = list({re.sub(r"^drape events --type \w+$", "", line) or "drape events": line for line in lines}.values())
    for placeholder, value in filled.items():
        lines = [line.replace(placeholder, value) for line in lines]
    return lines


async def test_every_command_of_the_runbook_works(
    rough: Platform, filled: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Exit code 0 and no denial; with the real `nats` where it can be had, else by the requests that it would send."""
    await ticked(rough)
    nats = await asyncio.to_thread(nats_command)
    operator = await asyncio.to_thread(Operator, rough, nats, tmp_path_factory.mktemp("contexts"))
    lines = _commands(filled)
    if nats is None:
        lines = await _asked_by_hand(rough, lines)
    gate = asyncio.Semaphore(AT_ONCE)

    async def look(line: str) -> str:
        async with gate:
            return _wrong(line, await operator.run(line))

    looking = [line for line in lines if not line.startswith(CHANGING)]
    assert len(looking) > 20
    wrong = list(await asyncio.gather(*map(look, looking)))
    second = filled["<key>"].replace("event.1", "event.2")
    for line in (each for each in lines if each.startswith(CHANGING)):
        # Two are parked: one is tried again, the other dropped.
        wrong.append(_wrong(line, await operator.run(_other_key(line, filled["<key>"], second))))
    assert [each for each in wrong if each] == []


def _other_key(line: str, first: str, second: str) -> str:
    return line.replace(first, second) if line.startswith("drape parked drop") else line


def _wrong(line: str, ran: Ran) -> str:
    expected = 1 if line == WARNS else 0
    if shlex.split(line)[0] == "timeout":
        expected = 124  # it would go on until Ctrl-C
    if ran.code == expected and DENIAL not in ran.out + ran.err:
        return ""
    return f"{line}: {ran.code}: {ran.out[-500:]} {ran.err[-500:]}"


async def _asked_by_hand(rough: Platform, lines: list[str]) -> list[str]:
    """Those of `nats`, sent by ourselves; gives the others."""
    of_nats = [line for line in lines if "nats" in shlex.split(line)[:3]]
    async with rough.connected(OBSERVER) as observer, rough.connected(OPERATOR) as operator:
        clients = {OBSERVER: observer, OPERATOR: operator}
        for line in of_nats:
            assert await ask(clients[identity_of(line)], line) == []
    return [line for line in lines if line not in of_nats]


async def test_what_the_nats_command_asks_is_allowed(rough: Platform, filled: dict[str, str]) -> None:
    """The runbook's `nats` commands as requests of our own: none is denied, each answer is one."""
    left = await _asked_by_hand(rough, [line for line in _commands(filled) if not line.startswith(CHANGING)])
    assert left
    assert not any(line.startswith("nats ") for line in left)
