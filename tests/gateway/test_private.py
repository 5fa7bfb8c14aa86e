"""Private previews: nothing passes without the link's cookie, on no path and by no protocol, and neither is seen by others."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import aiohttp
import msgspec
import pytest
from aiohttp import web

from services.gateway.adapters.private import OPEN_PATH, Passes, checked_path
from services.gateway.adapters.resolver import PROBE_HEADER
from shared.events import Event, PreviewFailed, PreviewRequested, PreviewStopped
from shared.secrets import link_mac, pass_mac, probe_token
from tests.builders import PREVIEW, PROJECT, dev_server_ready, story
from tests.gateway.api_stage import SECRET, ApiStage, api_stage
from tests.gateway.proxy_stage import LOOPBACK

OTHER = "01jd2e8c4mqv9tq5w3x7y8z9zz"


class Door:
    """A private preview's host, as a browser without a cookie jar sees it."""

    def __init__(self, on: ApiStage, seen: list[web.Request]) -> None:
        self.on = on
        self.seen = seen

    def host(self, preview_id: str = PREVIEW) -> str:
        return f"{preview_id}.preview.localhost:{urlsplit(self.on.url).port}"

    async def get(
        self, path: str, *, method: str = "GET", preview_id: str = PREVIEW, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], str]:
        named = {"Host": self.host(preview_id), **(headers or {})}
        async with self.on.session.request(method, self.on.url + path, headers=named, allow_redirects=False) as answer:
            return answer.status, answer.headers.copy(), await answer.text()

    async def link(self, **body: object) -> str:
        """The path and query of a link, as its holder has it."""
        made = await self.on.call("POST", f"/api/previews/{PREVIEW}/links", json=body)
        assert made.status == 201, made.text
        parts = urlsplit(made.json["url"])
        assert parts.hostname == f"{PREVIEW}.preview.localhost"
        return f"{parts.path}?{parts.query}"

    async def cookie(self) -> str:
        _, headers, _ = await self.get(await self.link())
        return str(headers["Set-Cookie"]).partition(";")[0]


def _private(*past: Event) -> list[Event]:
    return [msgspec.structs.replace(e, private=True) if isinstance(e, PreviewRequested) else e for e in past]


@asynccontextmanager
async def door(*more: Event) -> AsyncIterator[Door]:
    """A gateway with a private preview whose dev server notes what it gets."""
    seen: list[web.Request] = []

    async def dev_server(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str("hello")
            await socket.close()
            return socket
        return web.Response(text="dev server", headers={"Set-Cookie": "drape_pass=forged; Path=/"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", dev_server)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        port = int(runner.addresses[0][1])
        past = [
            msgspec.structs.replace(event, host=LOOPBACK, port=port)
            if type(event) is type(dev_server_ready())
            else event
            for event in _private(*story("ready"))
        ]
        async with api_stage(*past, *more) as on:
            yield Door(on, seen)
    finally:
        await runner.cleanup()


async def test_without_a_cookie_nothing_is_served() -> None:
    """Pages, data, the platform's own paths, any method and a WebSocket: all refused, and the dev server hears nothing."""
    async with door() as at:
        for path in ("/", "/src/main.ts", "/__drape/status", "/__drape", "//x", "/%2e%2e/__drape/assets/../../"):
            status, _, text = await at.get(path)
            assert (status, msgspec.json.decode(text)["code"]) == (403, "preview_private"), path
        for method in ("POST", "HEAD", "OPTIONS", "DELETE"):
            assert (await at.get("/", method=method))[0] == 403
        page = await at.get("/", headers={"Accept": "text/html"})
        assert (page[0], "This preview is private" in page[2]) == (403, True)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await at.on.session.ws_connect(f"{at.on.url}/hmr", headers={"Host": at.host()})
        assert refused.value.status == 403
        assert at.seen == []


async def test_a_link_becomes_a_cookie_of_that_host_alone() -> None:
    """The browser is sent on to the clean address; the cookie opens pages and WebSockets, and the dev server never sees it."""
    async with door() as at:
        status, headers, _ = await at.get(await at.link(path="/docs?x=1"))
        assert (status, headers["Location"], headers["Referrer-Policy"]) == (303, "/docs?x=1", "no-referrer")
        cookie = str(headers["Set-Cookie"])
        attributes = {part.strip().partition("=")[0] for part in cookie.split(";")[1:]}
        assert attributes == {"Path", "Max-Age", "HttpOnly", "SameSite"}
        assert "Path=/" in cookie
        assert "SameSite=Lax" in cookie
        given = cookie.partition(";")[0]

        status, headers, text = await at.get("/docs", headers={"Cookie": f"theme=dark; {given}; lang=en"})
        assert (status, text) == (200, "dev server")
        assert "Set-Cookie" not in headers
        assert at.seen[-1].headers["Cookie"] == "theme=dark; lang=en"
        await at.get("/docs", headers={"Cookie": given})
        assert "Cookie" not in at.seen[-1].headers
        async with at.on.session.ws_connect(f"{at.on.url}/hmr", headers={"Host": at.host(), "Cookie": given}) as socket:
            assert (await socket.receive()).data == "hello"
        assert (await at.get("/", headers={"Cookie": f"drape_pass=x; {given}"}))[0] == 200
        told = " ".join(f"{request.raw_path} {dict(request.headers)}" for request in at.seen)
        assert given.partition("=")[2] not in told


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, "SameSite=None; Secure; Partitioned"),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, "SameSite=Lax"),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"}, "SameSite=Lax"),
    ],
)
async def test_in_a_frame_of_another_site_the_cookie_is_that_frames_alone(headers: dict[str, str], wanted: str) -> None:
    async with door() as at:
        _, got, _ = await at.get(await at.link(), headers=headers)
        assert str(got["Set-Cookie"]).endswith(wanted)


def _tokens(now: int) -> dict[str, str]:
    later, past = now + 1000, now - 1
    good = link_mac(SECRET, PREVIEW, later)
    return {
        "none": "",
        "another preview's": f"{later}.{link_mac(SECRET, OTHER, later)}",
        "a cookie's": f"{later}.{pass_mac(SECRET, PREVIEW, later)}",
        "another secret's": f"{later}.{link_mac('00' * 32, PREVIEW, later)}",
        "prolonged": f"{later + 1}.{good}",
        "cut": f"{later}.{good[:-1]}",
        "negative": f"-{later}.{good}",
        "endless": f"{'9' * 400}.{good}",
        "odd digits": f"\u0661.{good}",
        "not ascii": f"{later}.\u00e9",
        "expired": f"{past}.{link_mac(SECRET, PREVIEW, past)}",
    }


async def test_links_that_are_not_this_previews_open_nothing() -> None:
    async with door() as at:
        now = int(at.on.runtime.clock())
        for name, token in _tokens(now).items():
            async with at.on.session.get(
                at.on.url + OPEN_PATH, params={"token": token}, headers={"Host": at.host()}, allow_redirects=False
            ) as answer:
                problem = await answer.json(content_type=None)
                wanted = "link_expired" if name == "expired" else "link_invalid"
                assert (answer.status, problem["code"]) == (403, wanted), name
                assert "Set-Cookie" not in answer.headers


async def test_cookies_that_are_not_this_previews_open_nothing() -> None:
    async with door() as at:
        now = int(at.on.runtime.clock())
        later, past = now + 1000, now - 1
        bad = [
            pass_mac(SECRET, OTHER, later),
            link_mac(SECRET, PREVIEW, later),
            pass_mac(SECRET, PREVIEW, later + 1),
            "",
        ]
        values = [*(f"{later}.{mac}" for mac in bad), f"{past}.{pass_mac(SECRET, PREVIEW, past)}", "x", "1", "."]
        for value in values:
            assert (await at.get("/", headers={"Cookie": f"drape_pass={value}"}))[0] == 403, value
        good = f"{later}.{pass_mac(SECRET, PREVIEW, later)}"
        assert (await at.get("/", headers={"Cookie": f"drape_pass={good}"}))[0] == 200
        assert (await at.get("/", headers={"Cookie": f"other={good}"}))[0] == 403


ELSEWHERE = (
    "//evil.example",
    "https://evil.example/",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "/x\r\nA: b",
    "/ x",
    "/\u00e9",
    "",
    "/" + "a" * 5000,
)


@pytest.mark.parametrize("to", ELSEWHERE)
async def test_a_link_never_leads_elsewhere(to: str) -> None:
    """Where `to` could mean another place, it is the preview's root."""
    assert checked_path(to) == "/"
    async with door() as at:
        token = parse_qs(urlsplit(await at.link()).query)["token"][0]
        async with at.on.session.get(
            at.on.url + OPEN_PATH, params={"token": token, "to": to}, headers={"Host": at.host()}, allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_what_a_preview_shows_instead_of_itself_is_private_too() -> None:
    """Its log and its reason on the page of a failure, and that it was stopped."""
    failed = PreviewFailed(preview_id=PREVIEW, attempt=1, code="c", message="the reason", hint="h", step="installing")
    for event in (failed, PreviewStopped(preview_id=PREVIEW, reason="asked")):
        async with door(event) as at:
            status, _, text = await at.get("/", headers={"Accept": "text/html"})
            assert (status, "the reason" in text) == (403, False)
            cookie = await at.cookie()
            assert (await at.get("/", headers={"Cookie": cookie}))[0] in (410, 502)


async def test_the_platforms_own_probe_passes_with_this_previews_key() -> None:
    async with door() as at:
        assert (await at.get("/", headers={PROBE_HEADER: probe_token(SECRET, PREVIEW)}))[0] == 200
        assert (await at.get("/", headers={PROBE_HEADER: probe_token(SECRET, OTHER)}))[0] == 403
        assert PROBE_HEADER not in at.seen[-1].headers


async def test_links_are_made_for_the_owner_and_for_a_bounded_time() -> None:
    async with door() as at:
        path = f"/api/previews/{PREVIEW}/links"
        assert (await at.on.call("POST", path, json={}, token="token-of-bob-456789")).problem() == (
            404,
            "preview_not_found",
        )
        for ttl_s in (0, -5, 9, 7 * 86400 + 1, 1e300):
            assert (await at.on.call("POST", path, json={"ttl_s": ttl_s})).problem() == (400, "bad_ttl")
        for wrong in ("https://x", "//x", "x", ""):
            assert (await at.on.call("POST", path, json={"path": wrong})).problem() == (400, "bad_path")
        made = await at.on.call("POST", path, json={"ttl_s": 60})
        assert 0 < made.json["expires_at"] - at.on.runtime.clock() <= 60
        assert (await at.on.view())["private"] is True


async def test_a_wish_for_a_private_preview_reaches_the_orchestrator() -> None:
    async with api_stage(*story("requested")[:-1]) as on:
        made = await on.call("POST", "/api/previews", json={"project_id": PROJECT, "private": True})
        assert made.status == 202, made.text
        assert [getattr(command, "private", None) for command in on.commands] == [True]


def test_over_https_the_cookie_is_bound_to_the_host_by_its_name() -> None:
    """`__Host-`: browsers take it only with Secure, for the whole host, and from no other host."""
    response = web.Response()
    Passes(SECRET, 60, clock=lambda: 1_000.0).admit(PREVIEW, response, scheme="https", framed_elsewhere=False)
    cookie = response.headers["Set-Cookie"]
    assert (
        cookie
        == f"__Host-drape_pass=1060.{pass_mac(SECRET, PREVIEW, 1060)}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
    )
