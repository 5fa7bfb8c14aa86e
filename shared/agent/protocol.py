"""The wire between the control plane and an agent: the only place that knows its field names. No behaviour, no I/O.

Every field added later needs a default, so that an older agent and a newer client understand each other.
"""

from typing import Literal

import msgspec

AGENT_VERSION = "2"
PROTOCOLS = (1, 2)
"""The oldest and the newest version of this wire that this code speaks, as agent and as client. 2: `/tunnel`."""
TUNNEL_PROTOCOL = 2
"""The first version with `/tunnel`."""
TUNNEL_UPGRADE = "drape-tunnel"
SYNC_HEADER_NAME = ".drape-sync.json"
JOB_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
JOB_WAIT_S_MAX = 60.0
LEASE_HEADER = "X-Drape-Lease"
"""Whose request it is, as a number that is higher for each holder of the VM; one whose time is over is refused (409
`lease_over`). Without it a request counts as the present holder's."""

TRACE_HEADER = "traceparent"
"""The trace of whoever asks, as W3C writes it. Whose request has one gets what the agent has measured for that trace."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no such JSON, the last one where they are nested too deeply."""

JobState = Literal["running", "exited"]
LogStream = Literal["stdout", "stderr", "agent"]


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every error. `current` and `paths` are set by the codes that say so."""

    code: str
    message: str
    hint: str = ""
    current: int | None = None
    """The version that is on disk (`files_version_conflict`)."""
    paths: tuple[str, ...] = ()
    """The listed files that are neither in the stream nor on disk (`content_missing`), or the offending paths."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself. `orphan_in_s`: it ends itself that long from now, if nobody calls again.
    `protocols`: the oldest and the newest version of the wire that it speaks. `now`: its clock, in seconds since the
    epoch; 0: an agent that does not tell."""

    vm_id: str
    agent_version: str
    uptime_s: float
    orphan_in_s: float
    files_version: int
    jobs: dict[str, JobState]
    protocols: tuple[int, int] = (1, 1)
    now: float = 0.0


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a version. Of `mode` only "may be executed" is kept: 0755 or 0644."""

    sha256: str
    size: int
    mode: int = 0o644


class FileSync(msgspec.Struct, frozen=True, kw_only=True):
    """What the project's folder is to become, sent ahead of the contents.

    `base_version` None: `files` is the whole folder, and what is not in it goes (except node_modules, .git, `keep`).
    `base_version` N: `files` and `delete` are the changes since version N. Versions count within one `project`; one
    that takes over another's folder says in `base_project` whose version N is.
    """

    version: int
    project: str = ""
    base_version: int | None = None
    base_project: str = ""
    files: dict[str, FileEntry] = {}
    delete: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


class SpanReport(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of work that the agent has measured: below which span it was (`parent`, a `traceparent`), its own id, how long it
    took and how long ago it ended. `error`: a code; empty: it went well. `facts`: numbers, never texts."""

    name: str
    parent: str
    span_id: str
    age_s: float
    duration_s: float
    error: str = ""
    facts: dict[str, int | float | bool] = {}


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """`stale`: the folder already has this version or a later one, and nothing was done."""

    version: int
    written: int = 0
    deleted: int = 0
    unchanged: int = 0
    stale: bool = False
    spans: tuple[SpanReport, ...] = ()


class CleanSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What may stay in a VM that is emptied for its owner's next preview: `node_modules` folders as the job
    `keep_since_job` left them (empty: as they were before the first job), at most `bytes_max` of them.

    `lease`: of the holder whose time is over; a lease that was cleaned after already is only answered. Refusals, all
    409: `clean_unsupported`, `nothing_kept`, `dependencies_unknown`, `dependencies_changed`, `too_large`, `link_outside`,
    `foreign_file`, `leftovers`, `processes_left`, `too_many_folders`, `clean_failed`. After one the VM is of no more use.
    """

    lease: int = 0
    keep_since_job: str = ""
    bytes_max: int = 1024 * 1024 * 1024


class Cleaned(msgspec.Struct, frozen=True, kw_only=True):
    """What has stayed. `trees`: the folders, as paths below the project."""

    bytes: int
    entries: int
    trees: tuple[str, ...]
    spans: tuple[SpanReport, ...] = ()


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run once. `cwd` is relative to the project; "{python}" in `argv` is the agent's interpreter,
    "{home}" in `argv` and `env` the VM's home folder, "{port}" in both a free port that the agent chooses. Commands are
    found in `node_modules/.bin` of `cwd` and of the folders above it in the project first, then on the PATH."""

    argv: tuple[str, ...]
    cwd: str = "."
    env: dict[str, str] = {}
    timeout_s: float | None = None


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix seconds. `rss_bytes` is the whole tree's, given by GET while the job runs."""

    id: str
    state: JobState
    pid: int | None = None
    started_at: float
    exited_at: float | None = None
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    killed: bool = False
    log_next_offset: int = 0
    log_dropped_lines: int = 0
    port: int | None = None
    rss_bytes: int | None = None
    spans: tuple[SpanReport, ...] = ()


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line; offsets count lines from 0 and never repeat. To go on reading, ask from `offset + 1`."""

    offset: int
    at: float
    stream: LogStream
    text: str


class ReadySpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to wait for a dev server. `timeout_s` counts from the request, `elapsed_s` from the job's start."""

    port: int | None = None
    """The port that the server was asked to take; any other port of the job counts too, but must wait its turn."""
    path: str = "/"
    timeout_s: float = 120.0
    error_grace_s: float = 4.0
    """Answers of 5xx this long without another answer in between mean that it will not get better by itself."""
    entry: bool = True
    """Fetch what the page at `path` loads first (its module scripts) too: many answer 200 around a broken project."""
    hung_s: float = 60.0
    """No output and no answer for so long, while the job is alive, means that it hangs."""
    elsewhere_grace_s: float = 10.0
    """A job that listens only where the gateway can't reach it has so long to listen on loopback too."""
    other_port_grace_s: float = 1.5
    """An answer from another port than `port` is held back this long, in case `port` still opens."""


class Listening(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="listening"):
    """A port of the job is open. Nothing more: it may close again."""

    port: int
    host: str
    elapsed_s: float


class Answering(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="answering"):
    """A whole answer with a status of 500 or more; the probe goes on."""

    port: int
    status: int
    elapsed_s: float


class Waiting(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="waiting"):
    """Sent at least every second while nothing else happens. `listening`: some port of the job is open.

    `asking_s`: how long the request that is under way has been waiting (a first page that compiles); `quiet_s`: since
    the job's last line of output.
    """

    elapsed_s: float
    listening: bool
    asking_s: float = 0.0
    quiet_s: float = 0.0


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ready"):
    """Final: a whole answer. Dial `host`:`port`; `host` is "::1" where only IPv6 answers.

    `with_errors`: the page, or what it loads first, answered 5xx for all of `error_grace_s`: the dev server runs and
    shows an error in the project. `detail` says what answered how, in words for a person.
    """

    port: int
    host: str
    status: int
    listening_s: float
    first_response_s: float
    elapsed_s: float
    with_errors: bool = False
    detail: str = ""
    spans: tuple[SpanReport, ...] = ()


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="exited"):
    """Final: the job ended before it was ready, whatever its exit code says."""

    exit_code: int | None
    signal: str | None
    elapsed_s: float
    spans: tuple[SpanReport, ...] = ()


class Unusable(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="unusable"):
    """Final: it runs, and waiting will not help.

    `hung`: no output and no answer for `hung_s`; `wrong_interface`: it listens only on addresses that the gateway can't
    reach; `redirect_loop`: the page redirects to itself without end. `detail`: what was seen, for a person.
    """

    cause: Literal["hung", "wrong_interface", "redirect_loop"]
    detail: str
    elapsed_s: float
    spans: tuple[SpanReport, ...] = ()


class ReadyTimeout(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="timeout"):
    """Final: `timeout_s` is over. `reason` says how far it got, in words for a person."""

    port: int | None
    elapsed_s: float
    reason: str
    spans: tuple[SpanReport, ...] = ()


ReadinessFinal = Ready | Exited | Unusable | ReadyTimeout
ReadinessUpdate = Listening | Answering | Waiting | Ready | Exited | Unusable | ReadyTimeout


class PortFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent writes to `--port-file` once it listens."""

    port: int
    pid: int


class AgentProblem(Exception):
    """A refusal by the agent, with the status and body that it answers."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        *,
        current: int | None = None,
        paths: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(code=code, message=message, hint=hint, current=current, paths=paths)
