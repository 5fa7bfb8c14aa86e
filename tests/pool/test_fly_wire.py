"""The wire to Fly's API: faults that pass, rubbish, redirects, clocks, and a token that shows nowhere."""

import logging
import re

import msgspec
import pytest
from aiohttp import web

from tests.fly.machines_api import TOKEN, Fault
from tests.pool.contract_home import WAIT_S, a_vm, listed
from tests.pool.test_fly_bad_input import MACHINE, Stand, refused, stand
from tests.pool.test_fly_provider import fly

__all__ = ["fly", "stand"]


async def test_passing_faults_are_waited_out(stand: Stand) -> None:
    """429 with Retry-After, 5xx and a 409 at the lease: the verb ends well, and nothing is done twice."""
    stand.fly.faults += [
        Fault(method="GET", path="/machines$", status=429, headers={"Retry-After": "0"}),
        Fault(method="POST", path="/machines$", status=429, headers={"Retry-After": "0"}),
        Fault(method="GET", path=MACHINE, status=502, body="<html>Bad Gateway</html>"),
        Fault(method="GET", path="/wait$", status=408),
        Fault(method="GET", path="/wait$", status=503),
        Fault(method="POST", path="/lease$", status=409),
        Fault(method="DELETE", path=MACHINE, status=500),
    ]
    provider = stand.provider()
    await provider.create(a_vm("vm-000001"))
    await provider.suspend("vm-000001")
    await provider.destroy("vm-000001")
    assert [fault for fault in stand.fly.faults if fault.times] == []
    assert len(stand.fly.machines) == 1
    assert stand.fly.leftovers() == []


async def test_a_retry_after_that_is_too_long_is_not_waited_for(stand: Stand) -> None:
    stand.fly.faults.append(Fault(method="GET", path="/machines$", status=429, headers={"Retry-After": "3600"}))
    error = await refused(stand.provider().list())
    assert (error.code, error.retryable) == ("provider_rate_limited", True)


async def test_a_creation_whose_answer_is_lost_is_not_made_twice(stand: Stand) -> None:
    """The machine that came of it is under a lease that nobody knows: it is listed, and goes once that has run out."""
    stand.fly.faults.append(Fault(method="POST", path="/machines$", status=502, after=True))
    provider = stand.provider(lease_ttl_s=1, lease_timeout_s=0.1)
    error = await refused(provider.create(a_vm("vm-000001")))
    assert (error.code, error.retryable) == ("provider_unavailable", True)
    assert len(stand.fly.machines) == 1
    assert await listed(provider, "vm-000001") is not None
    await stand.provider(lease_timeout_s=10.0).destroy("vm-000001")
    assert stand.fly.leftovers() == []


@pytest.mark.parametrize(
    "body", ["", "{", "<html>500</html>", "[]", '{"id": 3}', "[1, 2]", '[{"id": "x"}]', "\xff", "[" * 9000]
)
async def test_rubbish_is_no_list(stand: Stand, body: str) -> None:
    """Never half a list: what is no list of machines says so; an empty one is one."""
    stand.fly.faults.append(Fault(method="GET", path="/machines$", status=200, body=body))
    call = stand.provider().list()
    if body == "[]":
        assert await call == []
        return
    error = await refused(call)
    assert (error.code, error.retryable) == ("provider_unavailable", True)
    assert "DRAPE_POOL_FLY_API_URL" in error.message


async def test_an_error_names_the_request(stand: Stand) -> None:
    stand.fly.faults.append(Fault(method="GET", path="/machines$", status=500, times=9))
    error = await refused(stand.provider(tries_max=2).list())
    assert re.search(r"answered 500: a fault of the fake \(fly-request-id 01\w+-fra\)", error.message)


async def test_a_redirect_is_not_followed(stand: Stand) -> None:
    """The token would go with it."""
    seen: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response([])

    app = web.Application()
    app.router.add_get("/elsewhere", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        target = f"http://127.0.0.1:{runner.addresses[0][1]}/elsewhere"
        fault = Fault(method="GET", path="/machines$", status=302, headers={"Location": target}, times=9)
        stand.fly.faults.append(fault)
        error = await refused(stand.provider().list())
    finally:
        await runner.cleanup()
    assert (error.code, error.retryable, seen) == ("provider_unavailable", False, [])


@pytest.mark.parametrize("ahead_s", [86_400.0, -86_400.0])
async def test_ages_are_told_by_flys_clock(stand: Stand, ahead_s: float) -> None:
    """A machine that was made a moment ago is young, whatever the two clocks say: an orphan would be reaped at once."""
    stand.fly.ahead_s = ahead_s
    now = 1_000_000.0
    provider = stand.provider()
    provider._clock = lambda: now
    await provider.create(a_vm("vm-000001"))
    [found] = await provider.list()
    assert 0 <= now - found.created_at < WAIT_S
    stand.fly.of("vm-000001").created_at += 3600.0
    [found] = await provider.list()
    assert found.created_at == now
    await provider.destroy("vm-000001")


async def test_a_machine_whose_host_does_not_answer_is_known_all_the_same(stand: Stand) -> None:
    """Its config comes as `incomplete_config`."""
    provider = stand.provider()
    await provider.create(a_vm("vm-000001"))
    shown = stand.fly._shown(stand.fly.of("vm-000001"))
    shown["incomplete_config"], shown["host_status"] = shown.pop("config"), "unreachable"
    body = msgspec.json.encode([shown]).decode()
    stand.fly.faults.append(Fault(method="GET", path="/machines$", status=200, body=body))
    [found] = await provider.list()
    assert (found.vm_id, found.state) == ("vm-000001", "running")
    await provider.destroy("vm-000001")


async def test_the_token_is_in_no_log_and_no_repr(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    provider = stand.provider(tries_max=1)
    stand.fly.faults.append(
        Fault(method="GET", path="/machines$", status=500, body=f'{{"error": "no {TOKEN}"}}', times=9)
    )
    assert "no [token]" in (await refused(provider.list())).message
    assert TOKEN not in repr(vars(provider)) + repr(provider._api) + caplog.text
