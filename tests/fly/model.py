"""What the fake Machines API is made of: its names, one machine, and the faults that a test may order."""

import asyncio
from typing import Any
from uuid import uuid4

import msgspec

TOKEN, APP, ORG = "fm2_lJPECAAAAAAAtest-token-of-the-fake", "drape-vms", "drape"
IMAGE = f"registry.fly.io/{APP}@sha256:{'1' * 64}"
FAR_IMAGE = f"registry.fly.io/{APP}-arm@sha256:{'2' * 64}"
HANGING_IMAGE = f"registry.fly.io/{APP}-hanging@sha256:{'3' * 64}"


class Fault(msgspec.Struct, kw_only=True):
    """An answer in the place of the real one, for the next `times` calls that match. `after`: what was asked is done, and
    only its answer is lost."""

    method: str
    path: str
    status: int = 500
    body: str = '{"error": "a fault of the fake"}'
    headers: dict[str, str] = {}
    times: int = 1
    after: bool = False


class FakeMachine:
    """One machine. `changed` is set anew at each change of its state."""

    def __init__(self, name: str, region: str, config: dict[str, Any], created_at: float) -> None:
        self.id = uuid4().hex[:14]
        self.instance_id = f"01{uuid4().hex[:24].upper()}"
        self.name = name
        self.region = region
        self.config = config
        self.created_at = created_at
        self.state = "created"
        self.private_ip = ""
        self.nonce = ""
        self.lease_until = 0.0
        self.changed = asyncio.Event()
        self.cold = False

    def become(self, state: str) -> None:
        self.state = state
        self.changed.set()
        self.changed = asyncio.Event()
