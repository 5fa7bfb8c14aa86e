"""No command of the orchestrator is left out of the tests."""

from shared.commands import (
    HandleVmLost,
    MaintainResidents,
    RequestPreview,
    RestartPreview,
    ResumePreview,
    StopPreview,
    SuspendPreview,
    commands_of,
)
from tests.orchestrator.test_decide import EVERY_REPORT

WISHES = {RequestPreview, StopPreview, RestartPreview, HandleVmLost}
ELSEWHERE = {SuspendPreview, ResumePreview, MaintainResidents}
"""See test_idle.py and test_residents.py."""


def test_every_command_has_its_tests() -> None:
    """A new command of the orchestrator must appear here."""
    covered = {type(report) for report, _ in EVERY_REPORT}
    assert covered | WISHES | ELSEWHERE == set(commands_of("orchestrator"))
