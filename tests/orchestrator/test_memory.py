"""How much memory a preview's VM is to have, and what happens where it was too little."""

from collections.abc import Sequence

import msgspec
import pytest

from services.orchestrator.model import Preview, Size
from services.orchestrator.rules import memory
from services.orchestrator.rules.detection import detect
from services.orchestrator.state import State
from shared.commands import RecordDevServerExited, RecordFilesSynced, RecordInstallFailed, RequestPreview
from shared.errors import Invalid
from shared.events import (
    DevServerExited,
    Event,
    InstallFailed,
    PoolResized,
    PreviewFailed,
    PreviewRequested,
    PreviewWarningRaised,
)
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    dev_server_exited,
    preview_failed,
    preview_requested,
    preview_restarted,
    preview_stopped,
    project_detected,
    story,
    vm_acquired,
)
from tests.orchestrator.test_decide import orchestrator
from tests.spec import Given

SMALL = PoolResized(pool="small", target=1, minimum=0, maximum=3, memory_mb=1024)
LARGE = PoolResized(pool="large", target=1, minimum=0, maximum=3, memory_mb=2048)
ELSEWHERE = PoolResized(pool="ams", target=1, minimum=0, maximum=3, memory_mb=8192, region="ams")
CODE = "out_of_memory"


def sized(past: Sequence[Event], has_mb: int = 1024) -> list[Event]:
    """The story, in a VM of this size."""
    acquired = msgspec.structs.replace(vm_acquired(), memory_mb=has_mb)
    return [acquired if each == vm_acquired() else each for each in past]


def needing(memory_mb: int) -> Event:
    return msgspec.structs.replace(project_detected(), memory_mb=memory_mb)


def only(spec: Given[State]) -> Preview:
    return spec.state.previews[PREVIEW]


def exited(code: str = CODE) -> RecordDevServerExited:
    return RecordDevServerExited(
        preview_id=PREVIEW, attempt=1, exit_code=134, signal=None, code=code, message="No.", hint="Hm."
    )


def test_the_framework_says_what_is_needed() -> None:
    """A table has it; `drape.toml` counts more, and is checked."""
    package = {"package.json": '{"dependencies": {"next": "15.3.0"}, "scripts": {"dev": "next dev"}}'}
    assert detect(package, package).memory_mb == 2048
    page = {"index.html": ""}
    assert detect(page, page).memory_mb == 256
    own = {**package, "drape.toml": "memory_mb = 3000"}
    assert detect(own, own).memory_mb == 3000
    wrong = {**package, "drape.toml": "memory_mb = 3"}
    with pytest.raises(Invalid, match="memory_mb"):
        detect(wrong, wrong)


def test_what_is_asked_for_counts_more_than_what_is_found() -> None:
    """And what has run out before more than both; a project that is known needs no detection."""
    requested = story("requested")
    spec = orchestrator(SMALL, LARGE, *requested)
    assert (memory.need(spec.state, only(spec)), memory.depends_on_detection(spec.state, only(spec))) == (Size(0), True)
    spec = orchestrator(SMALL, *requested)
    assert not memory.depends_on_detection(spec.state, only(spec))
    spec = orchestrator(SMALL, LARGE, *requested, needing(1500))
    assert memory.need(spec.state, only(spec)) == Size(1500)
    again = preview_requested("preview-2")
    spec = orchestrator(SMALL, LARGE, *requested, needing(1500), preview_stopped(), again)
    second = spec.state.previews["preview-2"]
    assert (memory.need(spec.state, second), memory.depends_on_detection(spec.state, second)) == (Size(1500), False)
    asked = msgspec.structs.replace(requested[-1], memory_mb=512, region="ams", image="node")
    spec = orchestrator(SMALL, LARGE, *requested[:-1], asked, needing(1500))
    assert memory.need(spec.state, only(spec)) == Size(512, "ams", "node")
    grown = msgspec.structs.replace(preview_restarted(2, "out_of_memory"), memory_mb=2048)
    spec = orchestrator(SMALL, LARGE, *requested, needing(1500), grown, preview_stopped(), again)
    assert memory.need(spec.state, spec.state.previews["preview-2"]) == Size(2048)


def test_the_wish_is_in_the_event() -> None:
    wish = RequestPreview(project_id=PROJECT, owner=OWNER, memory_mb=4096, region="ams", image="node")
    outcome = orchestrator(*story("requested")[:-1]).when(wish).outcome
    assert isinstance(outcome, list)
    (requested,) = outcome
    assert isinstance(requested, PreviewRequested)
    assert (requested.memory_mb, requested.region, requested.image) == (4096, "ams", "node")


@pytest.mark.parametrize("code", sorted(memory.RAN_OUT))
def test_the_next_size_is_tried_with_a_warning(code: str) -> None:
    """The smallest bigger one in its region."""
    spec = orchestrator(SMALL, LARGE, ELSEWHERE, *sized(story("booting"))).when(exited(code))
    assert isinstance(spec.outcome, list)
    ended, warning, restarted = spec.outcome
    assert isinstance(ended, DevServerExited)
    assert isinstance(warning, PreviewWarningRaised)
    assert (warning.code, "1024" in warning.message, "2048" in warning.message) == ("vm_out_of_memory", True, True)
    assert restarted == msgspec.structs.replace(preview_restarted(2, "out_of_memory"), memory_mb=2048)
    assert (only(spec).grown_mb, only(spec).vm, only(spec).status) == (2048, None, "preparing")
    spec.when(exited(code)).stays_quiet()


def test_an_install_too() -> None:
    report = RecordInstallFailed(preview_id=PREVIEW, attempt=1, exit_code=137, code=CODE, message="No.", hint="Hm.")
    outcome = orchestrator(SMALL, LARGE, *sized(story("installing"))).when(report).outcome
    assert isinstance(outcome, list)
    assert [type(each) for each in outcome][:2] == [InstallFailed, PreviewWarningRaised]
    assert outcome[2] == msgspec.structs.replace(preview_restarted(2, "out_of_memory"), memory_mb=2048)


@pytest.mark.parametrize(
    "past",
    [
        [SMALL, *sized(story("booting"))],
        [SMALL, LARGE, *sized(story("booting"), 2048)],
        [SMALL, LARGE, PoolResized(pool="large", target=0, minimum=0, maximum=0), *sized(story("booting"))],
    ],
    ids=["one size", "the biggest", "the biggest that is left"],
)
def test_without_a_bigger_one_it_fails_as_ever(past: list[Event]) -> None:
    """With a hint that names the setting; the cause's own is sealed, and nothing can be added to it."""
    outcome = orchestrator(*past).when(exited()).outcome
    assert isinstance(outcome, list)
    ended, failed = outcome
    assert isinstance(ended, DevServerExited)
    assert isinstance(failed, PreviewFailed)
    assert (failed.code, failed.message, failed.step) == (CODE, "No.", "waiting_server")
    assert failed.hint.startswith("Its VM had ")
    assert "DRAPE_POOL_POOLS" in failed.hint
    assert "Hm." not in failed.hint


@pytest.mark.parametrize(
    ("has_mb", "code"), [(1024, "dev_server_exited"), (0, CODE)], ids=["another cause", "a VM of unknown size"]
)
def test_nothing_else_is_tried_again(has_mb: int, code: str) -> None:
    outcome = orchestrator(SMALL, LARGE, *sized(story("booting"), has_mb)).when(exited(code)).outcome
    assert isinstance(outcome, list)
    assert [type(each) for each in outcome] == [DevServerExited, PreviewFailed]


def test_a_vm_that_is_smaller_than_asked_does_not_go_round() -> None:
    """It began anew for more, and got no more: the next step is above what it began anew for."""
    grown = msgspec.structs.replace(preview_restarted(2, "out_of_memory"), memory_mb=2048)
    second = [msgspec.structs.replace(each, attempt=2) for each in story("booting")[5:] if hasattr(each, "attempt")]
    past = [*sized(story("booting")), grown, needing(0), *sized([vm_acquired()]), *second]
    past = [msgspec.structs.replace(each, attempt=2) if each == needing(0) else each for each in past]
    report = msgspec.structs.replace(exited(), attempt=2)
    outcome = orchestrator(SMALL, LARGE, *past).when(report).outcome
    assert isinstance(outcome, list)
    assert isinstance(outcome[-1], PreviewFailed)


def test_a_vm_that_is_too_small_is_told_of_once() -> None:
    """Before the first step that it matters for; and nothing is said where it is large enough, or unknown."""
    report = RecordFilesSynced(preview_id=PREVIEW, attempt=1, files_version=1, written=3, deleted=0, sync_s=0.1)

    def told(has_mb: int, needs_mb: int) -> list[str]:
        past = [needing(needs_mb) if each == project_detected() else each for each in sized(story("acquired"), has_mb)]
        outcome = orchestrator(*past).when(report).outcome
        assert isinstance(outcome, list)
        return [each.code for each in outcome if isinstance(each, PreviewWarningRaised)]

    assert told(1024, 2048) == ["vm_too_small"]
    assert told(2048, 2048) == told(0, 2048) == told(2048, 0) == []


def test_node_may_use_three_quarters_of_its_vm() -> None:
    assert memory.node_options(2048) == {"NODE_OPTIONS": "--max-old-space-size=1536"}
    assert memory.node_options(0) == {}


def test_a_failure_that_is_kept_is_no_other() -> None:
    """One that failed at the biggest stays failed, whatever is reported again."""
    past = [
        SMALL,
        *sized(story("booting")),
        dev_server_exited(exit_code=134),
        preview_failed(code=CODE, step="waiting_server"),
    ]
    orchestrator(*past).when(exited()).stays_quiet()
