"""Who may ask for what: tokens and owners, Host and Origin."""

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from services.gateway.adapters.access import (
    LOCAL_OWNER,
    Access,
    access_from,
    is_loopback,
    problem_response,
    socket_protocols,
)
from shared.errors import DrapeError, Invalid, Refused, Unavailable
from shared.secrets import matches

ALICE, BOB = "a" * 16, "b" * 24
HOSTS = "localhost,127.0.0.1,[::1]"


def access(tokens: str = f"{ALICE}:alice,{BOB}:bob") -> Access:
    return access_from(tokens, "127.0.0.1", HOSTS)


def owner(headers: dict[str, str], tokens: str = f"{ALICE}:alice,{BOB}:bob") -> str:
    return access(tokens).owner_of(make_mocked_request("GET", "/api/projects", headers=headers))


def check(headers: dict[str, str], path: str = "/api/projects") -> None:
    access().check_origin(make_mocked_request("GET", path, headers=headers))


@pytest.mark.parametrize(("token", "expected"), [(ALICE, "alice"), (BOB, "bob")])
def test_a_token_names_its_owner(token: str, expected: str) -> None:
    """As a header, or as the sub-protocol where a browser can't set one."""
    assert owner({"Authorization": f"Bearer {token}"}) == expected
    assert owner({"Authorization": f"bearer  {token} "}) == expected
    assert owner({"Sec-WebSocket-Protocol": f"drape, bearer.{token}"}) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {ALICE}x"},
        {"Authorization": f"Bearer {ALICE[:-1]}"},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": ALICE},
        {"Authorization": "Bearer größe"},
        {"Sec-WebSocket-Protocol": ALICE},
        {"Sec-WebSocket-Protocol": "bearer."},
        {"Cookie": f"token={ALICE}"},
    ],
)
def test_without_a_known_token_nobody_gets_in(headers: dict[str, str]) -> None:
    """401 whatever was sent instead, bytes that are no text among it."""
    with pytest.raises(Refused) as refused:
        owner(headers)
    assert (refused.value.code, refused.value.status) == ("token_required", 401)
    assert ALICE not in refused.value.message + refused.value.hint


def test_on_loopback_without_tokens_everybody_is_local() -> None:
    assert owner({}, tokens="") == owner({"Authorization": "Bearer whatever"}, tokens="") == LOCAL_OWNER


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.168.1.4", "example.org", ""])
def test_elsewhere_it_does_not_start_without_tokens(host: str) -> None:
    """Anybody could run code here."""
    with pytest.raises(Invalid) as refused:
        access_from("", host, HOSTS)
    assert (refused.value.code, bool(refused.value.hint)) == ("tokens_required", True)
    assert access_from(f"{ALICE}:alice", host, HOSTS).tokens == {ALICE: "alice"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert access_from("", host, HOSTS).tokens == {}


@pytest.mark.parametrize(
    "tokens", ["alice", ":alice", "short:alice", f"{ALICE}:", f"{ALICE}:a/b", f"{ALICE}:a.b", f"{ALICE}:é é"]
)
def test_bad_tokens_stop_the_start_and_are_not_repeated(tokens: str) -> None:
    with pytest.raises(Invalid) as refused:
        access(tokens)
    assert refused.value.code == "bad_api_tokens"
    assert ALICE not in refused.value.message + refused.value.hint


def test_blanks_and_empty_parts_of_the_tokens_do_not_matter() -> None:
    assert access(f" {ALICE}:alice , ,{BOB}:bob-2,").tokens == {ALICE: "alice", BOB: "bob-2"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8080"},
        {"Host": "LOCALHOST:8080"},
        {"Host": "127.0.0.1:8080"},
        {"Host": "[::1]:8080"},
        {"Host": "localhost:8080", "Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:8080", "Origin": "http://LOCALHOST:8080"},
        {"Host": "localhost:8080", "Sec-Fetch-Site": "none"},
    ],
)
def test_its_own_page_and_programs_may_ask(headers: dict[str, str]) -> None:
    check(headers)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "x.preview.localhost:8080", "10.0.0.1", "", "a b"]
)
def test_another_host_name_is_not_answered(host: str) -> None:
    """A name that was pointed at this machine (DNS rebinding) reaches nothing."""
    with pytest.raises(DrapeError) as refused:
        check({"Host": host})
    assert (refused.value.code, refused.value.status) == ("unknown_host", 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://x.preview.localhost:8080"},
        {"Origin": "http://localhost:8081"},
        {"Origin": "http://localhost"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_another_origin_may_not_ask(headers: dict[str, str]) -> None:
    """A preview's frame among them."""
    with pytest.raises(Refused) as refused:
        check({"Host": "localhost:8080", **headers})
    assert (refused.value.code, refused.value.status) == ("origin_not_allowed", 403)


def test_sub_protocols() -> None:
    request = make_mocked_request("GET", "/ws", headers={"Sec-WebSocket-Protocol": " drape ,, bearer.x"})
    assert socket_protocols(request) == ["drape", "bearer.x"]
    assert socket_protocols(make_mocked_request("GET", "/ws")) == []


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Unavailable("log_unavailable", "Away.", retry_after_s=0.2), {"Retry-After": "1"}),
        (Unavailable("log_unavailable", "Away.", retry_after_s=7.6), {"Retry-After": "8"}),
        (Refused("token_required", "Who?", status=401), {"WWW-Authenticate": "Bearer"}),
        (Refused("no", "No."), {}),
    ],
)
def test_errors_are_problem_json(error: DrapeError, headers: dict[str, str]) -> None:
    """RFC 9457, with the stable code and what the status asks for in headers."""
    response = problem_response(error)
    assert isinstance(response.body, bytes)
    body = msgspec.json.decode(response.body)
    assert (response.status, response.content_type) == (error.status, "application/problem+json")
    assert (body["code"], body["status"], body["detail"]) == (error.code, error.status, error.message)
    assert {name: response.headers.get(name) for name in ("Retry-After", "WWW-Authenticate")} == {
        "Retry-After": None,
        "WWW-Authenticate": None,
        **headers,
    }


def test_bytes_that_are_no_text_match_nothing() -> None:
    """Headers arrive with undecodable bytes as surrogates: comparing them must not break."""
    assert not matches("\udce9", ALICE)
    assert matches(ALICE, ALICE)
