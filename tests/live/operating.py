"""What an operator has: the runbook's commands, and the real `nats` command with contexts for a platform."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import msgspec

from deploy.nats.permissions import OBSERVER
from shared.jetstream.topology import TICKING, TIMERS, timer_consumer_name
from tests.deploy.waiting import eventually
from tests.live.platform import ROOT, Platform, Ran

RUNBOOK = ROOT / "deploy" / "runbook.md"
BUILD_TIMEOUT_S = 480.0
COMMAND_TIMEOUT_S = 120.0
TICK_TIMEOUT_S = 120.0
DENIAL = "Permissions Violation"
_BLOCK = re.compile(r"(<!-- not tried: (?P<why>[^>]+) -->\n)?^(?P<indent> *)```sh\n(?P<body>.*?)^ *```$", re.M | re.S)


class Block(msgspec.Struct, frozen=True):
    """The commands of one fenced block. `untried`: why they are not tried; empty: they are."""

    commands: tuple[str, ...]
    untried: str


def runbook() -> list[Block]:
    """Every block of commands, in the page's order."""
    found = _BLOCK.finditer(RUNBOOK.read_text("utf-8"))
    return [
        Block(tuple(line.strip() for line in each["body"].splitlines() if line.strip()), each["why"] or "")
        for each in found
    ]


def nats_command() -> Path | None:
    """The real one: on PATH, or built by `deploy/nats/build-cli`; None where there is none. Blocks."""
    there = shutil.which("nats")
    if there is not None:
        return Path(there)
    built = ROOT / ".tools" / "nats"
    if shutil.which("go") is None:
        return built if built.is_file() else None
    # Also where it is there: whoever else builds it holds a lock until it is whole.
    done = subprocess.run(
        [str(ROOT / "deploy" / "nats" / "build-cli")],
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        warnings.warn(f"the nats command could not be built: {done.stderr[-500:]}", stacklevel=2)
        return None
    return built


async def ticked(platform: Platform) -> None:
    """Returns once every service that ticks has heard a tick: until then its consumer has never acknowledged anything, which
    `nats server check consumer --last-ack-critical` takes for a fault."""
    async with platform.connected(OBSERVER) as observer:
        timers = observer.jetstream()

        async def heard(service: str) -> bool:
            told = await timers.consumer_info(TIMERS, timer_consumer_name(service))
            return told.ack_floor is not None and told.ack_floor.consumer_seq > 0

        for service in sorted(TICKING):
            await eventually(partial(heard, service), TICK_TIMEOUT_S)


class Operator:
    """Somebody at the machine of a platform, with both contexts, and `drape-observer` selected."""

    def __init__(self, platform: Platform, nats: Path | None, config: Path) -> None:
        self.platform = platform
        self.nats = nats
        own = Platform(platform.home.root, {"XDG_CONFIG_HOME": str(config)})
        written = own.run("provision", "--nats-context", "--json")
        assert written.code == 0, written.out + written.err
        folders = [str(Path(sys.executable).parent), *([str(nats.parent)] if nats is not None else [])]
        self._env = {**own.env, "PATH": os.pathsep.join([*folders, os.environ["PATH"]])}
        if nats is not None:
            selected = subprocess.run(
                [str(nats), "context", "select", "drape-observer"], env=self._env, capture_output=True, check=False
            )
            assert selected.returncode == 0, selected.stderr

    async def run(self, line: str) -> Ran:
        """A line as it would be typed into a shell."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", line),
            env=self._env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"no end after {COMMAND_TIMEOUT_S:.0f} s: {line}") from None
        return Ran(process.returncode or 0, out.decode(), err.decode())
