"""Proves that a job's dev server answers: finds its port, asks it one real question, waits for the whole answer.

An open port proves nothing (Vite and Gatsby try a port and close it, Next accepts and drops), and neither does an exit
code or a line of output. Only a whole HTTP answer counts; one of 5xx only as the error page of a project, once it has
stayed so. Never: gives up early, or calls a time-out ready.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec

from .asking import Answer, AskLimits, RedirectLoop, ask
from .jobs import Job
from .ports import Listener, PortScanner
from .protocol import (
    Answering,
    Exited,
    Listening,
    ReadinessFinal,
    ReadinessUpdate,
    Ready,
    ReadySpec,
    ReadyTimeout,
    Unusable,
    Waiting,
)

Emit = Callable[[ReadinessUpdate], Awaitable[None]]

_WEAK_STATUSES = frozenset({400, 426})
"""What debuggers and HMR sockets say to a plain GET: an answer, but hardly the project's page."""


class ProbeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the probe."""

    scan_interval_s: float = 0.02
    waiting_interval_s: float = 0.9
    candidates_max: int = 8
    """Ports asked at the same time; one place is kept for the preferred port."""
    ports_known_max: int = 64
    """Ports remembered, open or closed; closed ones give way."""
    connect_timeout_s: float = 2.0
    header_bytes_max: int = 65536
    retry_s: float = 0.05
    error_retry_s: float = 0.5
    weak_answer_grace_s: float = 5.0
    preferred_wait_s: float = 30.0
    """How long an answer from another port waits for a preferred port that is open but has not answered."""
    loop_grace_s: float = 1.5
    """A page that redirects to itself for so long does so for good."""
    ask: AskLimits = AskLimits()


class _Candidate:
    """One port of the job: what is known of it, and the task that asks it."""

    def __init__(self, listener: Listener, seen_s: float) -> None:
        self.listener = listener
        self.seen_s = seen_s
        self.open = True
        self.answer: Answer | None = None
        self.answered_s = 0.0
        self.first_response_s: float | None = None
        self.error: Answer | None = None
        self.error_since_s: float | None = None
        self.loop = ""
        self.loop_since_s: float | None = None
        self.drops = 0
        self.asking_since_s: float | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()


async def wait_ready(job: Job, spec: ReadySpec, emit: Emit, limits: ProbeLimits) -> ReadinessFinal:
    """Sends updates to `emit` until one is final, and gives that one. Raises what `emit` raises."""
    client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_timeout_s),
        auto_decompress=False,
        max_line_size=limits.header_bytes_max,
        max_field_size=limits.header_bytes_max,
    )
    async with client, asyncio.TaskGroup() as group:
        search = _Search(job, spec, limits, client, group)
        try:
            return await search.run(emit)
        finally:
            search.cancel()


class _Search:
    """One wait for one job. `run` is the only loop; the tasks it starts note what they learn and wake it."""

    def __init__(
        self, job: Job, spec: ReadySpec, limits: ProbeLimits, client: aiohttp.ClientSession, group: asyncio.TaskGroup
    ) -> None:
        self._job = job
        self._spec = spec
        self._limits = limits
        self._client = client
        self._group = group
        self._scanner = PortScanner(job.members)
        self._candidates: dict[int, _Candidate] = {}
        self._notes: list[ReadinessUpdate] = []
        self._wake = asyncio.Event()
        self._elsewhere_since_s: float | None = None
        self._exit_watch = group.create_task(self._watch_exit())

    def cancel(self) -> None:
        """Ends the tasks of this search."""
        self._exit_watch.cancel()
        for candidate in self._candidates.values():
            if candidate.task is not None:
                candidate.task.cancel()

    async def run(self, emit: Emit) -> ReadinessFinal:
        """The loop: look, ask, tell, judge, wait a moment."""
        deadline_s = time.monotonic() + self._spec.timeout_s
        told_s = time.monotonic()
        while True:
            woken = self._wake.is_set()
            self._wake.clear()
            scan_s = 0.0 if woken else await self._look()  # what woke us is judged at once
            notes, self._notes = self._notes, []
            for note in notes:
                await emit(note)
                told_s = time.monotonic()
            final = self._verdict(time.monotonic() >= deadline_s)
            if final is not None:
                await emit(final)
                return final
            if time.monotonic() - told_s >= self._limits.waiting_interval_s:
                await emit(self._waiting())
                told_s = time.monotonic()
            # Never more than a third of the time on looking, however large the machine's process table is.
            await self._pause(max(self._limits.scan_interval_s, 2 * scan_s))

    async def _look(self) -> float:
        """One scan for ports. Gives the seconds that it took."""
        began_s = time.monotonic()
        self._meet(await asyncio.to_thread(self._scanner.scan))
        return time.monotonic() - began_s

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _watch_exit(self) -> None:
        await self._job.exited.wait()
        self._wake.set()

    def _elapsed_s(self) -> float:
        return round(self._job.elapsed_s, 3)

    def _waiting(self) -> Waiting:
        now_s = self._elapsed_s()
        asking = [now_s - each.asking_since_s for each in self._open() if each.asking_since_s is not None]
        listening, asking_s = bool(self._open()), round(max(asking, default=0.0), 3)
        return Waiting(elapsed_s=now_s, listening=listening, asking_s=asking_s, quiet_s=self._quiet_s())

    def _open(self) -> list[_Candidate]:
        return [candidate for candidate in self._candidates.values() if candidate.open]

    def _quiet_s(self) -> float:
        """Since the job's last line of output, or its start."""
        return round(min(self._job.log.quiet_s(), self._job.elapsed_s), 3)

    # --- ports -----------------------------------------------------------------------------------------------------

    def _meet(self, found: tuple[Listener, ...]) -> None:
        """Takes in what listens now: new ports, ports that have gone, and ports whose socket is another one."""
        now_open = {listener.port: listener for listener in found}
        for candidate in self._candidates.values():
            current = now_open.get(candidate.port)
            if current is None or not candidate.listener.sockets <= current.sockets:
                self._forget(candidate)
        if len(self._candidates) > self._limits.ports_known_max:
            self._candidates = {port: known for port, known in self._candidates.items() if known.open}
        for port, listener in now_open.items():
            known = self._candidates.get(port)
            if known is None or not known.open:
                self._notes.append(Listening(port=port, host=listener.hosts[0], elapsed_s=self._elapsed_s()))
            if known is None:
                self._candidates[port] = _Candidate(listener, self._elapsed_s())
            else:
                known.listener, known.open = listener, True
        for candidate in sorted(self._candidates.values(), key=lambda c: (c.port != self._spec.port, c.seen_s)):
            self._ask(candidate)

    def _forget(self, candidate: _Candidate) -> None:
        """Its socket has closed. A request on it would hang for ever, and may even keep it from closing."""
        candidate.open = False
        candidate.answer = None
        candidate.error = candidate.error_since_s = None
        candidate.asking_since_s = None
        candidate.loop, candidate.loop_since_s = "", None
        if candidate.task is not None:
            candidate.task.cancel()
            candidate.task = None

    def _ask(self, candidate: _Candidate) -> None:
        if not candidate.open or candidate.busy or candidate.answer is not None:
            return
        busy = sum(1 for other in self._candidates.values() if other.busy and other.port != self._spec.port)
        if candidate.port == self._spec.port or busy < self._limits.candidates_max - 1:
            candidate.task = self._group.create_task(self._probe(candidate), name=f"probe of port {candidate.port}")

    async def _probe(self, candidate: _Candidate) -> None:
        """Asks one port until it answers below 500. Cancelled when the port closes or the search ends."""
        while True:
            candidate.asking_since_s = self._elapsed_s()
            try:
                answer = await self._get(candidate)
            except RedirectLoop as loop:
                candidate.loop, answer = str(loop), None
                candidate.loop_since_s = candidate.loop_since_s or self._elapsed_s()
            candidate.asking_since_s = None
            if answer is None:
                candidate.drops += 1
                await asyncio.sleep(self._limits.error_retry_s if candidate.loop else self._limits.retry_s)
                continue
            candidate.loop, candidate.loop_since_s = "", None
            candidate.answered_s = self._elapsed_s()
            candidate.first_response_s = candidate.first_response_s or candidate.answered_s
            self._wake.set()
            if answer.status < 500:
                candidate.answer = answer
                candidate.error = candidate.error_since_s = None
                return
            candidate.error = answer
            candidate.error_since_s = candidate.error_since_s or candidate.answered_s
            told = Answering(port=candidate.port, status=answer.status, elapsed_s=candidate.answered_s)
            self._notes.append(told)
            await asyncio.sleep(self._limits.error_retry_s)

    async def _get(self, candidate: _Candidate) -> Answer | None:
        """One question, as long as it takes; None when dropped."""
        listener, spec = candidate.listener, self._spec
        return await ask(self._client, listener.hosts, listener.port, spec.path, self._limits.ask, entry=spec.entry)

    # --- judgement -------------------------------------------------------------------------------------------------

    def _verdict(self, late: bool) -> ReadinessFinal | None:
        """What it has come to, or None while it is open."""
        elapsed_s = self._elapsed_s()
        if self._job.exited.is_set():
            return Exited(exit_code=self._job.exit_code, signal=self._job.signal, elapsed_s=elapsed_s)
        chosen = self._choose(elapsed_s, late)
        if chosen is not None and chosen.answer is not None:
            return self._ready(chosen, chosen.answer)
        failing = self._failing(elapsed_s)
        if failing is not None and failing.error is not None:
            return self._ready(failing, failing.error)
        unusable = self._unusable(elapsed_s)
        if unusable is not None:
            return unusable
        if late:
            port, reason = self._reason()
            return ReadyTimeout(port=port, elapsed_s=elapsed_s, reason=reason)
        return None

    def _ready(self, candidate: _Candidate, answer: Answer) -> Ready:
        """Below 500 it is as it should be; else it shows an error of the project."""
        broken = answer.status >= 500
        return Ready(
            port=candidate.port,
            host=answer.host,
            status=answer.status,
            listening_s=candidate.seen_s,
            first_response_s=candidate.first_response_s or candidate.answered_s,
            elapsed_s=self._elapsed_s(),
            with_errors=broken,
            detail=f"{answer.broken or self._spec.path} answered {answer.status}" if broken else "",
        )

    def _unusable(self, elapsed_s: float) -> Unusable | None:
        """What waiting will not mend."""
        for candidate in self._open():
            since_s = candidate.loop_since_s
            if since_s is not None and elapsed_s - since_s >= self._limits.loop_grace_s:
                return Unusable(cause="redirect_loop", detail=f"{candidate.loop}.", elapsed_s=elapsed_s)
        elsewhere = self._scanner.elsewhere
        if not elsewhere or self._open():
            self._elsewhere_since_s = None
        elif self._elsewhere_since_s is None:
            self._elsewhere_since_s = elapsed_s
        elif elapsed_s - self._elsewhere_since_s >= self._spec.elsewhere_grace_s:
            where = f"The dev server listens only on {elsewhere[0]}, which can't be reached from here."
            return Unusable(cause="wrong_interface", detail=where, elapsed_s=elapsed_s)
        quiet_s = self._quiet_s()
        answered = any(candidate.first_response_s is not None for candidate in self._candidates.values())
        if quiet_s >= self._spec.hung_s and not answered:
            _, reason = self._reason()
            hangs = f"The dev server has printed nothing for {quiet_s:.0f} s and does not answer. {reason}"
            return Unusable(cause="hung", detail=hangs, elapsed_s=elapsed_s)
        return None

    def _choose(self, elapsed_s: float, late: bool) -> _Candidate | None:
        """The port to show: the preferred one; another one once it has waited its turn, pages before other answers."""
        preferred = self._preferred()
        if preferred is not None and preferred.answer is not None:
            return preferred
        answered: list[tuple[tuple[bool, bool, float], _Candidate]] = []
        for candidate in self._candidates.values():
            answer = candidate.answer
            if answer is not None and (late or elapsed_s - candidate.answered_s >= self._hold_s(answer)):
                answered.append(((answer.status in _WEAK_STATUSES, not answer.page, candidate.seen_s), candidate))
        return min(answered, key=lambda entry: entry[0])[1] if answered else None

    def _hold_s(self, answer: Answer) -> float:
        """How long an answer of a port that is not the preferred one waits for a better one."""
        if self._preferred() is not None:
            return self._limits.preferred_wait_s
        if answer.status in _WEAK_STATUSES:
            return self._limits.weak_answer_grace_s
        if self._spec.port is None and answer.page:
            return 0.0
        return self._spec.other_port_grace_s

    def _preferred(self) -> _Candidate | None:
        candidate = self._candidates.get(self._spec.port) if self._spec.port is not None else None
        return candidate if candidate is not None and candidate.open else None

    def _failing(self, elapsed_s: float) -> _Candidate | None:
        """A port that has said nothing but 5xx for the whole grace, unless a better one may still speak."""
        preferred = self._preferred()
        for candidate in [preferred] if preferred is not None else self._candidates.values():
            since_s = candidate.error_since_s
            if since_s is not None and elapsed_s - since_s >= self._spec.error_grace_s:
                return candidate
        return None

    def _reason(self) -> tuple[int | None, str]:
        """How far it got, for a person."""
        known = [candidate for candidate in self._candidates.values() if candidate.open]
        best = self._preferred() or (known[0] if known else None)
        if best is None:
            if not self._candidates:
                return None, "It never listened on a port."
            return None, f"It listened on port {max(self._candidates)} for a while, but nothing listens now."
        where = f"Port {best.port} is open"
        if best.error is not None:
            return best.port, f"{where}, and answered with status {best.error.status} last."
        if best.drops and (best.asking_since_s is None or self._elapsed_s() - best.asking_since_s < 1):
            return best.port, f"{where}, but drops each connection without an answer ({best.drops} times)."
        asked_s = self._elapsed_s() - (best.asking_since_s if best.asking_since_s is not None else best.seen_s)
        return best.port, f"{where}, but GET {self._spec.path} has had no answer for {asked_s:.0f} s."
