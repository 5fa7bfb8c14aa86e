"""Rates: how often one token and one address may ask, in bounded memory; and whose address it is."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given as given_any
from hypothesis import strategies as st
from multidict import CIMultiDict

from services.gateway.adapters.clients import UNKNOWN, clients_from
from services.gateway.adapters.rates import Buckets
from shared.errors import Invalid
from tests.builders import PREVIEW, PROJECT, story
from tests.gateway.api_stage import TOKEN, api_stage


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_the_rate() -> None:
    """Retry-After is right: a moment before it the answer is no, and then it is yes."""
    clock = Clock()
    buckets = Buckets(rate_per_s=2.0, burst=3, keys_max=10, clock=clock)
    assert [buckets.take("a") for _ in range(3)] == [0.0] * 3
    wait_s = buckets.take("a")
    assert wait_s == 0.5
    assert buckets.take("b") == 0.0
    clock.now += wait_s - 0.01
    assert buckets.take("a") > 0
    clock.now += 0.01
    assert buckets.take("a") == 0.0
    assert buckets.take("a") > 0


@given_any(st.lists(st.floats(0, 5), max_size=200))
def test_never_more_than_burst_and_rate(pauses: list[float]) -> None:
    """However requests come, from whenever they are counted."""
    clock = Clock()
    buckets = Buckets(rate_per_s=3.0, burst=4, keys_max=10, clock=clock)
    granted = 0
    for pause_s in pauses:
        clock.now += pause_s
        granted += buckets.take("a") == 0.0
        assert granted <= 4 + 3.0 * (clock.now - 100.0) + 1e-6


def test_memory_is_bounded() -> None:
    """Who was seen longest ago is forgotten, and a rate of 0 remembers nobody."""
    buckets = Buckets(rate_per_s=0.1, burst=1, keys_max=100, clock=Clock())
    for key in range(10_000):
        assert buckets.take(key) == 0.0
    assert len(buckets) == 100
    assert buckets.take(9_999) > 0
    off = Buckets(rate_per_s=0.0, burst=1, keys_max=100, clock=Clock())
    assert [off.take("a") for _ in range(1_000)] == [0.0] * 1_000
    assert len(off) == 0


class _From:
    """A connection's other end."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self._address, 4711) if name == "peername" else default


def _request(peer: str, *forwarded: str) -> web.Request:
    headers = [("Host", "localhost"), *(("X-Forwarded-For", each) for each in forwarded)]
    return make_mocked_request("GET", "/", CIMultiDict(headers), transport=_From(peer))


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ("", "192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.0/8", "192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.0/8", "10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.0/8", "10.1.2.3", ["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.0/8", "10.1.2.3", ["198.51.100.7", "203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        ("10.0.0.0/8", "10.1.2.3", [], "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3", ["rubbish"], "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3", ["203.0.113.9, rubbish, 10.0.0.1"], "10.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        ("", "2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("::1", "::1", ["2001:db8:1:2::77"], "2001:db8:1:2::/64"),
        ("", "", [], UNKNOWN),
    ],
)
def test_the_address_is_the_last_that_is_vouched_for(
    trusted: str, peer: str, forwarded: list[str], address: str
) -> None:
    """A client can write into X-Forwarded-For whatever it likes: only what a trusted proxy added counts."""
    assert clients_from(trusted).address_of(_request(peer, *forwarded)) == address


def test_proxies_that_are_no_addresses_are_refused() -> None:
    with pytest.raises(Invalid, match="TRUSTED_PROXIES"):
        clients_from("10.0.0.0/8,proxy.example")


async def test_a_token_that_asks_too_often_is_told_when_to_come_back() -> None:
    """429, a code and Retry-After; another token, another class of requests and /health go on."""
    async with api_stage(token_reads_per_s=0.1, token_reads_burst=3) as on:
        got = [await on.call("GET", "/api/projects") for _ in range(5)]
        assert [each.status for each in got] == [200, 200, 200, 429, 429]
        assert got[-1].problem() == (429, "rate_limited")
        assert 0 < got[-1].json["retry_after_s"] <= 20
        async with on.session.get(f"{on.url}/api/projects", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert (answer.status, 1 <= int(answer.headers["Retry-After"]) <= 20) == (429, True)
        assert (await on.call("GET", "/api/projects", token="token-of-bob-456789")).status == 200
        assert (await on.call("POST", "/api/projects", json={"name": "x"})).status == 201
        assert (await on.call("GET", "/health")).status == 200


async def test_starts_of_previews_have_a_rate_of_their_own() -> None:
    """Each may cost a VM; whatever way it is asked for."""
    async with api_stage(*story("requested")[:-1], token_starts_per_s=0.1, token_starts_burst=3) as on:
        asked = [await on.call("POST", "/api/previews", json={"project_id": PROJECT}) for _ in range(2)]
        assert [each.status for each in asked] == [202, 200]
        assert (await on.call("POST", f"/api/previews/{PREVIEW}/restart")).status == 202
        for path in (f"/api/previews/{PREVIEW}/restart", f"/api/projects/{PROJECT}/prepare", "/api/previews"):
            assert (await on.call("POST", path)).problem() == (429, "rate_limited")
        assert (await on.call("GET", f"/api/previews/{PREVIEW}")).status == 200


async def test_an_address_that_asks_too_often_is_refused_whatever_token_it_tries() -> None:
    """Guessing tokens is bounded by the address."""
    async with api_stage(address_reads_per_s=0.1, address_reads_burst=4) as on:
        got = [await on.call("GET", "/api/projects", token=f"guess-number-{number:06}") for number in range(6)]
        assert [each.status for each in got] == [401] * 4 + [429] * 2


async def test_addresses_behind_a_trusted_proxy_are_told_apart() -> None:
    async with api_stage(address_reads_per_s=0.1, address_reads_burst=1, trusted_proxies="127.0.0.1") as on:

        async def ask(address: str) -> int:
            headers = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": address}
            async with on.session.get(f"{on.url}/api/projects", headers=headers) as answer:
                return answer.status

        assert [await ask("203.0.113.1"), await ask("203.0.113.1"), await ask("203.0.113.2")] == [200, 429, 200]
