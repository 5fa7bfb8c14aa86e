"""Tests of the proxy that hold whichever way a dev server is reached."""

import pytest

from tests.gateway import proxy_stage


@pytest.fixture(params=["direct", "tunnel"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of the test reaches its dev server as it listens, and then through an agent's tunnels."""
    monkeypatch.setattr(proxy_stage, "through_tunnels", request.param == "tunnel")
