"""Which events a person wants to see: as subjects for the server, and as a last word on each event. Pure.

A preview's story is told by its own events, its claim's, and those of its VM while it held that. Which VM that was is
read from the log as it goes by; so is which previews are a project's.
"""

from collections.abc import Iterator

from shared.codec import ALL_EVENTS, SUBJECT_ROOT, Recorded
from shared.events import (
    EVENT_TYPES,
    ClaimEvent,
    Event,
    PreviewEvent,
    PreviewRequested,
    ProjectEvent,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCleaned,
    VmCreationStarted,
    VmDestroyed,
    VmEvent,
    VmLost,
    VmReleased,
)

BEFORE_AND_AFTER = (VmCreationStarted, VmBooted, VmBootFailed, VmCleaned, VmDestroyed)
"""Of a VM, but of no preview that holds it."""


class Selection:
    """What is wanted; None and empty: all. `takes` is to be asked of every event under `subjects`, in order; to begin in
    the middle of the log, first of those under `before`."""

    def __init__(
        self,
        *,
        preview_id: str | None = None,
        project_id: str | None = None,
        vm_id: str | None = None,
        types: frozenset[str] = frozenset(),
    ) -> None:
        self._preview_id = preview_id
        self._project_id = project_id
        self._vm_id = vm_id
        self._types = types
        self._held: dict[str, str] = {}
        self._previews: set[str] = set()

    def subjects(self) -> list[str]:
        """What the server is to send: as little as is needed; none overlaps another."""
        if not (self._preview_id or self._project_id or self._vm_id or self._types):
            return [ALL_EVENTS]
        found = {kind: self._ids(kind) for kind in EVENT_TYPES.values() if self._is_wanted(kind)}
        if any(issubclass(kind, VmEvent) for kind in found):
            found |= dict.fromkeys(self._tells_holder(), self._vm_id or "*")
        if found:
            found |= dict.fromkeys(self._tells_project(), "*")
        return [
            f"{SUBJECT_ROOT}.{kind.service}.{kind.aggregate}.{token}.{kind.__name__}" for kind, token in found.items()
        ]

    def before(self) -> list[str]:
        """What tells, of the log before the beginning, which VM the preview holds, and which previews are the project's."""
        kinds = (*self._tells_holder(), *self._tells_project())
        return [f"{SUBJECT_ROOT}.{kind.service}.{kind.aggregate}.*.{kind.__name__}" for kind in kinds]

    def takes(self, recorded: Recorded) -> bool:
        """Whether this event is wanted."""
        event = recorded.event
        belongs = self._belongs(recorded, event)
        self._learn(event)
        return belongs and (not self._types or recorded.type in self._types)

    def _belongs(self, recorded: Recorded, event: Event | None) -> bool:
        if self._preview_id and not self._of_preview(recorded, event):
            return False
        if self._vm_id and self._vm_id not in (recorded.key.rpartition(".")[2], getattr(event, "vm_id", None)):
            return False
        return not self._project_id or self._of_project(recorded, event)

    def _of_preview(self, recorded: Recorded, event: Event | None) -> bool:
        named = (recorded.key.rpartition(".")[2], *(getattr(event, name, None) for name in ("preview_id", "resident")))
        if self._preview_id in named:
            return True
        return isinstance(event, VmEvent) and self._holder(event) == self._preview_id

    def _of_project(self, recorded: Recorded, event: Event | None) -> bool:
        if (
            recorded.key.rpartition(".")[2] == self._project_id
            or getattr(event, "project_id", None) == self._project_id
        ):
            return True
        of = getattr(event, "preview_id", None) or (self._holder(event) if isinstance(event, VmEvent) else None)
        return of in self._previews

    def _holder(self, event: VmEvent) -> str | None:
        return None if isinstance(event, BEFORE_AND_AFTER) else self._held.get(event.vm_id)

    def _learn(self, event: Event | None) -> None:
        match event:
            case VmAcquired(vm_id=vm_id, preview_id=preview_id):
                if preview_id == self._preview_id or preview_id in self._previews:
                    self._held[vm_id] = preview_id
                else:
                    self._held.pop(vm_id, None)
            case VmReleased(vm_id=vm_id) | VmLost(vm_id=vm_id) | VmDestroyed(vm_id=vm_id):
                self._held.pop(vm_id, None)
            case PreviewRequested(preview_id=preview_id, project_id=project_id) if project_id == self._project_id:
                self._previews.add(preview_id)

    def _is_wanted(self, kind: type[Event]) -> bool:
        if self._types and kind.__name__ not in self._types:
            return False
        by_preview = issubclass(kind, PreviewEvent | ClaimEvent) or (
            issubclass(kind, VmEvent) and kind not in BEFORE_AND_AFTER
        )
        if self._preview_id and not by_preview:
            return False
        if self._vm_id and not (issubclass(kind, VmEvent) or "vm_id" in kind.__struct_fields__):
            return False
        return not self._project_id or by_preview or issubclass(kind, ProjectEvent)

    def _ids(self, kind: type[Event]) -> str:
        """The subject's token for the aggregate's id: as narrow as it can be."""
        if issubclass(kind, PreviewEvent | ClaimEvent):
            return self._preview_id or "*"
        if issubclass(kind, VmEvent):
            return self._vm_id or "*"
        return (self._project_id or "*") if issubclass(kind, ProjectEvent) else "*"

    def _tells_holder(self) -> Iterator[type[Event]]:
        if self._preview_id or self._project_id:
            yield from (VmAcquired, VmReleased, VmLost)

    def _tells_project(self) -> Iterator[type[Event]]:
        if self._project_id:
            yield PreviewRequested
