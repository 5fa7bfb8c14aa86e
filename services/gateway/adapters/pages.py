"""The few pages that the gateway shows on a preview's host while no dev server speaks: starting, failed, not found.

Every text put into them is escaped: messages and log lines come from programs that the gateway does not trust.
"""

import html
from functools import cache
from pathlib import Path
from string import Template

import msgspec

from services.gateway.adapters.preview_target import Holding
from services.gateway.adapters.terminal import plain
from shared.errors import Problem

_FOLDER = Path(__file__).parent.parent / "web" / "pages"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_LOG_LINES_MAX = 200
_LINE_CHARS_MAX = 2000

PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ASSET_HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}


class Asset(msgspec.Struct, frozen=True):
    """A script or style of these pages."""

    body: bytes
    content_type: str


def app_policy(base_domain: str) -> str:
    """The Content-Security-Policy for the gateway's own page at `/`: its own files only, and previews in frames."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        f"frame-src http://*.{base_domain}:* https://*.{base_domain}:*; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def holding(about: Holding, problem: Problem) -> str:
    """The page for a preview that is not to be seen now. `problem` has the words, see `preview_target.problem_of`."""
    if about.status in {"starting", "suspended"}:
        percent = min(100.0, max(0.0, about.percent))
        return _fill("starting.html", problem, percent=f"{percent:.0f}", step=_words(about.step))
    if about.status == "failed":
        return _fill(
            "failed.html",
            problem,
            log=_lines("What shows it", about.evidence) + _lines("End of the log", about.log_tail),
        )
    return _fill("missing.html", problem)


def error(problem: Problem) -> str:
    """The page for an error of the moment: the dev server does not answer, or the gateway cannot ask who should."""
    return _fill("failed.html", problem, log="")


def asset(name: str) -> Asset | None:
    """The script or style called `name`; None when these pages have no such file."""
    return _assets().get(name)


@cache
def _assets() -> dict[str, Asset]:
    files = (path for path in _FOLDER.iterdir() if path.suffix in _TYPES)
    return {path.name: Asset(path.read_bytes(), _TYPES[path.suffix]) for path in files}


@cache
def _template(name: str) -> Template:
    return Template((_FOLDER / name).read_text(encoding="utf-8"))


def _fill(name: str, problem: Problem, **parts: str) -> str:
    """A template with the problem's words, escaped; `parts` are escaped already."""
    words = {
        "title": html.escape(plain(problem.title)),
        "message": html.escape(plain(problem.detail)),
        "hint": html.escape(plain(problem.hint)),
        "code": html.escape(plain(problem.code)),
    }
    return _template(name).substitute(words, **parts)


def _words(step: str) -> str:
    return html.escape(plain(step).replace("_", " "))


def _lines(title: str, lines: tuple[str, ...]) -> str:
    """Lines of the log as one block; nothing at all where there are none."""
    if not lines:
        return ""
    text = "\n".join(plain(line)[:_LINE_CHARS_MAX] for line in lines[-_LOG_LINES_MAX:])
    return f'<h2>{title}</h2>\n<pre tabindex="0">{html.escape(text)}</pre>'
