"""Which versions deserve a warning."""

import msgspec
import pytest

from services.orchestrator.rules.warnings import warnings_for


@pytest.mark.parametrize("version", ["16.0", "16.0.0", "16.0.10", "16.1", "16.1.7", "16.0-canary.3", "16.1.0-beta.1"])
def test_next_16_0_and_16_1_hang(version: str) -> None:
    """The warning names the version and has the shape that front ends know."""
    [warning] = warnings_for("nextjs", version)
    assert msgspec.to_builtins(warning) == {
        "code": "nextjs_version",
        "version": version,
        "message": f"Next.js {version} has known dev server hanging issues.",
        "recommendation": "15.3.0",
        "link": "https://github.com/vercel/next.js/discussions/77102",
    }


@pytest.mark.parametrize(
    "version", ["", "16", "15.3.0", "16.2.0", "16.10.0", "16.11", "116.0.0", "17.0.0", "160.1", "x"]
)
def test_other_versions_do_not(version: str) -> None:
    assert warnings_for("nextjs", version) == ()


@pytest.mark.parametrize("framework", ["vite", "express", "static", "node", ""])
def test_other_frameworks_do_not(framework: str) -> None:
    assert warnings_for(framework, "16.0.0") == ()
