"""Asks a dev server one real question: its page, whole, with what the page loads first.

Many servers answer 200 around a broken project: Vite's page is fine, and the module that it loads is a 500. So the page's
scripts are fetched too, and what those import, within bounds. Never: decides what the answers mean.
"""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

REDIRECTS_MAX = 10
_IMPORT = re.compile(r"""(?:^|[;\s])(?:import|export)\b[^'"();]{0,2000}?["']([^"'\n]{1,500})["']""")


class AskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of one question."""

    body_bytes_max: int = 32 * 1024 * 1024
    """A body that goes on beyond this counts as whole."""
    text_bytes_max: int = 2 * 1024 * 1024
    """So much of a page or a script is looked through for what it loads."""
    scripts_max: int = 5
    """Scripts of the page that are fetched."""
    requests_max: int = 20
    """Scripts in all, with what they import."""
    depth_max: int = 3
    """The page's own scripts, what they import, and what that imports."""
    script_timeout_s: float = 30.0
    """A script without a whole answer by then is not waited for: the page itself has answered."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `page`: it looks like something to show. `broken`: the script of it that answered `status`."""

    host: str
    status: int
    page: bool
    broken: str = ""


class RedirectLoop(Exception):
    """The page redirects within its origin without end; the message says where to."""


class _Response(msgspec.Struct, frozen=True):
    status: int
    html: bool
    text: str
    url: str


async def ask(
    client: aiohttp.ClientSession, hosts: Sequence[str], port: int, path: str, limits: AskLimits, *, entry: bool
) -> Answer | None:
    """Ask at the first of the hosts that takes the connection; None when it drops it. `entry`: fetch scripts too.

    Raises `RedirectLoop`. Waits as long as the server does: a first page may have to be compiled.
    """
    for host in hosts:
        authority = f"[{host}]" if ":" in host else host
        try:
            page = await _follow(client, f"http://{authority}:{port}{path}", port, limits)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            continue  # not at this address; perhaps at the next
        except (aiohttp.ClientError, OSError, ValueError):
            return None
        shown = page.status < 400 and (page.status >= 300 or page.html)
        if entry and page.html and page.status == 200:
            broken = await _broken_script(client, page, port, limits)
            if broken is not None:
                return Answer(host=host, status=broken.status, page=True, broken=urlsplit(broken.url).path)
        return Answer(host=host, status=page.status, page=shown)
    return None


async def _follow(client: aiohttp.ClientSession, url: str, port: int, limits: AskLimits) -> _Response:
    """The answer at the end of the redirects within this server; one that leads elsewhere is an answer itself."""
    for _ in range(REDIRECTS_MAX + 1):
        async with client.get(url, headers=_headers(port, "text/html,*/*"), allow_redirects=False) as response:
            text = await _read(response, limits)
            target = urljoin(url, response.headers.get("Location", ""))
            redirects = response.status in (301, 302, 303, 307, 308) and "Location" in response.headers
            if not redirects or not _same_server(target, url):
                return _Response(response.status, "html" in response.content_type, text, url)
            url = _at(target, url)
    raise RedirectLoop(f"{urlsplit(url).path or '/'} redirects again after {REDIRECTS_MAX} redirects")


def _headers(port: int, accept: str) -> dict[str, str]:
    # Plain text only: it is looked through.
    plain = {"Accept-Encoding": "identity", "User-Agent": "drape-readiness"}
    return {"Host": f"localhost:{port}", "Accept": accept, **plain}


def _same_server(target: str, url: str) -> bool:
    to, here = urlsplit(target), urlsplit(url)
    return to.scheme == "http" and to.port == here.port and to.hostname in ("localhost", "127.0.0.1", here.hostname)


def _at(target: str, url: str) -> str:
    """The target, at the address that is known to answer."""
    return urlsplit(target)._replace(netloc=urlsplit(url).netloc, fragment="").geturl()


async def _read(response: aiohttp.ClientResponse, limits: AskLimits) -> str:
    """The whole body, and of its text the beginning."""
    kept, size = bytearray(), 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if len(kept) < limits.text_bytes_max:
            kept += chunk[: limits.text_bytes_max - len(kept)]
        if size > limits.body_bytes_max:
            break
    return kept.decode("utf-8", "replace")


# --- what a page loads --------------------------------------------------------------------------------------------


async def _broken_script(
    client: aiohttp.ClientSession, page: _Response, port: int, limits: AskLimits
) -> _Response | None:
    """The first of the page's scripts, and of what they import, that answers 5xx."""
    wanted = deque((url, 1) for url in _scripts(page, limits))
    seen = {url for url, _ in wanted}
    for _ in range(limits.requests_max):
        if not wanted:
            return None
        url, depth = wanted.popleft()
        script = await _script(client, url, port, limits)
        if script is None:
            continue
        if script.status >= 500:
            return script
        for imported in _imports(script) if depth < limits.depth_max else ():
            if imported not in seen:
                seen.add(imported)
                wanted.append((imported, depth + 1))
    return None


async def _script(client: aiohttp.ClientSession, url: str, port: int, limits: AskLimits) -> _Response | None:
    try:
        async with (
            asyncio.timeout(limits.script_timeout_s),
            client.get(url, headers=_headers(port, "*/*"), allow_redirects=False) as response,
        ):
            return _Response(response.status, False, await _read(response, limits), url)
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
        return None  # the page has answered; what else it loads may be anything


class _Scripts(HTMLParser):
    """Collects the sources of a page's scripts, and what its inline modules import."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self._inline = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            named = dict(attrs)
            source = named.get("src")
            self._inline = source is None and named.get("type") == "module"
            if source:
                self.sources.append(source)

    def handle_data(self, data: str) -> None:
        if self._inline:
            self.sources += _IMPORT.findall(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inline = False


def _scripts(page: _Response, limits: AskLimits) -> list[str]:
    parser = _Scripts()
    parser.feed(page.text)
    return [url for source in parser.sources if (url := _own(source, page.url))][: limits.scripts_max]


def _imports(script: _Response) -> list[str]:
    return [url for name in _IMPORT.findall(script.text) if (url := _own(name, script.url))]


def _own(name: str, url: str) -> str:
    """The address of a script of the project's own; empty for packages, other servers and the dev server's tools."""
    if not name.startswith(("/", "./", "../", "http://")):
        return ""
    try:
        target = urljoin(url, name)
        foreign = not _same_server(target, url)
    except ValueError:
        return ""
    tooling = "/node_modules/" in target or urlsplit(target).path.startswith("/@")
    return "" if foreign or tooling else _at(target, url)
