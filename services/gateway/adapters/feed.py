"""Fans what happens out to connected clients: one reader of the log a process, a bounded queue a client.

A client first gets the current state, then every change in order. One that is too slow is dropped, not buffered
without end; it comes back with `since` and misses nothing: what this gateway does not remember is read from the log.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from services.gateway import views
from services.gateway.adapters.history import History
from services.gateway.adapters.terminal import plain
from services.gateway.config import GatewayConfig
from services.gateway.state import ENDED, SERVED, Preview, State
from shared.codec import Recorded
from shared.errors import Unavailable
from shared.events import PreviewEvent, PreviewReady, PreviewRestarted, PreviewWarningRaised, ProjectEvent, VmAcquired
from shared.ids import OwnerId, PreviewId, ProjectId
from shared.output import LogBatch
from shared.ports import Progress
from shared.sealed import MARK
from shared.seals import CLOSED, Seals

Json = dict[str, Any]
LAST_LINE_CHARS_MAX = 200
_MARK = MARK.encode()


class Change:
    """A message and whom it is for. `seq`: the log's sequence at which it holds; ticks repeat the last one."""

    __slots__ = ("message", "owner", "preview_id", "project_id", "seq")

    def __init__(
        self, seq: int, owner: OwnerId | None, project_id: ProjectId | None, preview_id: PreviewId | None, message: Json
    ) -> None:
        self.seq = seq
        self.owner = owner
        self.project_id = project_id
        self.preview_id = preview_id
        self.message = message


class Older(msgspec.Struct, frozen=True):
    """Changes from before the feed's memory, up to `until`. `whole`: none of them is left out."""

    until: int
    changes: tuple[Change, ...] = ()
    whole: bool = True


class Subscriber:
    """One client's queue. `dropped` is set when it was too slow, or when this gateway is leaving."""

    def __init__(self, owner: OwnerId, project_id: ProjectId | None, preview_id: PreviewId | None) -> None:
        self.owner = owner
        self.project_id = project_id
        self.preview_id = preview_id
        self.queue: asyncio.Queue[Json] = asyncio.Queue()
        self.logs_of: set[PreviewId] = set()
        self.dropped = asyncio.Event()
        self.left = False

    def wants(self, change: Change) -> bool:
        """True for what is the owner's, or everybody's, and within the filter."""
        if change.owner is not None and change.owner != self.owner:
            return False
        if self.preview_id is not None:
            return change.preview_id == self.preview_id
        return self.project_id is None or change.project_id in (None, self.project_id)

    def fill(self, messages: list[Json], size: int) -> None:
        """What the client gets first; `size` more may wait behind that."""
        self.queue = asyncio.Queue(maxsize=size + len(messages))
        for message in messages:
            self.queue.put_nowait(message)

    def offer(self, message: Json) -> None:
        """Queue a message, or give the client up."""
        if self.left:
            return
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped.set()

    def leave(self) -> None:
        """End it: what it has not got yet, it gets when it comes back with `since`."""
        self.left = True
        self.dropped.set()


class Feed:
    """All subscribers of this gateway."""

    def __init__(
        self,
        state: Callable[[], State],
        seq: Callable[[], int],
        config: GatewayConfig,
        seals: Seals,
        clock: Callable[[], float] = time.time,
        history: History | None = None,
    ) -> None:
        self._state = state
        self._history = history
        self.leaving = False
        self._seq = seq
        self._config = config
        self._seals = seals
        self._clock = clock
        self._subscribers: set[Subscriber] = set()
        self._recent: deque[Change] = deque(maxlen=config.recent_messages_max)
        self._oldest_seq = seq()  # what came before this gateway started is not kept here
        self.progress: dict[PreviewId, Progress] = {}
        self._last_lines: dict[PreviewId, str] = {}
        self.pool: Json = {}

    # --- what happens -----------------------------------------------------------------------------------------

    def on_event(self, recorded: Recorded) -> None:
        """A fact was folded: tell those whom it concerns."""
        event = recorded.event
        match event:
            case PreviewEvent(preview_id=preview_id) | VmAcquired(preview_id=preview_id):
                self._on_preview(preview_id, recorded)
            case ProjectEvent():
                for change in self._project_changes(event, recorded.seq):
                    self._tell(change)
            case _:
                return

    def _on_preview(self, preview_id: PreviewId, recorded: Recorded) -> None:
        preview = self._state().previews.get(preview_id)
        if preview is None or preview.resident:
            return
        for change in self._preview_changes(preview, recorded):
            self._tell(change)
        if isinstance(recorded.event, PreviewRestarted):
            self._last_lines.pop(preview_id, None)
        if preview.status in (*SERVED, *ENDED):
            self.progress.pop(preview_id, None)
            self._last_lines.pop(preview_id, None)

    def _project_changes(self, event: ProjectEvent, seq: int) -> Iterator[Change]:
        project = self._state().projects.get(event.project_id)
        if project is not None:
            message = {"type": "project", "seq": seq, "project": views.project_view(project)}
            yield Change(seq, project.owner, project.project_id, None, message)

    def _preview_changes(self, preview: Preview, recorded: Recorded) -> Iterator[Change]:
        seq = recorded.seq
        message = {"type": "preview", "seq": seq, "event": recorded.type, "preview": self.view(preview)}
        yield _about(preview, seq, message)
        match recorded.event:
            case PreviewWarningRaised() as warning:
                told = {**views.warning_view(warning), "preview_id": preview.preview_id, "seq": seq}
                yield _about(preview, seq, told)
            case PreviewReady():
                progress = views.ready_progress(preview, self._clock())
                yield _about(preview, seq, views.progress_message(preview.preview_id, progress, seq))

    def on_progress(self, progress: Progress) -> None:
        """A tick came: remember the newest, never go back within a step."""
        preview = self._state().previews.get(progress.preview_id)
        if preview is None or preview.resident or views.current(progress, preview) is None:
            return
        before = views.current(self.progress.get(progress.preview_id), preview)
        if before is not None and before.percent > progress.percent:
            progress = msgspec.structs.replace(progress, percent=before.percent)
        last_line = self._last_lines.get(progress.preview_id)
        if last_line:
            # A step that takes long shows what it says, so that it is seen to be at work.
            progress = msgspec.structs.replace(progress, details={**progress.details, "last_line": last_line})
        self.progress[progress.preview_id] = progress
        seq = self._seq()
        change = _about(preview, seq, views.progress_message(progress.preview_id, progress, seq))
        self._send(change)

    def on_logs(self, batch: LogBatch) -> None:
        """A preview printed something: only those who asked for its log get it."""
        self._remember_last(batch)
        lines = [views.log_view(line) for line in batch.lines]
        message = {"type": "log", "preview_id": batch.preview_id, "log_seq": batch.seq, "lines": lines}
        for subscriber in self._subscribers:
            if batch.preview_id in subscriber.logs_of:
                subscriber.offer(message)

    def _remember_last(self, batch: LogBatch) -> None:
        preview = self._state().previews.get(batch.preview_id)
        if preview is None or preview.status in (*SERVED, *ENDED):
            return
        said = (plain(line.text).strip() for line in reversed(batch.lines) if line.attempt == preview.attempt)
        last = next(filter(None, said), "")
        if last:
            self._last_lines[batch.preview_id] = last[:LAST_LINE_CHARS_MAX]

    def on_pool(self, pool: Json) -> None:
        """The pool's numbers changed."""
        if pool != self.pool:
            self.pool = pool
            self._send(Change(self._seq(), None, None, None, {"type": "pool", "seq": self._seq(), "pool": pool}))

    # --- who listens ------------------------------------------------------------------------------------------

    @contextmanager
    def subscribe(
        self,
        owner: OwnerId,
        *,
        project_id: ProjectId | None = None,
        preview_id: PreviewId | None = None,
        since: int | None = None,
        older: Older | None = None,
    ) -> Iterator[Subscriber]:
        """A queue that begins with the current state, then what came after `since`, then what comes. `older`: what
        `before(since)` gave."""
        if len(self._subscribers) >= self._config.websocket_clients_max:
            raise Unavailable(
                "too_many_clients",
                f"{self._config.websocket_clients_max} clients are connected already.",
                retry_after_s=5,
            )
        subscriber = Subscriber(owner, project_id, preview_id)
        snapshot = self.snapshot(subscriber, since, older)
        came = self._since(since, older) if since is not None else ()
        first = [snapshot, *(change.message for change in came if subscriber.wants(change))]
        subscriber.fill(first, self._config.websocket_queue_max)
        self._subscribers.add(subscriber)
        if self.leaving:
            subscriber.leave()
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def connections(self) -> dict[str, int]:
        """Clients that listen, by the way in which they do."""
        streams = sum(each.preview_id is not None for each in self._subscribers)
        return {"websocket": len(self._subscribers) - streams, "sse": streams}

    async def before(self, since: int | None) -> Older | None:
        """What came after `since` and is not in memory any more, or never was: a gateway remembers what came since its
        start. The previews in it are told as they are now."""
        if since is None or self._history is None:
            return None
        await self._history.reach(since)
        until = self._seq()
        if since >= self._oldest_seq:
            return None
        events = await self._history.after(since)
        if events is None:
            return Older(since, whole=False)  # what is in memory comes all the same
        changes: list[Change] = []
        whole = True
        for recorded in events:
            match recorded.event:
                case PreviewEvent(preview_id=preview_id) | VmAcquired(preview_id=preview_id):
                    preview = self._state().previews.get(preview_id)
                    whole &= preview is not None  # it ended so long ago that nobody can say whose it was
                    if preview is not None and not preview.resident:
                        changes += self._preview_changes(preview, recorded)
                case ProjectEvent() as event:
                    changes += self._project_changes(event, recorded.seq)
        return Older(events[-1].seq if events else until, tuple(changes), whole)

    def _since(self, since: int, older: Older | None) -> Iterator[Change]:
        if older is not None:
            yield from older.changes
            since = max(since, older.until)
        for change in self._recent:
            if change.seq > since:
                yield change

    def leave(self) -> None:
        """This gateway ends: its clients go to another, with the `seq` that they have."""
        self.leaving = True
        for subscriber in self._subscribers:
            subscriber.leave()

    def snapshot(self, subscriber: Subscriber, since: int | None = None, older: Older | None = None) -> Json:
        """Everything that this client may see, as it is now. `missed`: what came after `since` is not all kept."""
        state = self._state()
        previews = [
            preview
            for preview in views.owned_previews(state, subscriber.owner)
            if subscriber.project_id in (None, preview.project_id)
            and subscriber.preview_id in (None, preview.preview_id)
        ]
        projects = [
            project
            for project in views.owned_projects(state, subscriber.owner)
            if subscriber.project_id in (None, project.project_id)
        ]
        return {
            "type": "state",
            "seq": self._seq(),
            "projects": [views.project_view(project) for project in projects],
            "previews": [self.view(preview) for preview in previews],
            "pool": self.pool,
            "missed": since is not None and self._misses(since, older),
        }

    def _misses(self, since: int, older: Older | None) -> bool:
        reached = older.until if older is not None and older.whole else since
        return reached < self._oldest_seq

    def view(self, preview: Preview) -> Json:
        """A preview with its newest progress."""
        return views.preview_view(self._state(), preview, self.progress.get(preview.preview_id), self._clock())

    def _tell(self, change: Change) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._oldest_seq = self._recent[0].seq
        self._recent.append(change)
        self._send(change)

    def _send(self, change: Change) -> None:
        """Opened once for all, where the key is at hand; `encoded` does the rest."""
        message: Json | None = None
        for subscriber in self._subscribers:
            if subscriber.wants(change):
                message = message or self._seals.opened_now(change.message)
                subscriber.offer(message)

    async def encoded(self, message: Json) -> bytes:
        """The message as its client gets it: JSON, with nothing sealed in it any more. What a project has printed holds
        no seal of ours, whatever it looks like."""
        body = msgspec.json.encode(message)
        if _MARK not in body or message["type"] == "log":
            return body
        try:
            return msgspec.json.encode(await self._seals.opened(message))
        except Unavailable:
            return msgspec.json.encode(self._seals.opened_now(message, CLOSED))


def _about(preview: Preview, seq: int, message: Json) -> Change:
    return Change(seq, preview.owner, preview.project_id, preview.preview_id, message)
