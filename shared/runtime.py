"""The loop that all four services run: command -> decide -> event -> evolve -> react -> effect -> command.

State changes only by folding the log, in the log's order. A command is decided on that state, its event appended with
the expected revision, and answered once the event has come back and been folded: so an answer can be read at once, and
every replica, and every replay, sees the same state.
"""

import asyncio
import gc
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
from opentelemetry.trace import SpanKind

from shared import metrics, telemetry, tracing
from shared.codec import Meta, Recorded, event_id
from shared.commands import AcquireVm, Command, Reply
from shared.definition import Definition, digest
from shared.draining import drain_all
from shared.errors import DrapeError, Invalid, Refused, Unavailable
from shared.events import Event, ProjectDeleted, aggregate_key
from shared.fingerprint import folded_types
from shared.hearing import command_handler, query_handler
from shared.measures import Measure
from shared.ports import Bus, Cause, Handler, Head, Subscription, WrongLastSequence
from shared.reactions import Perform, Reactor
from shared.remembered import Remembered
from shared.snapshot import Kept, frozen
from shared.ulids import new_id

log = logging.getLogger("drape.runtime")

S = TypeVar("S")
M = TypeVar("M", bound=Event | Command)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the loop."""

    events_per_command_max: int = 20_000
    """A decision that never has enough is a bug: it is stopped here."""
    concurrent_appends_max: int = 16
    """Events of one command, each of another aggregate, that are appended at once."""
    conflicts_max: int = 50
    """Appends that lose to another writer before the caller is told to come again."""
    fold_wait_s: float = 10.0
    """How long an appended event may take to come back."""
    heads_max: int = 200_000
    """Aggregates whose last revision is remembered; older ones are asked from the log."""
    recent_events_max: int = 50_000
    """Event ids remembered, so that a repeated command finds its work done."""
    reaction_attempts_max: int = 12
    """After so many failures an event's reaction is parked."""
    reaction_outages_max: int = 720
    """The same for failures that only say that something is away: an hour, at the longest pause."""
    reaction_retry_max_s: float = 5.0
    """Longest pause between two attempts of a reaction."""
    progress_report_s: float = 3.0
    """How often a long reaction tells NATS that it lives (a third of the consumers' ack wait)."""
    drain_s: float = 3.0
    """How long what is under way may take to end when this replica is stopped; what takes longer is handed back."""


class Wanted(NamedTuple):
    """An event that a decision asks for, and its aggregate's head in the state on which that was decided."""

    event: Event
    head: Head


class Runtime(Generic[S]):
    """One replica of one service."""

    def __init__(
        self,
        definition: Definition[S],
        bus: Bus,
        *,
        instance: str = "0",
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.definition = definition
        self.bus = bus
        self.limits = limits or Limits()
        self.clock = clock
        self.state = definition.initial()
        self.seq = 0
        self.ready = False
        self.replay_s = 0.0
        self.replay_until = 0
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_folded: list[Callable[[Recorded], None]] = []
        self.actor = f"{definition.name}/{instance}"
        self.snapshot_seq = 0
        self.snapshot_unfit = False
        self._evolve = definition.evolve
        self._last_id = ""
        self._own = f"{definition.name}."
        self._heads: Remembered[Head] = Remembered(self.limits.heads_max)
        self._recent: Remembered[int] = Remembered(self.limits.recent_events_max)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = itertools.count()
        self._appending: dict[str, asyncio.Future[None]] = {}
        self._measured: dict[str, Sequence[Measure]] = {}
        self._next_runs: dict[type[Command], asyncio.Task[None]] = {}
        self._gates: dict[type[Command], asyncio.Lock] = {}
        self._subscriptions: list[Subscription] = []
        self._drain: Callable[[], Awaitable[None]] | None = None

    # --- start and stop ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Replay the log up to now, from a snapshot on where one fits. From here on the state is live; nothing is served
        yet."""
        from shared.snapshots import restore  # it needs this module

        begun = time.monotonic()
        with telemetry.span(f"replay {self.definition.name}", SpanKind.INTERNAL, "", {}) as replaying:
            self.snapshot_seq = await restore(self)
            last = self.replay_until = await self.bus.log.last_seq()
            await self._replay(last)
            self._subscriptions.append(await self.bus.log.follow(self.seq, self._fold, self._crash))
            await self._race(self.until(last, timeout_s=None))
            replaying.set_attribute("drape.replay.events", last - self.snapshot_seq)
            replaying.set_attribute("drape.replay.snapshot_seq", self.snapshot_seq)
        self.replay_s = time.monotonic() - begun
        metrics.replay_duration.record(self.replay_s, {"service": self.definition.name})

    async def _replay(self, last: int) -> None:
        """The bulk of the log, without the detour of a message each. Whatever is missing then is followed."""
        collecting = gc.isenabled()
        gc.disable()  # it would look at all of the state again and again while that grows
        try:
            await self.bus.log.replay(self.seq, last, folded_types(self.definition.evolve), self._fold)
        except Unavailable as error:
            log.warning("replay_broken_off", extra={"seq": self.seq, "error": error.message})
        finally:
            if collecting:
                gc.enable()

    async def serve(
        self,
        perform: Perform,
        queries: Mapping[str, Handler] | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Answer commands and queries, react to events, hear timers. `drain`: ends what else the service takes in."""

        reactor = Reactor(self, perform)
        commands = {kind.verb: command_handler(self, kind) for kind in self.definition.commands}
        heard = {name: query_handler(self, handler) for name, handler in (queries or {}).items()}
        own = {"status": self._status, "digest": self._digest, **heard}
        self._subscriptions.append(await self.bus.commands.serve(self.definition.name, commands, own))
        self._subscriptions.append(await self.bus.reactions.events(self.definition.name, reactor.event))
        self._subscriptions.append(await self.bus.reactions.timers(self.definition.name, reactor.timer))
        for name, period_s in self.definition.ticks.items():
            await self.bus.timers.every(self.definition.name, name, period_s)
        self._drain = drain
        self.ready = True

    async def run_until(self, stop: asyncio.Event) -> None:
        """Return once `stop` is set; raise what made folding impossible."""

        async def wait() -> None:
            await stop.wait()

        await self._race(wait())

    async def drain(self) -> None:
        """Take nothing new, finish what is short, hand the rest to another replica. The state goes on being folded."""
        self.ready = False
        drain, self._drain = self._drain, None
        if drain is not None:
            await drain()
        await drain_all(self._subscriptions, self.limits.drain_s)

    async def stop(self) -> None:
        """End at once what `drain` has left."""
        self.ready = False
        while self._subscriptions:
            await self._subscriptions.pop().stop()

    # --- folding ----------------------------------------------------------------------------------------------

    def _fold(self, recorded: Recorded) -> None:
        key, seq, meta, event = recorded.key, recorded.seq, recorded.meta, recorded.event
        head = self._heads.get(key)
        if head is not None and meta.rev <= head.rev:
            # Two writers got through (ARCHITECTURE.md says how): the lower sequence won, here as everywhere.
            metrics.duplicate_revisions.add(1, {"service": self.definition.name})
            log.error("duplicate_revision", extra={"key": key, "seq": seq, "rev": meta.rev})
            self._heads[key] = Head(seq, head.rev)  # or nobody could ever append to it again
        else:
            self._heads[key] = Head(seq, meta.rev)
            if key.startswith(self._own):  # no command of ours makes another's events
                self._recent[meta.id] = seq
            if event is not None:
                self._evolve(self.state, recorded)
                if meta.id in self._measured:
                    self._measured[meta.id] = self._measures(recorded)
                if isinstance(event, ProjectDeleted):
                    self.bus.seals.forget(event.project_id)
        self.seq = seq
        self._last_id = meta.id
        while self._waiting and self._waiting[0][0] <= seq:
            _, _, waiter = heapq.heappop(self._waiting)
            if not waiter.done():
                waiter.set_result(None)
        for listener in self.on_folded:
            listener(recorded)

    def kept(self) -> Kept[S]:
        """All that was folded, as it is now and stays."""
        return Kept(frozen(self.state), self.seq, self._last_id, self._heads.copy(), self._recent.copy())

    def adopt(self, kept: Kept[S]) -> None:
        """Begin with what was kept, before anything is folded."""
        assert self.seq == 0, "a replica that has folded events can't begin elsewhere"
        self.state, self.seq, self._last_id = kept.state, kept.seq, kept.event_id
        self._heads.adopt(*kept.heads)
        self._recent.adopt(*kept.recent)

    def _crash(self, error: BaseException) -> None:
        if not self.crashed.done():
            self.crashed.set_exception(error)

    async def until(self, seq: int, *, timeout_s: float | None = 10.0) -> None:
        """Return once the state holds everything up to `seq`: what was written can be read."""
        if seq <= self.seq:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (seq, next(self._tickets), waiter))
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError as error:
            raise Unavailable("state_behind", f"The {self.definition.name} service lags behind the log.") from error

    async def catch_up(self) -> None:
        """Return once the state holds all that the log holds now. Raises `Unavailable`."""
        await self.until(await self.bus.log.last_seq(), timeout_s=self.limits.fold_wait_s)

    async def hear(self, cause: Cause) -> None:
        """Know what the sender knew: replicas fold at different speeds. Raises `Unavailable`."""
        if cause.repeated:
            await self.catch_up()
        await self.until(cause.after_seq, timeout_s=self.limits.fold_wait_s)

    async def _race(self, work: Awaitable[None]) -> None:
        """Wait for `work`, unless folding crashes first."""
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, self.crashed}, return_when=asyncio.FIRST_COMPLETED)
        if self.crashed.done():
            task.cancel()
            self.crashed.result()
        await task

    # --- commands ---------------------------------------------------------------------------------------------

    async def execute(self, command: Command, cause: Cause | None = None) -> Reply:
        """Decide, append, fold, until the decision has nothing to add; then answer from the state.

        Raises `Refused` when the decision says no, `Unavailable` when the log does not answer.
        """
        cause = cause or Cause()
        await self.hear(cause)
        command = msgspec.structs.replace(command, id=command.id or new_id(), at=self.clock())
        command = await self._sealed(command)
        if command.coalesced:
            await self._coalesce(command, cause)
        else:
            await self._carry_out(command, cause)
        answer = self.definition.answer(self.state, command)
        return msgspec.structs.replace(answer, seq=self.seq)

    async def _coalesce(self, command: Command, cause: Cause) -> None:
        """Join the run that has not begun yet; there is one at most, behind the one that is under way."""
        kind = type(command)
        run = self._next_runs.get(kind)
        if run is None:
            gate = self._gates.setdefault(kind, asyncio.Lock())

            async def begin() -> None:
                async with gate:
                    del self._next_runs[kind]
                    await self._carry_out(msgspec.structs.replace(command, at=self.clock()), cause)

            run = self._next_runs[kind] = asyncio.create_task(begin(), name=f"{kind.__name__}-run")
        await asyncio.shield(run)

    async def _carry_out(self, command: Command, cause: Cause) -> None:
        """Append what the decision wants, fold it, ask again, until it wants nothing more."""
        conflicts = 0
        appended = 0
        while wanted := await self._decided(command):
            free = {key: each for key, each in wanted.items() if key not in self._appending}
            if not free:
                await asyncio.wait({self._appending[key] for key in wanted}, return_when=asyncio.FIRST_COMPLETED)
                continue
            for key in free:  # at once, before another command can want the same one
                self._appending[key] = asyncio.get_running_loop().create_future()
            appends = (self._append(each, key, command, cause) for key, each in free.items())
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
            lost = [key for key, outcome in zip(free, outcomes, strict=True) if isinstance(outcome, WrongLastSequence)]
            for outcome in outcomes:
                if isinstance(outcome, BaseException) and not isinstance(outcome, WrongLastSequence):
                    raise outcome
            appended += len(free) - len(lost)
            for key in lost:
                metrics.append_conflicts.add(1, {"service": self.definition.name})
                await self._catch_up(key)
            # What lost to itself, stored by an earlier try of the same command, is no conflict but done.
            conflicts += any(event_id(command.id, free[key].event) not in self._recent for key in lost)
            if conflicts > self.limits.conflicts_max:
                raise Unavailable("contended", f"{lost[0]} is being changed by too many writers.")
            if appended > self.limits.events_per_command_max:
                raise DrapeError("decision_unbounded", f"{type(command).__name__} never had enough events.")

    async def _decided(self, command: Command) -> dict[str, Wanted]:
        """What is wanted. A refusal counts only in a state that lacks nothing of the log: what the command is about may
        have been stored by another replica a moment ago."""
        try:
            return self._next_events(command)
        except Invalid:
            raise
        except Refused:
            last = await self.bus.log.last_seq()
            if last <= self.seq:
                raise
            await self.until(last, timeout_s=self.limits.fold_wait_s)
        return self._next_events(command)

    def _next_events(self, command: Command) -> dict[str, Wanted]:
        """What the decision still wants: the first event of each aggregate, since aggregates do not wait for one another.

        An event of this command that is in the log already is not wanted again.
        """
        if isinstance(command, AcquireVm):
            command = msgspec.structs.replace(command, busy=frozenset(self._appending))
        wanted: dict[str, Wanted] = {}
        for event in self.definition.decide(self.state, command):
            if len(wanted) >= self.limits.concurrent_appends_max:
                break
            if event_id(command.id, event) not in self._recent:
                key = aggregate_key(event)
                # The head of this very state: one that is read later would hide what was stored since the decision.
                # An aggregate that we do not remember is most likely new; if it is not, the log says so.
                wanted.setdefault(key, Wanted(event, self._heads.get(key) or Head()))
        return wanted

    async def _append(self, wanted: Wanted, key: str, command: Command, cause: Cause) -> None:
        event, head = wanted
        own_id = event_id(command.id, event)
        # Whatever names a preview belongs to that preview's story, also where another's end set it off.
        story = getattr(event, "preview_id", None) or cause.correlation_id or event.aggregate_id
        self._measured[own_id] = ()
        try:
            below = self.definition.story_of(self.state, event)
            with tracing.publishing(event, own_id, story, cause, below):
                meta = Meta(
                    id=own_id,
                    at=command.at,
                    rev=head.rev + 1,
                    correlation_id=story,
                    causation_id=command.id,
                    actor=cause.actor or self.actor,
                    traceparent=telemetry.carrier() or cause.traceparent,
                )
                await self._store(event, meta, head)
                metrics.record(self._measured[own_id])
        finally:
            del self._measured[own_id]
            self._appending.pop(key).set_result(None)

    async def _store(self, event: Event, meta: Meta, head: Head) -> None:
        sealed = await self._sealed(event)
        try:
            with metrics.publishing(type(event).__name__):
                seq = await self.bus.log.append(sealed, meta, after=head.seq)
        except Unavailable:
            # Not answered is not the same as not stored.
            await self.catch_up()
            if meta.id not in self._recent:
                raise
        else:
            await self.until(seq, timeout_s=self.limits.fold_wait_s)

    def _measures(self, recorded: Recorded) -> Sequence[Measure]:
        """What an event of ours tells, in the state right after it; no figure is worth a fold that breaks."""
        try:
            return self.definition.measures(self.state, recorded)
        except Exception:
            log.exception("event_unmeasured", extra={"type": recorded.type, "seq": recorded.seq})
            return ()

    async def figures(self) -> Sequence[Measure]:
        """What is true of this replica now."""
        last = await self.bus.log.last_seq()
        return [
            Measure("drape.log.position", self.seq),
            Measure("drape.log.lag", max(0, last - self.seq)),
            *self.definition.figures(self.state, self.clock()),
        ]

    async def _sealed(self, message: M) -> M:
        """As it may be stored: its personal texts are read only with the project's key."""
        return await self.bus.seals.seal(message, self.definition.project_of(self.state, message))

    async def _catch_up(self, key: str) -> None:
        head = await self.bus.log.head(key)
        await self.until(head.seq, timeout_s=self.limits.fold_wait_s)
        if self._heads.get(key) is None:
            self._heads[key] = head

    async def send(self, command: Command, cause: Cause) -> bytes:
        """Send a command to whichever service it is for; one for this service takes no detour. Gives the reply's body."""
        if command.service == self.definition.name:
            if not (cause.traceparent or telemetry.carrier()):
                return msgspec.json.encode(await self.execute(command, cause))
            with tracing.deciding(command, cause, self.clock()):
                return msgspec.json.encode(await self.execute(command, cause))
        with tracing.sending(command, cause, self.clock()):
            traceparent = telemetry.carrier() or cause.traceparent
            after_seq = max(cause.after_seq, self.seq)
            known = msgspec.structs.replace(cause, after_seq=after_seq, traceparent=traceparent)
            metrics.sent(type(command))
            return await self.bus.commands.send(command, known)

    async def status(self) -> Mapping[str, object]:
        """How far this replica is, as it tells whoever asks."""
        last = await self.bus.log.last_seq()
        return {
            "ready": self.ready,
            "seq": self.seq,
            "lag": max(0, last - self.seq),
            "replay_s": round(self.replay_s, 4),
            "snapshot_seq": self.snapshot_seq,
        }

    async def _status(self, _body: bytes, _headers: Mapping[str, str]) -> bytes:
        return msgspec.json.encode(await self.status())

    async def _digest(self, _body: bytes, _headers: Mapping[str, str]) -> bytes:
        return msgspec.json.encode({"seq": self.seq, "digest": digest(self.state)})
