"""A folder as a web site, with reload: pages, types, ranges, a 404 page, and a push when a file changes.

Never: serves what lies outside the folder, by path or by symlink, or hidden files; and never lets a browser cache.
"""

import asyncio
import hashlib
import html
import mimetypes
import os
import re
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from aiohttp import web

RELOAD_PATH = "/__drape/reload"
OWN_PREFIX = "/_static_dev/"
"""Where the injected script and its events live; `RELOAD_PATH` is for those who ask by the documented name. The gateway
keeps `/__drape/` of a preview's host for itself, so a page shown through it could not reach that."""
_NO_STORE = {"Cache-Control": "no-store"}
_SCRIPT_TAG = f'<script src="{OWN_PREFIX}reload.js" async></script>'.encode()
_SCRIPT = f"""(() => {{
  let known = null;
  const source = new EventSource("{OWN_PREFIX}reload");
  source.onmessage = (event) => {{
    if (known !== null && known !== event.data) location.reload();
    known = event.data;
  }};
}})();
"""
_BODY_END = re.compile(rb"</body\s*>", re.IGNORECASE)
_SKIPPED_FOLDERS = frozenset({"node_modules"})
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".avif": "image/avif",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".md": "text/markdown",
    ".map": "application/json",
}


class SiteLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the site."""

    watch_interval_s: float = 0.3
    watched_files_max: int = 5000
    watchers_max: int = 64
    heartbeat_s: float = 15.0
    html_bytes_max: int = 4 * 1024 * 1024
    """Larger pages are served as they are, without the reload script."""


def application(root: Path, limits: SiteLimits | None = None) -> web.Application:
    """The site of this folder."""
    site = _Site(root.resolve(), limits or SiteLimits())
    app = web.Application()
    app.add_routes(
        [
            web.get(RELOAD_PATH, site.reload),
            web.get(f"{OWN_PREFIX}reload", site.reload),
            web.get(f"{OWN_PREFIX}reload.js", site.script),
            web.get("/{path:.*}", site.page),
        ]
    )
    app.on_shutdown.append(site.shut)
    app.cleanup_ctx.append(site.watching)
    return app


class _Site:
    def __init__(self, root: Path, limits: SiteLimits) -> None:
        self._root = root
        self._limits = limits
        self._watchers = 0
        self._state = ""
        self._changed = asyncio.Condition()
        self._wanted = asyncio.Event()
        self._shut = False

    # --- pages -----------------------------------------------------------------------------------------------------

    async def page(self, request: web.Request) -> web.StreamResponse:
        """A file, a folder's index.html, `name.html` for `name`, or the 404 page."""
        path = request.match_info["path"]
        found = await asyncio.to_thread(self._find, path)
        if found is None:
            return await self._not_found()
        if found.is_dir():
            name = urllib.parse.quote(path.rpartition("/")[2])
            return web.Response(status=302, headers={"Location": f"./{name}/", **_NO_STORE})
        if found.suffix.lower() in {".html", ".htm"} and "Range" not in request.headers:
            data = await asyncio.to_thread(_read_at_most, found, self._limits.html_bytes_max)
            if data is not None:
                return _html(data, 200)
        return web.FileResponse(found, headers={"Content-Type": content_type_of(found), **_NO_STORE})

    def _find(self, path: str) -> Path | None:
        """What a request path names: a file, or a folder that has a page but was asked for without its slash."""
        parts = path.split("/")
        if "\0" in path or any(part == ".." or (part.startswith(".") and part != ".well-known") for part in parts):
            return None
        try:
            asked = self._inside(self._root.joinpath(*[part for part in parts if part]))
            if asked is not None and asked.is_dir():
                index = self._inside(asked / "index.html")
                return None if index is None else (index if path == "" or path.endswith("/") else asked)
            if asked is None and parts[-1]:
                asked = self._inside(self._root.joinpath(*parts[:-1], f"{parts[-1]}.html"))
            return asked if asked is not None and asked.is_file() else None
        except OSError:
            return None  # a name that is too long, a loop of links, a folder that may not be read

    def _inside(self, path: Path) -> Path | None:
        """The real path, if it exists and lies in the folder."""
        real = path.resolve()
        return real if real.exists() and real.is_relative_to(self._root) else None

    async def _not_found(self) -> web.Response:
        own = await asyncio.to_thread(self._find, "404.html")
        data = await asyncio.to_thread(_read_at_most, own, self._limits.html_bytes_max) if own is not None else None
        if data is None:
            shown = html.escape(self._root.name or "this folder")
            data = (
                "<!doctype html><html lang=en><meta charset=utf-8><title>Not found</title><body>"
                f"<h1>Not found</h1><p>There is no such file in {shown}.</p></body></html>"
            ).encode()
        return _html(data, 404)

    # --- reload ----------------------------------------------------------------------------------------------------

    async def script(self, request: web.Request) -> web.Response:
        """The script that every page carries."""
        return web.Response(text=_SCRIPT, content_type="text/javascript", headers=_NO_STORE)

    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the folder's state now, and each time it changes."""
        if self._watchers >= self._limits.watchers_max:
            return web.Response(status=503, text="Too many pages watch this folder.", headers={"Retry-After": "5"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **_NO_STORE})
        await response.prepare(request)
        self._watchers += 1
        self._wanted.set()
        told = ""
        try:
            while not self._shut and request.transport is not None:
                if self._state != told:
                    told = self._state
                    await response.write(f"data: {told}\n\n".encode())
                elif not await self._wait_change(told):
                    await response.write(b": still here\n\n")
        except ConnectionError:
            return response
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._wanted.clear()
        return response

    async def _wait_change(self, told: str) -> bool:
        try:
            async with asyncio.timeout(self._limits.heartbeat_s), self._changed:
                await self._changed.wait_for(lambda: self._state != told or self._shut)
        except TimeoutError:
            return False
        return True

    async def watching(self, app: web.Application) -> AsyncIterator[None]:
        """Looks at the folder for as long as the site runs, but only while a page is open."""
        watch = asyncio.get_running_loop().create_task(self._watch(), name="folder watch")
        yield
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await self._wanted.wait()
            state = await asyncio.to_thread(fingerprint, self._root, self._limits.watched_files_max)
            if state != self._state:
                async with self._changed:
                    self._state = state
                    self._changed.notify_all()
            await asyncio.sleep(self._limits.watch_interval_s)

    async def shut(self, app: web.Application) -> None:
        """Lets the open event streams end."""
        async with self._changed:
            self._shut = True
            self._changed.notify_all()


def fingerprint(root: Path, files_max: int) -> str:
    """Changes when one of the first `files_max` files does (name, time or size); hidden folders do not count."""
    digest = hashlib.sha256()
    count = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".drape-tmp"):
                continue  # a file that is just being brought in
            try:
                found = os.lstat(f"{folder}/{name}")
            except OSError:
                continue
            digest.update(f"{folder}/{name}\0{found.st_mtime_ns}\0{found.st_size}\0".encode("utf-8", "surrogateescape"))
            count += 1
            if count >= files_max:
                return digest.hexdigest()
    return digest.hexdigest()


def content_type_of(path: Path) -> str:
    """The type by the file's name, with UTF-8 for text."""
    kind = _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    is_text = kind.startswith("text/") or kind in {"application/json", "application/manifest+json", "image/svg+xml"}
    return f"{kind}; charset=utf-8" if is_text else kind


def _html(data: bytes, status: int) -> web.Response:
    ends = [*_BODY_END.finditer(data)]
    at = ends[-1].start() if ends else len(data)
    body = data[:at] + _SCRIPT_TAG + data[at:]
    return web.Response(body=body, status=status, headers={"Content-Type": "text/html; charset=utf-8", **_NO_STORE})


def _read_at_most(path: Path, bytes_max: int) -> bytes | None:
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    return data if len(data) <= bytes_max else None
