"""Replicas that end in order, are replaced, or hear of everything late."""

from tests.journeys.stage import Stage


async def stop_replica(stage: Stage, name: str) -> None:
    """SIGTERM: it drains, as its process does, and is gone."""
    replica = stage.replicas[name]
    if replica.feed is not None:
        replica.feed.leave()
        replica.gone.set()
    await replica.run(replica.runtime.drain())
    await stage.crash(name)


async def replace_replica(stage: Stage, name: str) -> None:
    """As a rollout does it: the new one serves before the old one is stopped."""
    old = stage.replicas.pop(name)
    await stage.start(name)
    new, stage.replicas[name] = stage.replicas[name], old
    await stop_replica(stage, name)
    stage.replicas[name] = new


def hold_back(stage: Stage, name: str, lag_s: float) -> None:
    """From now on this replica hears of everything so much later."""
    stage.replicas[name].lag_s = lag_s
