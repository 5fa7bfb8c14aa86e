"""From how a job ended and what it printed to the cause, and from a watcher's words to why its program crashed. Pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from services.orchestrator.rules.failures.catalogue import CAUSES, WATCHERS, Cause, End, Watcher
from services.orchestrator.rules.failures.matching import LINES_MAX, fill, find, plain, tail
from services.orchestrator.rules.failures.signature import signature

READY_LINES = 60
"""Of a dev server that had answered, only so many last lines count: what was mended before is no cause."""
KILLED = 137
"""128 and SIGKILL: what a shell or a package manager says of a program that was killed."""
STOPPED = {129, 130, 143}
END_SIGNALS = {"SIGHUP", "SIGINT", "SIGTERM"}


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended. `ready`: it had answered before; `limit_s`: the time-out that `timed_out` is about."""

    step: Literal["install", "dev_server"]
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    ready: bool = False
    limit_s: float = 0.0


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What to tell a person. `evidence`: indexes into the lines that were given, the ones that show the cause;
    `signature`: what tells this failure from others where the catalogue does not know its cause; else empty."""

    code: str
    message: str
    hint: str
    evidence: tuple[int, ...] = ()
    signature: str = ""


def explain(ended: Ended, lines: Sequence[str]) -> Explanation:
    """The cause of this end. `lines`: the job's last lines, oldest first, terminal escapes and all."""
    return _explain(ended, _end(ended), lines)


def crashed(lines: Sequence[str]) -> Explanation | None:
    """The cause, where a watcher (nodemon, `node --watch`) lives on and says that its program has crashed."""
    skipped = max(0, len(lines) - LINES_MAX)
    texts = [plain(line) for line in lines[skipped:]]
    for watcher in WATCHERS:
        begin = _crash(watcher, texts)
        if begin is not None:
            why = _explain(Ended(step="dev_server"), "crashed", lines[skipped + begin :])
            evidence = tuple(skipped + begin + index for index in why.evidence)
            return msgspec.structs.replace(why, evidence=evidence)
    return None


def _explain(ended: Ended, end: End, lines: Sequence[str]) -> Explanation:
    skipped = max(0, len(lines) - (READY_LINES if ended.ready else LINES_MAX))
    texts = [plain(line) for line in lines[skipped:]]
    about = {
        "how": _how(ended),
        "limit": f"{ended.limit_s:g} s",
        "when": "while it ran" if ended.ready else "before it answered",
    }
    for cause in CAUSES:
        entry = cause.entry
        if not _possible(cause, ended, end):
            continue
        found = find(cause, texts, last=ended.step == "dev_server")
        if found is not None:
            sign, values = found.pattern.sign, {**about, **found.values}
            message, hint = fill((sign.message, entry.message), values), fill((sign.hint, entry.hint), values)
            return _told(entry.code, message, hint, found.evidence, skipped)
        if not cause.patterns:
            why = _told(entry.code, fill((entry.message,), about), fill((entry.hint,), about), tail(texts), skipped)
            return msgspec.structs.replace(why, signature=signature(texts))
    raise AssertionError("the last causes of the catalogue fit every end")


def _told(code: str, message: str, hint: str, evidence: Sequence[int], skipped: int) -> Explanation:
    return Explanation(code=code, message=message, hint=hint, evidence=tuple(skipped + index for index in evidence))


def _possible(cause: Cause, ended: Ended, end: End) -> bool:
    entry = cause.entry
    if ended.step not in entry.steps or end not in entry.ends:
        return False
    return not entry.exit_codes or ended.exit_code in entry.exit_codes


def _end(ended: Ended) -> End:
    if ended.timed_out:
        return "timed_out"
    if ended.signal == "SIGKILL" or ended.exit_code == KILLED:
        return "killed"
    return "stopped" if ended.signal in END_SIGNALS or ended.exit_code in STOPPED else "exited"


def _how(ended: Ended) -> str:
    if ended.signal:
        return f"was ended by {ended.signal}"
    return "ended" if ended.exit_code is None else f"ended with code {ended.exit_code}"


def _crash(watcher: Watcher, texts: Sequence[str]) -> int | None:
    """Where the run begins that has crashed, by this watcher's words; None: none has, or another one has begun since."""
    crashes = [at for at, text in enumerate(texts) if watcher.crashed.search(text)]
    if not crashes or (watcher.sign is not None and not any(watcher.sign.search(text) for text in texts)):
        return None
    at = crashes[-1]
    if any(watcher.begun.search(text) or (watcher.entry.last and text.strip()) for text in texts[at + 1 :]):
        return None
    begins = [index for index in range(at) if watcher.begun.search(texts[index])] + [
        index for index in crashes if index < at
    ]
    return max(begins, default=-1) + 1
