"""Which edits a running dev server can't take in by itself."""

import pytest
from msgspec.structs import replace

from services.orchestrator.model import Found
from services.orchestrator.rules.detection import Detection
from services.orchestrator.rules.edits import matches_any, needs_restart

NOW = Detection(
    framework="express",
    version="5.0.0",
    package_manager="npm",
    app_root=".",
    dev_command=("node", "server.js"),
    dev_env={"A": "1"},
    install_command=("npm", "ci"),
    deps="abc",
    restart_on=("*.js", "!public/**"),
    evidence=(),
)
FOUND = Found(
    framework="express",
    version="5.0.0",
    package_manager="npm",
    app_root=".",
    install_root=".",
    dev_command=("node", "server.js"),
    dev_env={"A": "1"},
    install_command=("npm", "ci"),
    install_retry_command=(),
    install_env={},
    deps="abc",
    keeps=True,
    ready_path="/",
    restart_on=("*.js", "!public/**"),
)


@pytest.mark.parametrize(
    "now",
    [
        replace(NOW, deps="other"),
        replace(NOW, dev_command=("node", "app.js")),
        replace(NOW, dev_env={}),
        replace(NOW, install_command=("npm", "install")),
        replace(NOW, ready_path="/docs"),
        replace(NOW, app_root="apps/web"),
    ],
)
def test_what_a_job_was_begun_with_has_changed(now: Detection) -> None:
    assert needs_restart(FOUND, now, ["package.json"])


@pytest.mark.parametrize("now", [NOW, replace(NOW, version="6.0.0", evidence=("more",)), None])
def test_anything_else_is_the_dev_servers_own_business(now: Detection | None) -> None:
    """Also a package.json that can't be read just now."""
    assert not needs_restart(FOUND, now, ["package.json", "views/index.html", "public/app.js"])


@pytest.mark.parametrize("path", ["server.js", "lib/deep/a.js"])
def test_sources_of_a_server_that_does_not_watch_them(path: str) -> None:
    assert needs_restart(FOUND, NOW, [path])


def test_globs_count_below_the_app() -> None:
    """A sibling's file of the same name is nothing to this app."""
    assert matches_any("apps/web/next.config.js", "apps/web", ["/next.config.*"])
    assert not matches_any("apps/docs/next.config.js", "apps/web", ["/next.config.*"])
    assert not matches_any("apps/web/lib/next.config.js", "apps/web", ["/next.config.*"])
