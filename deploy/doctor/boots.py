"""Whether VMs boot: pools whose newest boots have failed, and what the provider said of it."""

from collections.abc import Sequence

import msgspec
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from deploy.doctor.finding import Finding, named, warning, well, wrong
from services.pool.views import PoolNumbers, PoolSummary
from shared.codec import decode
from shared.events import Event, VmBootFailed
from shared.jetstream.connection import bus_on
from shared.jetstream.topology import EVENTS

ANSWER_S = 5.0
FAILED = "drape.evt.pool.vm.*.VmBootFailed"


async def boots(client: Client) -> list[Finding]:
    """Asks the pool, and the log for the reason."""
    answer = await bus_on(client, "doctor").commands.query("pool", "summary", timeout_s=ANSWER_S)
    pools = msgspec.json.decode(answer, type=PoolSummary).pools
    said = None
    if any(pool.boot_failures for pool in pools):
        try:
            newest = await client.jetstream(timeout=ANSWER_S).get_last_msg(EVENTS, FAILED)
            said = decode(newest.data or b"", seq=newest.seq or 0, subject=newest.subject or FAILED).event
        except NotFoundError:
            said = None  # the numbers are all there is
    return [judged(pools, said)]


def judged(pools: Sequence[PoolNumbers], said: Event | None) -> Finding:
    """An error where nothing boots, a warning where something does."""
    failing = [f"{pool.name} ({pool.boot_failures} in a row)" for pool in pools if pool.boot_failures]
    if not failing:
        return well("boots", "the newest VM of each pool booted")
    what = f"VMs do not boot: of {named(failing)}."
    why = f"The newest failure: {said.code}: {said.message.rstrip('.')}." if isinstance(said, VmBootFailed) else ""
    todo = "`drape events --type VmBootFailed` has all of them. The pool goes on trying, with growing pauses."
    report = wrong if len(failing) == len(pools) else warning
    return report("boots", "vm_boots_failing", what, why, todo)
