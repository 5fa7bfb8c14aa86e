"""Which events belong to a preview, a project or a VM, and how little the server has to send for that."""

import pytest

from deploy.travel.selection import Selection
from shared.codec import ALL_EVENTS, Recorded
from shared.events import Event, VmHealthCheckFailed
from tests.builders import (
    PREVIEW,
    PROJECT,
    claim_queued,
    files_changed,
    pool_resized,
    preview_ready,
    preview_requested,
    preview_stopped,
    project_created,
    vm,
    vm_acquired,
    vm_booted,
    vm_creation_started,
    vm_lost,
    vm_released,
)
from tests.spec import record

OTHER, OTHERS = "preview-2", "project-2"


def unwell(number: int) -> VmHealthCheckFailed:
    return VmHealthCheckFailed(vm_id=vm(number), failures=1, detail="silent")


LOG: list[Event] = [
    pool_resized(),  # 1
    vm_creation_started(1),
    vm_booted(1),
    project_created(),
    files_changed(),  # 5
    preview_requested(),
    claim_queued(),
    unwell(1),  # before anybody holds it
    vm_acquired(1),
    unwell(1),  # 10
    project_created(OTHERS),
    preview_requested(OTHER, OTHERS),
    vm_creation_started(2),
    vm_acquired(2, preview=OTHER),
    unwell(2),  # 15
    preview_ready(),
    vm_released(1),
    unwell(1),  # afterwards
    vm_acquired(1, preview=OTHER),
    unwell(1),  # 20
    vm_lost(2, None),
    preview_stopped(),
]


def recorded() -> list[Recorded]:
    log: list[Recorded] = []
    for event in LOG:
        record(log, event)
    return log


def matches(pattern: str, subject: str) -> bool:
    """By the server's rules."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return matches(".".join(wanted[:-1]), ".".join(given[: len(wanted) - 1])) and len(given) >= len(wanted)
    return len(wanted) == len(given) and all(a in ("*", b) for a, b in zip(wanted, given, strict=True))


def sent(subjects: list[str], log: list[Recorded]) -> list[Recorded]:
    """What a server sends; each event once, for it refuses subjects that overlap."""
    found = [each for each in log if any(matches(one, f"drape.evt.{each.key}.{each.type}") for one in subjects)]
    for each in found:
        assert sum(matches(one, f"drape.evt.{each.key}.{each.type}") for one in subjects) == 1
    return found


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        (Selection(), list(range(1, len(LOG) + 1))),
        (Selection(preview_id=PREVIEW), [6, 7, 9, 10, 16, 17, 22]),
        (Selection(preview_id=OTHER), [12, 14, 15, 19, 20, 21]),
        (Selection(preview_id="nobody"), []),
        (Selection(project_id=PROJECT), [4, 5, 6, 7, 9, 10, 16, 17, 22]),
        (Selection(project_id=OTHERS), [11, 12, 14, 15, 19, 20, 21]),
        (Selection(vm_id=vm(2)), [13, 14, 15, 21]),
        (Selection(types=frozenset({"VmAcquired", "PreviewReady"})), [9, 14, 16, 19]),
        (Selection(preview_id=OTHER, types=frozenset({"VmHealthCheckFailed"})), [15, 20]),
        (Selection(project_id=PROJECT, types=frozenset({"PreviewReady"})), [16]),
        (Selection(preview_id=OTHER, vm_id=vm(1)), [19, 20]),
        (Selection(project_id=OTHERS, preview_id=OTHER, types=frozenset({"VmLost"})), [21]),
    ],
)
def test_what_is_selected(wanted: Selection, seqs: list[int]) -> None:
    """Of what the server sends, what is taken; the same as if it had sent everything."""
    log = recorded()

    assert [each.seq for each in sent(wanted.subjects(), log) if wanted.takes(each)] == seqs


@pytest.mark.parametrize("since", range(len(LOG)))
@pytest.mark.parametrize(("preview", "project"), [(PREVIEW, None), (OTHER, None), (None, OTHERS)])
def test_beginning_in_the_middle(since: int, preview: str | None, project: str | None) -> None:
    """Wherever one begins, with what tells the holder and the project read first, the same events are taken."""
    log = recorded()
    whole, late = (Selection(preview_id=preview, project_id=project) for _ in range(2))
    expected = [each.seq for each in log if whole.takes(each) and each.seq > since]

    for each in sent(late.before(), log[:since]):
        late.takes(each)

    assert [each.seq for each in sent(late.subjects(), log[since:]) if late.takes(each)] == expected


def test_the_server_sends_little() -> None:
    """By id where the id is known, by type alone else; everything only where everything is wanted."""
    log = recorded()

    assert Selection().subjects() == [ALL_EVENTS]
    assert Selection(types=frozenset({"PreviewReady"})).subjects() == ["drape.evt.orchestrator.preview.*.PreviewReady"]
    assert Selection(preview_id=PREVIEW, types=frozenset({"PreviewReady"})).subjects() == [
        f"drape.evt.orchestrator.preview.{PREVIEW}.PreviewReady"
    ]
    assert [each.type for each in sent(Selection(vm_id=vm(2)).subjects(), log)] == [
        *("VmCreationStarted", "VmAcquired", "VmHealthCheckFailed", "VmLost")
    ]
    assert Selection(types=frozenset({"PreviewReady"})).before() == []


def test_what_can_never_be() -> None:
    """A project is created in no preview: no subject at all, rather than all of them."""
    assert Selection(preview_id=PREVIEW, types=frozenset({"ProjectCreated"})).subjects() == []
    assert Selection(vm_id=vm(1), types=frozenset({"AlertRaised"})).subjects() == []
