"""`explain`: the story of one preview, from the log, with times, causes and who decided what."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from typing import Any

import aiohttp
import click
import msgspec
from nats.aio.client import Client

from deploy.cli.api import Api
from deploy.cli.causing import Because
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import platform_secret, require_running
from deploy.cli.story import Line, Told, tell
from services.gateway.adapters.terminal import plain
from shared.codec import SUBJECT_ROOT, Recorded
from shared.errors import DrapeError, NotFound
from shared.events import (
    FilesSynced,
    PreviewFailed,
    PreviewRequested,
    PreviewRestarted,
    PreviewStopped,
    ProjectDeleted,
    VmAcquired,
    VmDestroyed,
    VmLost,
    VmReleased,
)
from shared.ids import is_token
from shared.jetstream.connection import bus_on, connect
from shared.jetstream.filtered import ids_of, of_subject
from shared.seals import Seals

EVENTS_MAX = 2_000
"""Of a preview; of what concerns it beside them as many again. What comes later is left out, and that is said."""
NEAR_MAX = 5
PREVIEWS = f"{SUBJECT_ROOT}.orchestrator.preview"
ENDS = (PreviewFailed, PreviewStopped)

Source = Callable[[str, int, int | None], AsyncIterator[Recorded]]
"""The events whose subject fits, after one sequence and up to another (None: the last), in order."""


@click.command()
@click.argument("preview_id")
@command
async def explain(output: Output, preview_id: str) -> int:
    """A preview's story: what happened, when, why, and who decided it."""
    running = require_running()
    client = await connect(running.nats, "drape-cli")
    try:
        gathered = await gather(partial(of_subject, client), preview_id) if is_token(preview_id) else None
        if gathered is None:
            raise await _unknown(client, preview_id)
        events, cut = gathered
        story = tell([await _opened(each, bus_on(client, "cli", platform_secret()).seals) for each in events])
    finally:
        await client.close()
    why, missing = await _why(running.gateway, preview_id)
    _show(output, story, why, missing, cut)
    return 0


async def gather(source: Source, preview_id: str) -> tuple[list[Recorded], bool] | None:
    """All events that the story is made of, in order, and whether some were left out; None: there is no such preview."""
    own, cut = await _taken(source(f"{PREVIEWS}.{preview_id}.>", 0, None))
    if not any(isinstance(each.event, PreviewRequested) for each in own):
        return None
    found = {each.seq: each for each in own}
    first, last = own[0].seq, None if not isinstance(own[-1].event, ENDS) else own[-1].seq
    request = next(each.event for each in own if isinstance(each.event, PreviewRequested))
    claims = source(f"{SUBJECT_ROOT}.pool.claim.{preview_id}.>", 0, None)
    project = source(f"{SUBJECT_ROOT}.gateway.project.{request.project_id}.>", first, last)
    for beside in (claims, _vms(source, preview_id, own), project):
        more, left = await _taken(beside)
        found |= {each.seq: each for each in more}
        cut = cut or left
    return [found[seq] for seq in sorted(found)], cut


async def _vms(source: Source, preview_id: str, own: list[Recorded]) -> AsyncIterator[Recorded]:
    """What happened to each VM from the attempt's begin, when it may not have been there yet, until it was given back."""
    for begin, end in _searches(own):
        acquired = await _acquired(source, preview_id, begin, end)
        if acquired is None:
            continue
        async for recorded in source(f"{SUBJECT_ROOT}.{acquired.key}.>", begin - 1, None):
            yield recorded
            if isinstance(recorded.event, VmReleased | VmLost | VmDestroyed) and recorded.seq > acquired.seq:
                break


def _searches(own: list[Recorded]) -> list[tuple[int, int | None]]:
    """Between which events each attempt that needs a VM gets it: a log is searched no further than that."""
    searches: list[tuple[int, int | None]] = []
    begin = 0
    for recorded in own:
        event = recorded.event
        anew = isinstance(event, PreviewRequested) or (isinstance(event, PreviewRestarted) and not event.in_place)
        if begin and (anew or isinstance(event, FilesSynced | PreviewRestarted | PreviewFailed | PreviewStopped)):
            searches.append((begin, recorded.seq))
            begin = 0
        begin = recorded.seq if anew else begin
    return [*searches, (begin, None)] if begin else searches


async def _acquired(source: Source, preview_id: str, begin: int, end: int | None) -> Recorded | None:
    subject = f"{SUBJECT_ROOT}.pool.vm.*.{VmAcquired.__name__}"
    async for recorded in source(subject, begin, end):
        if isinstance(recorded.event, VmAcquired) and recorded.event.preview_id == preview_id:
            return recorded
    return None


async def _taken(events: AsyncIterator[Recorded]) -> tuple[list[Recorded], bool]:
    taken: list[Recorded] = []
    async for recorded in events:
        if len(taken) >= EVENTS_MAX:
            return taken, True
        taken.append(recorded)
    return taken, False


async def _unknown(client: Client, preview_id: str) -> NotFound:
    near = near_to(preview_id, await ids_of(client, f"{PREVIEWS}.*.{PreviewRequested.__name__}"))
    hint = f"Is one of these meant? {', '.join(near)}" if near else "`drape ps` lists the previews."
    return NotFound("preview_not_found", f"The log has no preview {preview_id[:64]!r}.", hint)


def near_to(wanted: str, ids: list[str]) -> list[str]:
    """Those that hold it, newest first; else those that look like it."""
    wanted = wanted.strip().lower()[:64]
    holding = [each for each in sorted(ids, reverse=True) if len(wanted) >= 3 and wanted in each]
    return holding[:NEAR_MAX] or get_close_matches(wanted, ids, n=NEAR_MAX, cutoff=0.8)


async def _opened(recorded: Recorded, seals: Seals) -> Recorded:
    """With what is sealed in it, as far as that can be read here."""
    if isinstance(recorded.event, ProjectDeleted):
        seals.forget(recorded.event.project_id)
    return msgspec.structs.replace(recorded, event=await seals.opened(recorded.event))


async def _why(gateway: str, preview_id: str) -> tuple[list[str], str]:
    """What made it slow, as telemetry says; or why it does not say."""
    try:
        async with aiohttp.ClientSession() as session:
            found: dict[str, Any] = await Api(gateway, session).call("GET", f"/api/previews/{preview_id}/timing")
    except DrapeError as error:
        return [], error.message
    return [str(each) for each in found["why"]], ""


# --- shown --------------------------------------------------------------------------------------------------------


def _show(output: Output, story: Told, why: list[str], missing: str, cut: bool) -> None:
    for line in story.lines:
        output.emit({"type": "story_event", "preview_id": story.preview_id, **msgspec.to_builtins(line)})
    whole = {key: value for key, value in msgspec.to_builtins(story).items() if key != "lines"}
    output.emit({"type": "story", **whole, "events": len(story.lines), "cut": cut, "why": why, "why_missing": missing})
    at = datetime.fromtimestamp(story.requested_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    output.say(f"Preview {story.preview_id} of project {story.project_id}, for {story.owner}, {at}")
    output.say("")
    attempt = 1
    for line in story.lines:
        if line.attempt is not None and line.attempt > attempt:
            attempt = line.attempt
            output.say("")
        for text in lines_of(line):
            output.say(text)
    output.say("")
    attempts = f" {story.attempts} attempts." if story.attempts > 1 else ""
    output.say(f"{story.end} {story.total_s:.1f} s from the request.{attempts}")
    for sentence in why:
        output.say(f"  {sentence[:1].upper()}{sentence[1:]}")
    if missing:
        output.say(f"  (Why it was slow can't be told: {missing})")
    if cut:
        output.say(f"  (There are more events than the {EVENTS_MAX} that are told of.)")


def lines_of(line: Line) -> list[str]:
    """An event for a person: what happened, and below it why."""
    step = f"  [{line.step.replace('_', ' ')} took {line.step_s:.2f} s]" if line.step_s is not None else ""
    return [
        f"{line.since_s:>+10.3f} s  {plain(line.text)}{step}",
        f"{'':>14}#{line.seq} {line.event}{_because(line.because)}, decided by {line.decided}{_asked(line)}",
    ]


def _because(because: Because) -> str:
    what = f" ({because.command})" if because.command else ""
    if because.seq:
        return f", because of #{because.seq} {because.event}{what}"
    return f", by the command {because.command}" if because.command else ""


def _asked(line: Line) -> str:
    """Where it was another than the one that decided."""
    own = not line.actor or line.actor.partition("/")[0] == line.decided
    return "" if own else f", asked by {line.actor}"


COMMANDS = (explain,)
