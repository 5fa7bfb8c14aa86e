"""What is measured of previews. Pure: an event's figures are taken right after it was folded.

Residents are left out: nobody asked for them, and whoever takes one over is measured instead.
"""

from collections import Counter
from collections.abc import Sequence

from services.orchestrator.model import ENDED, Preview
from services.orchestrator.state import State
from shared.codec import Recorded
from shared.events import (
    DevServerReady,
    Event,
    FilesSynced,
    InstallCompleted,
    InstallSkipped,
    PreviewEvent,
    PreviewFailed,
    PreviewReady,
    PreviewStopped,
)
from shared.measures import Measure

STEPS = {
    "acquiring_vm": "acquire",
    "syncing_files": "sync",
    "installing": "install",
    "waiting_server": "boot",
    "confirming": "confirm",
}
PREVIEW_STATES = ("starting", "ready", "suspended")


def measures(state: State, recorded: Recorded) -> Sequence[Measure]:
    """What this event tells."""
    event = recorded.event
    if not isinstance(event, PreviewEvent):
        return []
    preview = state.previews.get(event.preview_id)
    return _of_preview(preview, event) if preview is not None and not preview.resident else []


def _of_preview(preview: Preview, event: Event) -> Sequence[Measure]:
    match event:
        case FilesSynced() if preview.status == "synced":
            return _steps(preview, "acquiring_vm", "syncing_files")
        case InstallCompleted(install_s=install_s):
            manager = preview.found.package_manager if preview.found is not None else "unknown"
            how = {**_framework(preview), "drape.package_manager": manager}
            return [Measure("drape.install.duration", install_s, how), *_steps(preview, "installing")]
        case InstallSkipped(reason=reason):
            return [Measure("drape.installs.skipped", 1, {"drape.reason": reason})]
        case DevServerReady() if preview.status == "confirming":
            return _steps(preview, "waiting_server")
        case PreviewReady(total_s=total_s, from_pool=from_pool, install=install):
            how = {"drape.warmth": "warm" if from_pool else "cold", "drape.install": install}
            return [
                Measure("drape.preview.ready.duration", total_s, {**_framework(preview), **how}),
                _outcome(preview, "ready"),
                *_steps(preview, "confirming"),
            ]
        case PreviewFailed(code=code):
            return [_outcome(preview, "failed", code)]
        case PreviewStopped():
            return [_outcome(preview, "stopped")]
        case _:
            return []


def _steps(preview: Preview, *names: str) -> list[Measure]:
    taken = [(name, preview.steps[name]) for name in names if name in preview.steps]
    return [
        Measure("drape.preview.step.duration", seconds, {"drape.step": STEPS[name], **_framework(preview)})
        for name, seconds in taken
    ]


def _outcome(preview: Preview, outcome: str, code: str = "") -> Measure:
    why = {"error.type": code} if code else {}
    return Measure("drape.preview.outcomes", 1, {"drape.outcome": outcome, **_framework(preview), **why})


def _framework(preview: Preview) -> dict[str, str]:
    return {"drape.framework": preview.found.framework if preview.found is not None else "unknown"}


def figures(state: State, _at: float) -> Sequence[Measure]:
    """What is true now."""
    count = Counter(_state_of(each) for each in state.previews.values() if each.status not in ENDED)
    return [Measure("drape.previews", count[name], {"drape.preview.state": name}) for name in PREVIEW_STATES]


def _state_of(preview: Preview) -> str:
    return preview.status if preview.status in ("ready", "suspended") else "starting"
