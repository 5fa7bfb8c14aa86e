"""`python -m deploy.provision`: makes the streams, consumers and buckets. Its own step, with its own identity."""

import asyncio
import os
import sys

from deploy.nats.permissions import PROVISION
from services.gateway import react as gateway
from services.orchestrator import react as orchestrator
from services.pool import react as pool
from services.telemetry import react as telemetry
from shared.errors import DrapeError
from shared.events import Event
from shared.jetstream import topology
from shared.jetstream.connection import connect
from shared.jetstream.credentials import seed_from
from shared.settings import common

REACTS_TO: dict[str, tuple[type[Event], ...]] = {
    "pool": pool.REACTS_TO,
    "orchestrator": orchestrator.REACTS_TO,
    "gateway": gateway.REACTS_TO,
    "telemetry": telemetry.REACTS_TO,
}
"""The event types that each service's durable consumer delivers."""


async def provision(nats_url: str, replicas: int = 1, *, seed: str | None = None) -> None:
    """Make or update everything. Idempotent. `seed`: of the identity `provision`; None takes the environment's. Raises
    `Unavailable` when NATS does not answer."""
    client = await connect(nats_url, "drape-provision", identity=PROVISION, seed=seed)
    try:
        await topology.provision(client, REACTS_TO, replicas=replicas)
    finally:
        await client.close()


def main() -> None:
    """Provision the NATS of `NATS_URL`, which may be in the file of `DRAPE_CONFIG` too."""
    try:
        settings = common()
        url, replicas = settings.nats_url, int(os.environ.get("DRAPE_STREAM_REPLICAS", "1"))
        # An address may say itself who we are.
        seed = "" if "@" in url else seed_from(settings.drape_nats_seed_file, settings.drape_nats_nkey_seed)
        asyncio.run(provision(url, replicas, seed=seed))
    except DrapeError as error:
        print(f"provision: {error.message} {error.hint}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
