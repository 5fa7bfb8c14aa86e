"""What of the services' states belongs to a preview, and what differs between two moments: of real folds."""

from typing import Any

import pytest

from deploy.doctor.replaying import DEFINITIONS
from deploy.travel.replaying import Past
from deploy.travel.states import Change, around, counts, differences, ids_around, plain, previews_in, statuses
from shared.codec import Recorded
from shared.definition import digest, replay
from shared.memory.broker import Shared
from shared.memory.log import MemoryLog
from tests.builders import (
    PREVIEW,
    PROJECT,
    claim_queued,
    files_changed,
    preview_requested,
    preview_stopped,
    project_created,
    story,
    vm,
    vm_acquired,
    warm_vms,
)
from tests.spec import AT, record

LOG = [
    *warm_vms(1, 2),
    project_created(),
    files_changed(),
    preview_requested(),
    vm_acquired(1),
    project_created("project-2"),
    preview_requested("preview-2", "project-2"),
    claim_queued("preview-2"),
]


def recorded(*events: Any) -> list[Recorded]:
    log: list[Recorded] = []
    for event in events:
        record(log, event)
    return log


def states(log: list[Recorded]) -> dict[str, Any]:
    return {name: plain(replay(make(), log)) for name, make in DEFINITIONS.items()}


def test_what_is_around_a_preview() -> None:
    """Its VM and project, in every service, and nothing of another's."""
    found = states(recorded(*LOG))
    ids = ids_around(found, PREVIEW)

    assert previews_in(found) == [PREVIEW, "preview-2"]
    assert ids == {PREVIEW, PROJECT, vm(1)}
    assert around(found["pool"], ids, PREVIEW).keys() == {"vms", "holders"}
    assert around(found["pool"], ids, PREVIEW)["vms"].keys() == {vm(1)}
    assert around(found["gateway"], ids, PREVIEW)["projects"].keys() == {PROJECT}
    waiting = ids_around(found, "preview-2")
    assert around(found["pool"], waiting, "preview-2")["claims"].keys() == {"preview-2"}
    assert around(found["telemetry"], waiting, "preview-2")["waiting"].keys() == {"preview-2"}
    assert ids_around(found, "nobody") == {"nobody"}


def test_a_summary() -> None:
    """Numbers of things, and of what status they are."""
    pool = states(recorded(*LOG))["pool"]

    assert (counts(pool)["vms"], counts(pool)["claims"]) == (2, 1)
    assert statuses(pool["vms"]) == {"acquired": 1, "ready": 1}
    assert statuses(pool["ready"]) == {}


def test_what_one_event_changes() -> None:
    """Field by field, in every state that it is about; nothing where nothing happened."""
    acquired = LOG.index(vm_acquired(1))
    before, after = states(recorded(*LOG[:acquired])), states(recorded(*LOG[: acquired + 1]))
    assert [list(differences(name, before[name], before[name])) for name in before] == [[], [], [], []]
    pool = {(each.kind, each.place, each.key): each for each in differences("pool", before["pool"], after["pool"])}
    vm_changed = pool["changed", "vms", vm(1)].fields
    assert vm_changed["status"] == ("ready", "acquired")
    assert vm_changed["preview_id"] == (None, PREVIEW)
    assert "created_at" not in vm_changed
    assert pool["added", "holders", PREVIEW] == Change(
        service="pool", kind="added", place="holders", key=PREVIEW, value=vm(1)
    )
    assert pool["removed", "ready", vm(1)].value is None
    telemetry = list(differences("telemetry", before["telemetry"], after["telemetry"]))
    assert ("removed", "warm", vm(1)) in {(each.kind, each.place, each.key) for each in telemetry}


def test_nested_fields_have_paths() -> None:
    """ "a.b", down to where the values are no objects; a field that comes or goes is None on its other side."""
    before = {"things": {"x": {"a": {"b": 1, "c": 2}, "gone": 5}}, "count": 1}
    after = {"things": {"x": {"a": {"b": 1, "c": 3}, "new": []}}, "count": 2}

    assert list(differences("s", before, after)) == [
        Change(service="s", kind="changed", place="", key="count", fields={"count": (1, 2)}),
        Change(
            service="s",
            kind="changed",
            place="things",
            key="x",
            fields={"a.c": (2, 3), "gone": (5, None), "new": (None, [])},
        ),
    ]


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
async def test_a_state_of_the_past_is_that_of_its_events(name: str) -> None:
    """Wherever one stops and goes on, the state is that of the events up to there, and each event is seen once."""
    broker = Shared()
    events = [project_created(), files_changed(), *warm_vms(1), *story(), preview_stopped()]
    for each in recorded(*events):
        assert each.event is not None
        broker.store(each.event, each.meta, broker.heads[each.key].seq if each.key in broker.heads else 0)
    past, seen = Past([name], MemoryLog(broker)), list[int]()

    for until in range(1, len(events) + 1):
        await past.to(until, lambda each: seen.append(each.seq))
        assert digest(past.folds[name].state) == digest(replay(DEFINITIONS[name](), broker.records[:until]))

    assert seen == list(range(1, len(events) + 1))
    assert past.last is not None
    assert (past.last.type, past.last.meta.at) == ("PreviewStopped", AT)
