"""What a browser or a program gets on a preview's host while there is no dev server to speak."""

import pytest

from services.gateway.adapters import pages
from services.gateway.adapters.preview_target import Holding, HoldingStatus, problem_of
from tests.gateway.proxy_stage import PREVIEW, stage

_EVIL = '</pre><script>alert("x")</script><img src=x onerror=alert(1)>\x1b[31mred\x1b[0m $title ${step} &amp;'
_STATUSES: list[tuple[HoldingStatus, int]] = [
    ("starting", 503),
    ("suspended", 503),
    ("failed", 502),
    ("stopped", 410),
    ("unknown", 404),
]


def _holding(status: HoldingStatus) -> Holding:
    return Holding(
        status, PREVIEW, "some_code", "The words.", "The hint.", ("line one", "line two"), 42.4, "installing"
    )


@pytest.mark.parametrize(("status", "code"), _STATUSES)
async def test_navigation_gets_a_page(status: HoldingStatus, code: int) -> None:
    """Each state has its status and a page in words, with a policy that lets only its own script run."""
    async with (
        stage(holding=_holding(status)) as on,
        on.client.get(on.url("/any/path"), headers={"Accept": "text/html,*/*;q=0.8"}) as answer,
    ):
        page = await answer.text()
        assert (answer.status, answer.content_type) == (code, "text/html")
        assert answer.headers.get("Retry-After") == ("1" if code == 503 else None)
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "The words." in page
    assert ("42" in page) == (code == 503)
    assert ("line one\nline two" in page) == (status == "failed")


@pytest.mark.parametrize(("status", "code"), _STATUSES)
async def test_programs_get_a_problem(status: HoldingStatus, code: int) -> None:
    """A request that asks for no page gets RFC 9457 JSON with the same status and a stable code."""
    async with stage(holding=_holding(status)) as on, on.client.get(on.url(), headers={"Accept": "*/*"}) as answer:
        assert (answer.status, answer.content_type) == (code, "application/problem+json")
        problem = await answer.json(content_type=None)
    assert {key: problem[key] for key in ("code", "detail", "hint", "status")} == {
        "code": "some_code",
        "detail": "The words.",
        "hint": "The hint.",
        "status": code,
    }
    assert problem["type"]
    assert problem["title"]


async def test_status_tells_the_waiting_page_everything() -> None:
    """The page's own question is answered with the whole state, and is never cached."""
    async with stage(holding=_holding("starting")) as on, on.client.get(on.url("/__drape/status")) as answer:
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        state = await answer.json()
    assert (state["status"], state["percent"], state["step"], state["message"]) == (
        "starting",
        42.4,
        "installing",
        "The words.",
    )


async def test_pages_load_their_assets() -> None:
    """Every script and style that a page names is there, with its type."""
    async with stage(holding=_holding("failed")) as on:
        for name, kind in (("holding.js", "text/javascript"), ("holding.css", "text/css")):
            async with on.client.get(on.url(f"/__drape/assets/{name}")) as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with on.client.get(on.url("/__drape/assets/failed.html")) as answer:
            assert answer.status == 404


@pytest.mark.parametrize("status", [status for status, _ in _STATUSES])
def test_texts_are_escaped(status: HoldingStatus) -> None:
    """Nothing that a program wrote becomes markup, a placeholder or a terminal code in the page."""
    about = Holding(status, PREVIEW, _EVIL, _EVIL, _EVIL, (_EVIL, _EVIL), float("inf"), _EVIL)
    page = pages.holding(about, problem_of(about))
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "[31m" not in page
    assert "$title ${step}" in page or "${step}" in page
    assert "&amp;amp;" in page
    assert 'data-code="&lt;/pre&gt;' in page or status != "failed"


def test_long_logs_are_cut() -> None:
    """The page holds the end of the log, and no line without end."""
    about = Holding("failed", PREVIEW, log_tail=(*(f"line {n}" for n in range(1000)), "x" * 10_000))
    page = pages.holding(about, problem_of(about))
    assert "line 999" in page
    assert "line 800\n" not in page
    assert len(page) < 10_000


def test_app_policy_admits_previews_in_frames_only() -> None:
    """The gateway's page may frame previews, load its own files, and nothing else."""
    policy = pages.app_policy("preview.example.com")
    assert "frame-src http://*.preview.example.com:* https://*.preview.example.com:*" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
