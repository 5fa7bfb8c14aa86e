"""How many previews there may be: what is over is refused with a code, a status and a time to come back."""

import msgspec
import pytest

from services.orchestrator.app import definition
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.state import State
from shared.commands import RequestPreview, RestartPreview
from shared.errors import DrapeError
from shared.events import (
    Event,
    PreviewFailed,
    PreviewRequested,
    PreviewStopped,
    PreviewWanted,
    ProjectCreated,
    ProjectFilesChanged,
    VmAcquired,
)
from shared.ids import derive_keyed, is_token
from shared.secrets import preview_key
from tests.spec import Given, given

SECRET = "5e" * 32
NEW = RequestPreview(project_id="new", owner="ann")


def _project(name: str, owner: str) -> list[Event]:
    files = ProjectFilesChanged(
        project_id=name, files_version=1, manifest=f"m-{name}", files=1, size_bytes=1, changed=1, deleted=0
    )
    return [ProjectCreated(project_id=name, owner=owner, name=name), files]


def _live(number: int, owner: str, *, waits: bool = False) -> list[Event]:
    name, preview_id = f"{owner}-{number}", f"{owner}-preview-{number}"
    asked = PreviewRequested(preview_id=preview_id, project_id=name, owner=owner, files_version=1)
    vm = VmAcquired(
        vm_id=f"vm-{preview_id}", preview_id=preview_id, owner=owner, from_pool=True, waited_s=0.0, host="h", port=1
    )
    return [*_project(name, owner), asked, *([] if waits else [vm])]


def _given(*past: list[Event], **knobs: int) -> Given[State]:
    config = msgspec.structs.replace(OrchestratorConfig(), **knobs)
    return given(definition(config, SECRET), *_project("new", "ann"), *(event for each in past for event in each))


def _refusal(spec: Given[State]) -> tuple[int, str]:
    assert isinstance(spec.outcome, DrapeError), spec.outcome
    assert spec.outcome.retry_after_s is not None
    assert spec.outcome.hint
    return spec.outcome.status, spec.outcome.code


@pytest.mark.parametrize(
    ("past", "knobs", "refusal"),
    [
        ([_live(1, "ann"), _live(2, "ann")], {"previews_per_owner_max": 2}, (429, "too_many_previews")),
        ([_live(1, "ann", waits=True)], {"waiting_per_owner_max": 1}, (429, "too_many_waiting")),
        ([_live(1, "bob"), _live(2, "eve")], {"previews_max": 2}, (503, "previews_full")),
        ([_live(1, "bob", waits=True)], {"waiting_max": 1}, (503, "claims_full")),
    ],
    ids=["owner", "owner-waits", "all", "all-wait"],
)
def test_one_more_is_refused(past: list[list[Event]], knobs: dict[str, int], refusal: tuple[int, str]) -> None:
    """The limit itself is allowed, and one above it is not; a larger limit lets the same wish through."""
    assert _refusal(_given(*past, **knobs).when(NEW)) == refusal
    roomier = {name: limit + 1 for name, limit in knobs.items()}
    assert isinstance(_given(*past, **roomier).when(NEW).outcome, list)


def test_an_owners_flood_leaves_room_for_others() -> None:
    """What one has too many of is not refused to another."""
    past = [_live(number, "bob", waits=True) for number in range(5)]
    spec = _given(*past, previews_per_owner_max=5, waiting_per_owner_max=5, waiting_max=6).when(NEW)
    assert isinstance(spec.outcome, list)
    assert len(spec.outcome) == 1


def test_what_has_ended_and_residents_do_not_count() -> None:
    ended: list[Event] = [PreviewStopped(preview_id="ann-preview-1", reason="asked")]
    resident: list[Event] = [
        PreviewRequested(preview_id="res", project_id="new", owner="ann", files_version=1, resident=True)
    ]
    spec = _given(_live(1, "ann"), ended, resident, previews_per_owner_max=1, waiting_per_owner_max=1).when(NEW)
    assert isinstance(spec.outcome, list)


def test_who_shares_a_live_preview_or_asks_again_is_never_refused() -> None:
    """At the limit, the same command is granted twice, and so is a wish for what is there."""
    again = msgspec.structs.replace(NEW, id="again")
    spec = _given(previews_per_owner_max=1).when(NEW, NEW).stays_quiet()
    spec.when(again).stays_quiet()


def test_a_restart_of_what_has_ended_counts_too() -> None:
    """Else the limit would be passed by stopping and restarting; a live one may restart."""
    stopped: list[Event] = [PreviewStopped(preview_id="ann-preview-1", reason="asked")]
    spec = _given(_live(1, "ann"), stopped, _live(2, "ann"), previews_per_owner_max=1)
    assert _refusal(spec.when(RestartPreview(preview_id="ann-preview-1"))) == (429, "too_many_previews")
    assert isinstance(spec.when(RestartPreview(preview_id="ann-preview-2")).outcome, list)


# --- ids and privacy ----------------------------------------------------------------------------------------------


def test_ids_follow_from_the_secret_and_from_nothing_else() -> None:
    """The same for the same request in every replica; unknown to who has not the secret; sortable and a DNS label."""
    parent = "01jd2e8c4mqv9tq5w3x7y8z9ab"
    one, other = preview_key(SECRET), preview_key("00" * 32)
    ids = {derive_keyed(one, parent, "preview", 1), derive_keyed(one, parent, "preview", 1)}
    assert len(ids) == 1
    (preview_id,) = ids
    assert preview_id != derive_keyed(other, parent, "preview", 1) != derive_keyed(one, parent, "preview", 2)
    assert preview_id[:10] == parent[:10]
    assert len(preview_id) == 26
    assert is_token(preview_id)
    requested = _given().when(NEW).outcome
    assert isinstance(requested, list)
    assert isinstance(requested[0], PreviewRequested)
    assert requested[0].preview_id == derive_keyed(one, "new", "preview", 1)


def test_a_private_wish_makes_a_private_preview_and_stays_so() -> None:
    """Also over a restart, and for who asks again without saying so."""
    private = msgspec.structs.replace(NEW, private=True)
    spec = _given().when(private)
    (preview,) = spec.state.previews.values()
    assert preview.private
    spec.when(msgspec.structs.replace(NEW, id="again"), RestartPreview(preview_id=preview.preview_id, id="restart"))
    assert spec.state.previews[preview.preview_id].private


def test_a_public_preview_does_not_become_private() -> None:
    """Somebody may have seen it; what is prepared was seen by nobody."""
    private = msgspec.structs.replace(NEW, private=True, id="private")
    assert _given().when(NEW, private).refuses("preview_is_public")
    prepared = msgspec.structs.replace(NEW, prepare=True)
    spec = _given().when(prepared, private)
    (preview_id,) = spec.state.previews
    spec.then(PreviewWanted(preview_id=preview_id, attempt=1, private=True))
    assert spec.state.previews[preview_id].private


def test_a_failed_public_preview_is_not_tried_again_as_a_private_one() -> None:
    failed: list[Event] = [
        PreviewRequested(preview_id="old", project_id="new", owner="ann", files_version=1),
        VmAcquired(vm_id="vm-1", preview_id="old", owner="ann", from_pool=True, waited_s=0.0, host="h", port=1),
        PreviewFailed(preview_id="old", attempt=1, code="install_failed", message="m", hint="h", step="installing"),
    ]
    spec = _given(failed).when(msgspec.structs.replace(NEW, private=True))
    assert isinstance(spec.outcome, list)
    assert isinstance(spec.outcome[0], PreviewRequested)
    assert spec.outcome[0].private
