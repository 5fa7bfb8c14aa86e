"""A preview's story, told from the log that all services have written: nothing is left out, and everything has its cause."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from deploy.cli.explain import Source, gather
from deploy.cli.story import Line, Told, tell
from shared.codec import SUBJECT_ROOT, Recorded
from shared.events import PreviewFailed, PreviewReady, PreviewStopped, VmReleased
from tests.journeys.stage import VITE, Stage, staged

pytestmark = pytest.mark.looptime


def source_of(stage: Stage) -> Source:
    """The log in memory, read by subjects as NATS reads it."""

    async def read(subject: str, after: int, until: int | None) -> AsyncIterator[Recorded]:
        wanted = subject.split(".")
        for each in list(stage.broker.records):
            tokens = f"{SUBJECT_ROOT}.{each.key}.{each.type}".split(".")
            fits = len(tokens) >= len(wanted) and all(w in ("*", ">", t) for w, t in zip(wanted, tokens, strict=False))
            if fits and (wanted[-1] == ">" or len(tokens) == len(wanted)) and after < each.seq <= (until or each.seq):
                yield each

    return read


async def told(stage: Stage, preview_id: str) -> Told:
    gathered = await gather(source_of(stage), preview_id)
    assert gathered is not None
    events, cut = gathered
    assert not cut
    seals = stage.bus.seals
    return tell([msgspec.structs.replace(each, event=await seals.opened(each.event)) for each in events])


def without_cause(story: Told) -> list[tuple[str, str]]:
    """What nothing in the story set off, and by which command it came."""
    return [(line.event, line.because.command) for line in story.lines if not line.because.seq]


def line_of(story: Told, event: str, nth: int = 0) -> Line:
    return [line for line in story.lines if line.event == event][nth]


async def test_a_preview_from_an_empty_pool_is_told_whole() -> None:
    """Its VM boots for it, so that belongs to the story; another preview does not."""
    async with staged(warm=False, boot_s=3.0, target=0, minimum=0) as stage:
        project_id, other = await stage.project(), await stage.project(owner="bob")
        preview_id = await stage.request(project_id)
        await stage.request(other, owner="bob")
        await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.change(project_id, {**VITE, "index.html": b"edited"})
        await stage.reached("HmrProbed", preview_id)
        await stage.stop(preview_id)
        await stage.until(PreviewStopped, preview_id, within_s=5)
        await stage.until(VmReleased, preview_id, within_s=5)
        story = await told(stage, preview_id)

    (ready,) = stage.events(PreviewReady, preview_id)
    seqs = [line.seq for line in story.lines]
    own = [each.seq for each in stage.broker.records if getattr(each.event, "preview_id", None) == preview_id]
    assert seqs == sorted(seqs)
    assert set(own) <= set(seqs)
    assert all("bob" not in line.text for line in story.lines)
    assert {"VmCreationStarted", "VmBooted", "VmReleased", "ProjectFilesChanged"} <= {
        line.event for line in story.lines
    }
    assert story.total_s == pytest.approx(ready.total_s, abs=0.01)
    assert {line.step: line.step_s for line in story.lines if line.step} == {
        step: pytest.approx(seconds, abs=0.02) for step, seconds in ready.steps.items()
    }
    assert (story.status, story.attempts, story.end) == ("stopped", 1, "It was stopped.")
    # Which of the two claims a VM was made for is not to be told: it went to the one that had waited longest.
    assert [each for each in without_cause(story) if each[0] != "VmCreationStarted"] == [
        ("PreviewRequested", "RequestPreview"),
        ("ProjectFilesChanged", "RecordFiles"),
        ("PreviewStopped", "StopPreview"),
    ]


async def test_each_event_names_what_set_it_off() -> None:
    """By sequence, event and command; and who decided, and who asked."""
    async with staged() as stage:
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewReady, preview_id, within_s=10)
        story = await told(stage, preview_id)

    def because(event: str) -> tuple[str, str]:
        line = line_of(story, event)
        earlier = next(each for each in story.lines if each.seq == line.because.seq)
        assert earlier.event == line.because.event
        assert earlier.seq < line.seq
        return line.because.event, line.because.command

    assert because("VmAcquired") == ("PreviewRequested", "AcquireVm")
    assert because("ProjectDetected") == ("PreviewRequested", "RecordProject")
    assert because("FilesSynced")[1] == "RecordFilesSynced"
    assert because("InstallCompleted") == ("InstallStarted", "RecordInstallCompleted")
    assert because("DevServerReady") == ("DevServerStarted", "RecordDevServerReady")
    assert because("PreviewReady") == ("DevServerReady", "ConfirmPreview")
    acquired, requested = line_of(story, "VmAcquired"), line_of(story, "PreviewRequested")
    assert (acquired.decided, acquired.actor.partition("/")[0]) == ("pool", "orchestrator")
    assert (requested.decided, requested.actor) == ("orchestrator", "test")
    assert "warm from the pool" in line_of(story, "VmAcquired").text
    assert "vite" in line_of(story, "ProjectDetected").text


async def test_a_failure_and_the_next_attempt_are_told() -> None:
    """With the words that a person gets, opened; a preview that never was is none."""
    async with staged() as stage:
        project_id = await stage.project({"readme.md": b"nothing to show"})
        preview_id = await stage.request(project_id)
        await stage.until(PreviewFailed, preview_id, within_s=10)
        failed = await told(stage, preview_id)
        await stage.change(project_id, VITE)
        await stage.restart(preview_id)
        await stage.until(PreviewReady, preview_id, within_s=10)
        whole = await told(stage, preview_id)
        assert await gather(source_of(stage), "preview-of-nobody") is None

    (failure,) = stage.events(PreviewFailed, preview_id)
    assert failed.end == f"It failed in the step acquiring_vm: {failure.code}."
    text = line_of(failed, "PreviewFailed").text
    assert failure.code in text
    assert "sealed" not in text
    assert (whole.status, whole.attempts) == ("ready", 2)
    assert "somebody asked for it" in line_of(whole, "PreviewRestarted").text
