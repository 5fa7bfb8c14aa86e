"""Whatever a project prints: an explanation, quickly, within its bounds, and without secrets."""

import re
import time
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.rules.failures import Ended, Explanation, crashed, explain
from services.orchestrator.rules.failures.catalogue import CAUSES, TABLE, WATCHERS, parse
from services.orchestrator.rules.failures.matching import EVIDENCE_MAX, NAMES_MAX, TEXT_CHARS_MAX, plain
from services.orchestrator.rules.failures.redaction import redact
from tests.orchestrator.failures.test_samples import SAMPLES, lines_of

SECONDS_MAX = 10.0
"""For the worst log, which takes a third of a second on an idle machine; an ordinary one takes some milliseconds."""

ENDS = st.builds(
    Ended,
    step=st.sampled_from(["install", "dev_server"]),
    exit_code=st.one_of(st.none(), st.integers(0, 255)),
    signal=st.sampled_from([None, None, "SIGKILL", "SIGTERM", "SIGABRT", "SIGSEGV"]),
    timed_out=st.booleans(),
    ready=st.booleans(),
    limit_s=st.floats(0, 1e6),
)
RECORDED = st.sampled_from([line for name in SAMPLES for line in lines_of(name)])
LINES = st.lists(
    st.one_of(RECORDED, st.text(max_size=200), st.builds(str.__add__, RECORDED, st.text(max_size=40))), max_size=60
)


def sound(why: Explanation, lines: Sequence[str]) -> None:
    assert why.code in {entry.code for entry in TABLE.causes}
    assert 0 < len(why.message) <= TEXT_CHARS_MAX
    assert 0 < len(why.hint) <= TEXT_CHARS_MAX
    assert "\n" not in why.message
    assert list(why.evidence) == sorted(set(why.evidence))
    assert all(0 <= index < len(lines) for index in why.evidence)
    assert len(why.evidence) <= EVIDENCE_MAX + NAMES_MAX


@given(ended=ENDS, lines=LINES)
@settings(deadline=None)
def test_any_log_has_an_explanation(ended: Ended, lines: list[str]) -> None:
    """Never an exception; code, message and hint are there; the evidence is within the log."""
    sound(explain(ended, lines), lines)


@given(lines=LINES)
@settings(deadline=None)
def test_any_log_of_a_watcher_is_read(lines: list[str]) -> None:
    """Never an exception, and what is told is sound."""
    why = crashed(lines)
    if why is not None:
        sound(why, lines)


def _literals(pattern: str) -> str:
    """What the pattern's hits are made of, as far as a test can tell: its words, without the syntax between them."""
    return re.sub(r"\(\?[^)]{0,12}[:>)]|\\[a-zA-Z]|\{[^}]*\}|[\\^$()|?*+.\[\]]", " ", pattern).strip()


def _hostile() -> list[str]:
    patterns = [each.pattern for cause in CAUSES for one in cause.patterns for each in (one.hit, *one.near, *one.also)]
    patterns += [each.pattern for watcher in WATCHERS for each in (watcher.crashed, watcher.begun)]
    lines = [f"{words} {words.split()[0]} " * 400 for pattern in patterns if (words := _literals(pattern))]
    return lines + [
        char * 20_000 for char in ("a", "A", "_", "A_", "/", "@", " ", '"', "'", "x ", "\x1b[", "\x1b]", "1", "//a@")
    ]


def test_hostile_lines_end_quickly() -> None:
    """Long lines that almost match every pattern of the table, as many as are looked at, take no noticeable time."""
    lines = _hostile()
    lines = (lines * (400 // len(lines) + 1))[:400]

    slowest_s = 0.0
    for log in [lines, *([line] * 400 for line in lines[::20])]:
        for step in ("install", "dev_server"):
            began = time.process_time()
            sound(explain(msgspec.convert({"step": step, "exit_code": 1}, Ended), log), log)
            slowest_s = max(slowest_s, time.process_time() - began)
        crashed(log)

    assert slowest_s < SECONDS_MAX


SECRET = "Zx81kQ0pL9vTr45WmN2bYc67Hd"


@pytest.mark.parametrize(
    "text",
    [
        f"request to https://user:{SECRET}@packages.example/next failed",
        f"//packages.example/:_authToken={SECRET}",
        f"_auth={SECRET}",
        f"Invalid token: {SECRET}",
        f"the token {SECRET} has expired",
        f"API_KEY={SECRET}",
        f"STRIPE_SECRET_KEY: '{SECRET}'",
        f'"password": "{SECRET}"',
        f"Authorization: Bearer {SECRET}",
        f"https://packages.example/next?token={SECRET}&x=1",
        f"npm_{SECRET}{SECRET}",
        f"sk-{SECRET}",
        f"postgres://drape:{SECRET}@db.example:5432/app",
        f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    """What looks like a secret is replaced, in any text and in the messages that quote it."""
    assert SECRET not in redact(text)
    for template in (
        "SyntaxError: {}",
        "Cannot find module '{}'",
        "npm error network request to {} failed, reason: connect ECONNREFUSED 127.0.0.1:1",
        "drape: could not fetch pnpm 10: {}",
        "sh: 1: {}: not found",
    ):
        for step in ("install", "dev_server"):
            for code in (1, 69):
                ended = msgspec.convert({"step": step, "exit_code": code}, Ended)
                why = explain(ended, ["> dev", template.format(text)])
                assert SECRET not in why.message + why.hint, template


@pytest.mark.parametrize(
    "text",
    [
        "The environment variable SESSION_SECRET is missing.",
        "The environment variable STRIPE_API_KEY is missing.",
        "The module @vitejs/plugin-react was not found.",
        "react-dom@18.3.1 needs react@^18.3.1, but the project has react@16.14.0.",
        "server.js, line 3: Unexpected token '}'",
        "The download of is-number@npm:6.0.0 is not what the lockfile names.",
        "src/components/navigation/NavigationMenuItemWithSubMenu2.tsx was not found.",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Names of variables, packages and files are what a person needs to read."""
    assert redact(text) == text


def test_a_message_says_what_a_log_says_within_its_length() -> None:
    """A module's name that is longer than a message may be is cut, and marked as cut."""
    why = explain(Ended(step="dev_server", exit_code=1), [f"Error: Cannot find module '{'x/' * 200}y'"])

    assert why.code == "module_not_found"
    assert "…" in why.message + why.hint
    assert len(why.message) <= TEXT_CHARS_MAX


def test_escapes_and_old_words_are_read() -> None:
    """Colours, links and cursor movements are taken out; npm's older prefix is read as the newer one."""
    assert plain("\x1b[2K\x1b[31mnpm ERR!\x1b[39m code \x1b]8;;http://x\x07E404\x1b]8;;\x07\r") == "npm error code E404"


@pytest.mark.parametrize(
    "text",
    [
        'watchers = []\n[[causes]]\ncode = "x"\nmessage = "m"\nhint = "h"\nhints = "typo"',
        'watchers = []\n[[causes]]\ncode = "x"\nmessage = "{module}"\nhint = "h"',
        'watchers = []\n[[causes]]\ncode = "x"\nmessage = "m"\nhint = "h"\n[[causes.signs]]\npattern = "(?P<a>x)"\nmessage = "{b}"',
        'watchers = []\n[[causes]]\ncode = "x"\nmessage = "m"\nhint = "h"\n[[causes.signs]]\npattern = "("',
        'watchers = []\n[[causes]]\ncode = "x"\nsteps = ["boot"]\nmessage = "m"\nhint = "h"',
    ],
    ids=["unknown field", "a message that may lack its value", "a value that no group gives", "no pattern", "no step"],
)
def test_a_wrong_table_is_refused(text: str) -> None:
    """A mistake in the table is found when it is read, not when a preview fails."""
    with pytest.raises((msgspec.ValidationError, ValueError, re.error)):
        parse(text)
