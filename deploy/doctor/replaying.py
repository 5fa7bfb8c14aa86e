"""Does each service's state follow from the log alone? Replays it from event 1 and compares fingerprints."""

from collections.abc import Callable
from typing import Any

import msgspec
from nats.aio.client import Client

from deploy.doctor.finding import Finding, well, wrong
from deploy.local.options import SERVICES
from services.gateway.app import definition as gateway_definition
from services.gateway.config import GatewayConfig
from services.orchestrator.app import definition as orchestrator_definition
from services.orchestrator.config import OrchestratorConfig
from services.pool.app import definition as pool_definition
from services.pool.config import PoolConfig
from services.telemetry.app import definition as telemetry_definition
from services.telemetry.config import TelemetryConfig
from shared.definition import Definition, Replayed, digest
from shared.errors import DrapeError
from shared.jetstream.connection import bus_on

DEFINITIONS: dict[str, Callable[[], Definition[Any]]] = {
    "pool": lambda: pool_definition(PoolConfig()),
    "orchestrator": lambda: orchestrator_definition(OrchestratorConfig()),
    "gateway": lambda: gateway_definition(GatewayConfig()),
    "telemetry": lambda: telemetry_definition(TelemetryConfig()),
}


async def replayed(client: Client) -> list[Finding]:
    """One finding a service."""
    return [await _replay(client, name) for name in SERVICES]


async def _replay(client: Client, name: str) -> Finding:
    check, bus = f"replay {name}", bus_on(client, "doctor")
    try:
        live = msgspec.json.decode(await bus.commands.query(name, "digest"))
        state = Replayed(DEFINITIONS[name]())
        await bus.log.replay(0, live["seq"], None, state.fold)
    except DrapeError as error:
        return wrong(check, error.code, f"The state of {name} could not be compared.", error.message, error.hint)
    if digest(state.state) == live["digest"]:
        return well(check, f"{live['seq']} events give the live state")
    return wrong(
        check,
        "replay_differs",
        f"{live['seq']} events give ANOTHER state than the live one of {name}.",
        "What it decides does not follow from the log: a bug, or another version of the code than this one.",
        f"Restart {name}, which replays; if it differs again, please report it with the log.",
    )
