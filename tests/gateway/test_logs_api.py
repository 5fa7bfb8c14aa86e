"""A preview's output over HTTP: from any offset, by step and attempt, live and afterwards, with what is cut named."""

from contextlib import aclosing
from typing import Any

import pytest

from services.gateway.views import LOG_LIMITS
from shared.output import LogLine
from tests.builders import preview_failed, preview_stopped, story
from tests.gateway.api_stage import PREVIEW, ApiStage, api_stage
from tests.spec import AT

PATH = f"/api/previews/{PREVIEW}/logs"


def line(step: str, offset: int, attempt: int = 1) -> LogLine:
    text = f"{step} {attempt} {offset}"
    return LogLine(at=AT + offset, step=step, stream="stdout", text=text, attempt=attempt, offset=offset)


async def printed(stage: ApiStage) -> None:
    """Two attempts, five batches, with another preview's between them."""
    await stage.say(line("install", 0), line("install", 1))
    await stage.say(line("install", 0), preview="another")
    await stage.say(line("dev_server", 0))
    await stage.say(line("install", 0, 2), line("install_retry", 0, 2))
    await stage.say(line("dev_server", 0, 2), line("dev_server", 1, 2))


async def read(stage: ApiStage, query: str = "") -> tuple[list[str], dict[str, Any]]:
    answer = await stage.call("GET", PATH + query)
    assert answer.status == 200, answer.text
    return [each["text"] for each in answer.json["lines"]], answer.json


async def test_each_line_has_time_stream_and_step() -> None:
    async with api_stage(*story("ready")) as stage:
        await stage.say(line("install", 3))
        assert (await read(stage))[1]["lines"] == [
            {"at": AT + 3, "step": "install", "stream": "stdout", "text": "install 1 3", "attempt": 1, "offset": 3}
        ]


async def test_a_page_goes_on_where_the_last_one_ended() -> None:
    """`next` of one is `since` of the other; at the end there is nothing more, and `next` stays."""
    async with api_stage(*story("ready")) as stage:
        await printed(stage)
        every, page = await read(stage)
        assert len(every) == 7
        assert (await read(stage, f"?since={page['next']}"))[1] == {"lines": [], "next": page["next"]}
        assert (await read(stage, "?since=3"))[0] == every[3:]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("?step=install", ["install 1 0", "install 1 1", "install 2 0"]),
        ("?step=install,install_retry&attempt=2", ["install 2 0", "install_retry 2 0"]),
        ("?attempt=2&step=dev_server", ["dev_server 2 0", "dev_server 2 1"]),
        ("?attempt=9", []),
    ],
)
async def test_a_step_or_an_attempt(query: str, wanted: list[str]) -> None:
    """As a page, and as server-sent events from what was to what comes."""
    async with api_stage(*story("ready")) as stage:
        await printed(stage)
        assert (await read(stage, query))[0] == wanted
        heard: list[str] = []
        async with aclosing(stage.sse(PATH + query)) as events:
            while len(heard) < len(wanted):
                heard += [each["text"] for each in (await anext(events))[1]["lines"]]
        assert heard == wanted


@pytest.mark.parametrize("query", ["?since=x", "?attempt=x", "?attempt=-1", "?step=instal", "?step=install,x"])
async def test_a_wrong_question_is_refused(query: str) -> None:
    """A misspelt step must not look like one that printed nothing."""
    async with api_stage(*story("ready")) as stage:
        status, code = (await stage.call("GET", PATH + query)).problem()
        assert (status, code) == (400, f"bad_{query[1:].partition('=')[0]}")


async def test_lines_come_live_and_only_once() -> None:
    """From the offset that the reader has, then as they come; those of other steps don't end it."""
    async with api_stage(*story("ready")) as stage:
        await printed(stage)
        async with aclosing(stage.sse(PATH + "?step=dev_server", last_id="4")) as events:
            assert [each["text"] for each in (await anext(events))[1]["lines"]] == ["dev_server 2 0", "dev_server 2 1"]
            await stage.say(line("install", 9, 2))
            await stage.say(line("dev_server", 2, 2))
            assert [each["text"] for each in (await anext(events))[1]["lines"]] == ["dev_server 2 2"]


@pytest.mark.parametrize("end", [preview_failed(), preview_stopped()])
async def test_the_log_outlives_the_preview(end: Any) -> None:
    async with api_stage(*story("ready"), end) as stage:
        await printed(stage)
        assert len((await read(stage))[0]) == 7


async def test_a_reader_who_follows_is_done_when_the_preview_is_stopped() -> None:
    """Stopped while it follows, and before: all that there is, and an end. A failed one may be tried again."""
    async with api_stage(*story("ready")) as stage:
        await printed(stage)
        async with aclosing(stage.sse(PATH)) as events:
            heard = [(await anext(events))[0] for _ in range(3)]
            await stage.record(preview_stopped())
            async for kind, _ in events:
                heard.append(kind)
        again = [kind async for kind, _ in stage.sse(PATH)]
        assert set(again) == {"log"}
        assert heard == again


async def test_what_was_dropped_is_named() -> None:
    """In a page and as an event of its own, before the first line; with the limit that cut it."""
    async with api_stage(*story("ready")) as stage:
        await stage.say(*(line("install", offset) for offset in (70, 71)))
        cut = (await read(stage))[1]["cut"]
        assert (cut["type"], cut["lines"], LOG_LIMITS in cut["reason"]) == ("cut", 70, True)
        async with aclosing(stage.sse(PATH)) as events:
            assert await anext(events) == ("cut", cut)
            assert (await anext(events))[0] == "log"


async def test_a_reader_that_was_away_for_too_long_is_told() -> None:
    """What it has read last is gone, and so may be what came after it."""
    async with api_stage(*story("ready")) as stage:
        await printed(stage)
        del stage.broker.preview_logs[PREVIEW][:2]
        lines, page = await read(stage, "?since=1")
        assert (lines[0], page["cut"]["lines"]) == ("install 2 0", None)
        assert "cut" not in (await read(stage, "?since=4"))[1]
