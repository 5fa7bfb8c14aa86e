"""What a VM uses, as its agent sees it."""

import sys
from subprocess import PIPE, Popen

from shared.agent.protocol import Usage
from shared.agent.usage import measure
from tests.deploy.waiting import eventually

from .world import RunningAgent

MB = 1 << 20
HELD_MB = 64
USED_S = 0.3
WORK = f"""
import time
held = bytearray(b"x") * ({HELD_MB} << 20)
while time.process_time() < {USED_S}:
    pass
print("done", flush=True)
input()
"""


def test_all_that_runs_below_counts_and_what_ended_is_not_forgotten() -> None:
    """Memory goes with its process; processor time that was used stays used, once somebody has waited for it."""
    before = measure()
    with Popen([sys.executable, "-c", WORK], stdin=PIPE, stdout=PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        during = measure()
        child.communicate(b"\n")
    after = measure()

    assert during.cpu_s - before.cpu_s >= USED_S * 0.9
    assert after.cpu_s - before.cpu_s >= USED_S * 0.9
    assert during.memory_bytes - after.memory_bytes >= HELD_MB * MB * 0.9
    assert before.at <= during.at <= after.at


async def test_an_agent_says_what_its_vm_uses(agent: RunningAgent) -> None:
    """Nobody waits for it: the first answer does not know yet, and has it looked at."""
    assert (await agent.client.health()).usage is None
    found: list[Usage] = []

    async def told() -> bool:
        usage = (await agent.client.health()).usage
        found.extend([usage] if usage is not None else [])
        return bool(found)

    await eventually(told, timeout_s=60)
    assert found[0].memory_bytes > MB
    assert found[0].cpu_s > 0
