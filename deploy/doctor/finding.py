"""What looking at something gave, and the rule that nothing is called well which could not be looked at."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Literal

import msgspec

Level = Literal["ok", "warning", "error"]
NAMED_MAX = 5


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `check`: which; `code`: stable, `ok` where all is well; `what` was found, `why` that
    matters or came to be, `todo`: what to do about it."""

    check: str
    level: Level
    code: str
    what: str
    why: str = ""
    todo: str = ""

    @property
    def detail(self) -> str:
        """All of it, as one text."""
        return " ".join(filter(None, (self.what, self.why, self.todo)))

    def as_json(self) -> dict[str, Any]:
        return {
            "type": "finding",
            "check": self.check,
            "level": self.level,
            "detail": self.detail,
            "code": self.code,
            "what": self.what,
            "why": self.why,
            "what_to_do": self.todo,
        }


def well(check: str, what: str) -> Finding:
    return Finding(check=check, level="ok", code="ok", what=what)


def warning(check: str, code: str, what: str, why: str = "", todo: str = "") -> Finding:
    return Finding(check=check, level="warning", code=code, what=what, why=why, todo=todo)


def wrong(check: str, code: str, what: str, why: str = "", todo: str = "") -> Finding:
    return Finding(check=check, level="error", code=code, what=what, why=why, todo=todo)


async def looked_at(check: str, looking: Awaitable[Sequence[Finding]], timeout_s: float) -> list[Finding]:
    """What it gives; where it fails or takes longer, that is the finding: never silence, never a traceback."""
    try:
        async with asyncio.timeout(timeout_s):
            return list(await looking)
    except TimeoutError:
        return [unseen(check, f"It did not answer within {timeout_s:g} s.")]
    except Exception as error:
        return [unseen(check, f"{getattr(error, 'message', '') or error or type(error).__name__}")]


def unseen(check: str, why: str) -> Finding:
    return wrong(
        check,
        "not_looked_at",
        f"The {check} could not be looked at.",
        why,
        "Whether it is well is not known: mend what the other findings say, then look again.",
    )


def named(things: Iterable[object]) -> str:
    """The first few, and how many more."""
    words = [str(each) for each in things]
    more = f" and {len(words) - NAMED_MAX} more" if len(words) > NAMED_MAX else ""
    return ", ".join(words[:NAMED_MAX]) + more
