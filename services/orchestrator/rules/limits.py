"""How many previews there may be, of one owner and in all. Pure. They are counted in the state, so for all replicas together;
those that are being decided at this moment may come on top."""

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import ENDED, Preview
from services.orchestrator.state import State
from shared.errors import Refused, Unavailable
from shared.ids import OwnerId

WAITING_RETRY_S = 5.0
"""VMs come back in seconds."""
LIVE_RETRY_S = 30.0
"""Previews end when somebody ends them, or when they are stopped to make room."""


def check(state: State, owner: OwnerId, config: OrchestratorConfig) -> None:
    """Raises `Refused` (429) where this owner, `Unavailable` (503) where everybody has as many as may be. Residents don't
    count: the pool's size bounds them, and they give way."""
    live = [each for each in state.previews.values() if each.status not in ENDED and not each.resident]
    mine = [each for each in live if each.owner == owner]
    if len(mine) >= config.previews_per_owner_max:
        raise Refused(
            "too_many_previews",
            f"You have {len(mine)} live previews, as many as one owner may have.",
            "Stop one that is not needed, then ask again.",
            status=429,
            retry_after_s=LIVE_RETRY_S,
        )
    if sum(map(_waits, mine)) >= config.waiting_per_owner_max:
        raise Refused(
            "too_many_waiting",
            f"{config.waiting_per_owner_max} of your previews wait for a VM already.",
            "Ask again once some of them have one.",
            status=429,
            retry_after_s=WAITING_RETRY_S,
        )
    if len(live) >= config.previews_max:
        raise Unavailable(
            "previews_full",
            f"There are {len(live)} live previews, as many as there may be.",
            "Ask again later.",
            retry_after_s=LIVE_RETRY_S,
        )
    if sum(map(_waits, live)) >= config.waiting_max:
        raise Unavailable(
            "claims_full",
            f"{config.waiting_max} previews wait for a VM already.",
            "Ask again in a moment.",
            retry_after_s=WAITING_RETRY_S,
        )


def _waits(preview: Preview) -> bool:
    return preview.status == "preparing" and preview.vm is None
