"""Events in words: every kind has its own, with what it is about; and previews that look like one that is not there."""

import pytest

from deploy.cli.explain import NEAR_MAX, lines_of, near_to
from deploy.cli.story import tell, words
from shared.codec import Meta, Recorded
from shared.events import Event, PreviewRequested, aggregate_key
from tests.shared.examples import EXAMPLES, PREVIEW

TELLS_OF_PREVIEWS = [each for each in EXAMPLES.values() if each.aggregate in ("preview", "vm", "claim", "project")]


@pytest.mark.parametrize("event", TELLS_OF_PREVIEWS, ids=lambda each: type(each).__name__)
def test_every_event_has_words_of_its_own(event: Event) -> None:
    """A sentence, not the event's name, and nothing of Python in it."""
    said = words(event, type(event).__name__)
    if type(event).__name__ != "ProjectCreated":  # it is never after the request
        assert type(event).__name__ not in said
    assert said.endswith((".", "?", "`.")) or ":" in said
    assert not any(each in said for each in ("None", "()", "{}", "  "))


def test_an_event_of_a_newer_version_is_told_by_its_name() -> None:
    assert "SomethingNew" in words(None, "SomethingNew")


def recorded(event: Event, seq: int, at: float, actor: str = "gateway/http") -> Recorded:
    meta = Meta(id=f"e{seq}", at=at, rev=seq, correlation_id=PREVIEW, causation_id=f"c{seq}", actor=actor)
    return Recorded(seq=seq, key=aggregate_key(event), type=type(event).__name__, meta=meta, event=event)


def test_a_line_says_what_when_why_and_who() -> None:
    request = PreviewRequested(preview_id=PREVIEW, project_id="shop", owner="ann", files_version=3)
    story = tell([recorded(request, 41, 1_000.0), recorded(EXAMPLES["PreviewStopped"], 42, 1_002.5)])

    assert lines_of(story.lines[0]) == [
        "    +0.000 s  Somebody wants to see the project (files version 3).",
        "              #41 PreviewRequested, by the command RequestPreview, decided by orchestrator, asked by gateway/http",
    ]
    assert lines_of(story.lines[1])[0] == "    +2.500 s  It is stopped: asked."
    assert (story.owner, story.project_id, story.status, story.total_s) == ("ann", "shop", "stopped", 2.5)


IDS = [f"01m85ea33eaz0eb705bndx9q{number:02}" for number in range(20)]


@pytest.mark.parametrize(
    ("wanted", "near"),
    [
        ("x9q07", [IDS[7]]),
        ("01M85EA33EAZ0EB705BNDX9Q07", [IDS[7]]),
        ("01m85ea33eaz", IDS[: -NEAR_MAX - 1 : -1]),
        ("q0", []),
        ("", []),
        ("nothing-like-it", []),
    ],
)
def test_previews_that_may_be_meant(wanted: str, near: list[str]) -> None:
    assert near_to(wanted, IDS) == near


def test_a_slip_of_the_pen_is_forgiven() -> None:
    assert IDS[7] in near_to("01m85ea33eaz0eb705bndx8q07", IDS)
