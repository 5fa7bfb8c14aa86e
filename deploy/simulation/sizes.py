"""The rule of sizes: nobody is left in a VM that has less memory than was wanted without being told. Read off the log."""

from collections.abc import Iterable

import msgspec

from shared.codec import Recorded
from shared.events import (
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewWarningRaised,
    ProjectDetected,
    VmAcquired,
)

TOLD = "vm_too_small"


class _Seen(msgspec.Struct):
    """Of one preview's attempt, in MB."""

    asked: int
    detected: int = 0
    grown: int = 0
    has: int = 0
    told: bool = False

    def lacks(self) -> bool:
        return self.has < max(self.asked or self.detected, self.grown)


def none_too_small(records: Iterable[Recorded]) -> list[str]:
    """Each preview that is ready has what it asked for or needs, and what it began anew for; or was told that it has not."""
    seen: dict[str, _Seen] = {}
    broken: list[str] = []
    for recorded in records:
        event = recorded.event
        if isinstance(event, PreviewRequested):
            seen[event.preview_id] = _Seen(event.memory_mb)
        one = seen.get(getattr(event, "preview_id", None) or "")
        if one is None:
            continue
        match event:
            case PreviewRestarted(memory_mb=memory_mb):
                one.grown, one.told = max(one.grown, memory_mb), False
            case ProjectDetected(memory_mb=memory_mb):
                one.detected = memory_mb
            case VmAcquired(memory_mb=memory_mb):
                one.has = memory_mb
            case PreviewWarningRaised(code=code) if code == TOLD:
                one.told = True
            case PreviewReady(preview_id=preview_id) if one.lacks() and not one.told:
                broken.append(f"seq {recorded.seq}: {preview_id} is ready with too little memory, untold: {one}")
            case _:
                continue
    return broken
