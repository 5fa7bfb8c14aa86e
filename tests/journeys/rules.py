"""The rules of the design that always hold, checked after a journey."""

from deploy.simulation.rules import broken_rules
from tests.journeys.stage import Stage


def check_rules(stage: Stage, *, parked: int = 0) -> None:
    """Fails with the rule that was broken, and the log."""
    broken = broken_rules(stage, parked=parked)
    assert not broken, "\n".join([*broken, stage.told()])
