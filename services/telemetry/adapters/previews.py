"""The projection `previews`: one row an attempt of a preview, by day. Beside `rollups.py` all that knows its tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.telemetry.adapters.columns import fields_of, from_record, to_columns, upsert
from services.telemetry.adapters.partitions import FIRST_DAY, day_of, ensure, midnight
from services.telemetry.adapters.rollups import TABLE
from services.telemetry.rows import Attempt, preview_of, project
from shared.codec import Recorded
from shared.events import (
    PreviewRequested,
    PreviewRestarted,
    ProjectDeleted,
    VmAcquired,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
)
from shared.ids import PreviewId, VmId
from shared.sealed import ERASED

PREVIEWS = "previews"
RECENT_S = 24 * 3600.0
_EVER = midnight(FIRST_DAY)

_FIELDS = fields_of(Attempt)

_SELECT_NEWEST = (
    f"SELECT DISTINCT ON (preview_id) {', '.join(_FIELDS)} FROM drape.preview_attempts "  # noqa: S608 - our own names
    "WHERE log_id = $1 AND preview_id = ANY($2::text[]) AND attempt_at >= $3 ORDER BY preview_id, attempt DESC"
)
_UPSERT = upsert(TABLE, Attempt, ("preview_id", "attempt", "attempt_at"))
_ERASE = "UPDATE drape.preview_attempts SET message = $3 WHERE log_id = $1 AND project_id = $2 AND message IS NOT NULL"
"""New messages are sealed, and can't be read any more; those of a log from before that were not."""


_MADE = "INSERT INTO drape.preview_vms (log_id, vm_id, provider) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_GONE = "DELETE FROM drape.preview_vms WHERE log_id = $1 AND vm_id = ANY($2::text[])"
_PROVIDERS = "SELECT vm_id, provider FROM drape.preview_vms WHERE log_id = $1 AND vm_id = ANY($2::text[])"


class PreviewsProjection:
    """Every attempt of every preview."""

    name = PREVIEWS
    version = 2
    tables = (TABLE, "preview_vms", "preview_rollups", "preview_rollup_seconds")

    async def apply(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> None:
        """Write the rows that these events make or change; what a deleted project said is erased."""
        begun = {day_of(each.meta.at) for each in events if isinstance(each.event, PreviewRequested | PreviewRestarted)}
        await ensure(connection, TABLE, begun)
        providers = await self._providers(connection, log_id, events)
        rows = project(await newest(connection, log_id, events), events, providers)
        if rows:
            await connection.executemany(_UPSERT, [(log_id, *to_columns(row)) for row in rows])
        for recorded in events:
            if isinstance(recorded.event, ProjectDeleted):
                await connection.execute(_ERASE, log_id, recorded.event.project_id, ERASED)

    async def _providers(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> Mapping[VmId, str]:
        """Who made the VMs that these events give to previews. Kept for as long as there is the VM."""
        happened = [recorded.event for recorded in events]
        made = [(log_id, each.vm_id, each.provider) for each in happened if isinstance(each, VmCreationStarted)]
        if made:
            await connection.executemany(_MADE, made)
        acquired = {each.vm_id for each in happened if isinstance(each, VmAcquired)}
        found = await connection.fetch(_PROVIDERS, log_id, sorted(acquired)) if acquired else []
        gone = {each.vm_id for each in happened if isinstance(each, VmDestroyed | VmBootFailed)}
        if gone:
            await connection.execute(_GONE, log_id, sorted(gone))
        return {row["vm_id"]: row["provider"] for row in found}


async def newest(connection: Any, log_id: str, events: Sequence[Recorded]) -> Mapping[PreviewId, Attempt]:
    """The newest attempt of each preview that these events name, where it has one.

    Looked for in the last days' partitions first: most previews are young, and there may be hundreds of days.
    """
    wanted = {preview_id for preview_id in map(preview_of, events) if preview_id is not None}
    found: dict[PreviewId, Attempt] = {}
    recently = midnight(day_of(min((each.meta.at for each in events), default=0.0) - RECENT_S))
    for since in (recently, _EVER):
        missing = sorted(wanted - found.keys() - (_requested(events) if since == _EVER else set()))
        if missing:
            records = await connection.fetch(_SELECT_NEWEST, log_id, missing, since)
            found |= {record["preview_id"]: from_record(record, Attempt) for record in records}
    return found


def _requested(events: Iterable[Recorded]) -> set[PreviewId]:
    """Previews that begin with these events: there is nothing older of them."""
    return {each.event.preview_id for each in events if isinstance(each.event, PreviewRequested) and each.meta.rev == 1}
