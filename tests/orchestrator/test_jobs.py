"""How the two jobs' ends are told."""

import pytest

from services.orchestrator.jobs import _outcome, install_failure
from services.orchestrator.react import RunDevServer
from shared.agent.protocol import Erroring, JobStatus, Ready, ReadyTimeout
from shared.commands import FailPreview, RecordDevServerReady

EFFECT = RunDevServer("preview-1", 3, "dev-3")


@pytest.mark.parametrize(
    ("exit_code", "signal", "timed_out", "code"),
    [
        (1, None, False, "install_failed"),
        (254, None, False, "install_failed"),
        (127, None, False, "package_manager_missing"),
        (137, None, False, "install_killed"),
        (None, "SIGKILL", False, "install_killed"),
        (None, "SIGTERM", True, "install_timeout"),
        (1, None, True, "install_timeout"),
    ],
)
def test_a_failed_install_has_a_reason(exit_code: int | None, signal: str | None, timed_out: bool, code: str) -> None:
    """A stable code, words, and a hint; the limit that passed is named."""
    status = JobStatus(
        id="install-1", state="exited", started_at=0.0, exit_code=exit_code, signal=signal, timed_out=timed_out
    )
    got, message, hint = install_failure(status, 120.0)
    assert (got, bool(hint)) == (code, True)
    assert "None" not in message
    assert ("120 s" in message) == timed_out
    if signal and not timed_out:
        assert signal in message


def test_ready_is_recorded_with_where_it_answered() -> None:
    update = Ready(port=5173, host="::1", status=200, listening_s=0.5, first_response_s=1.0, elapsed_s=1.2)
    assert _outcome(EFFECT, update) == RecordDevServerReady(
        preview_id="preview-1", attempt=3, host="::1", port=5173, status=200, boot_s=1.2
    )


@pytest.mark.parametrize(
    ("update", "code", "words"),
    [
        (Erroring(port=5173, status=502, elapsed_s=15.0), "dev_server_erroring", "502"),
        (ReadyTimeout(port=None, elapsed_s=120.0, reason="nothing listens"), "dev_server_timeout", "nothing listens"),
    ],
)
def test_what_never_answered_well_has_failed(update: Erroring | ReadyTimeout, code: str, words: str) -> None:
    """A time-out is a failure, with how far it got, and of the attempt that it belongs to."""
    outcome = _outcome(EFFECT, update)
    assert isinstance(outcome, FailPreview)
    assert (outcome.preview_id, outcome.attempt, outcome.code, bool(outcome.hint)) == ("preview-1", 3, code, True)
    assert words in outcome.message
