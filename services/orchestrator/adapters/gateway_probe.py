"""The `GatewayProbe`: asks for a preview the way a browser does, by host name, through the gateway."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp

from services.orchestrator.ports import SocketAnswer
from shared.errors import Unavailable
from shared.ids import PreviewId
from shared.secrets import probe_token, probed_token

PROBE_HEADER = "X-Drape-Probe"
PROBED_HEADER = "X-Drape-Probed"
MIN_SEQ_HEADER = "X-Drape-Min-Seq"
PING = "vite-ping"
UNTIL_VITE_5 = "vite-hmr"
"""Vite 5 and before know no ping, and open this one without their page's token only where no Origin is named."""
BODY_BYTES_MAX = 32 * 1024 * 1024
CHUNK_BYTES = 64 * 1024


class HttpGatewayProbe:
    """A GET, read to its end, that the gateway swears is the dev server's own; and a WebSocket's handshake.

    The probe's headers tell the gateway to let both through before browsers, and up to where it must have read the log.
    """

    def __init__(self, session: aiohttp.ClientSession, gateway_url: str, secret: str) -> None:
        self._session = session
        self._gateway_url = gateway_url.rstrip("/")
        self._secret = secret

    async def page(self, preview_id: PreviewId, url: str, min_seq: int, timeout_s: float) -> int:
        headers = self._headers(preview_id, url, min_seq) | {"Accept": "text/html,*/*"}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5)
        try:
            async with self._session.get(
                self._gateway_url + (urlsplit(url).path or "/"), headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                size = 0
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    size += len(chunk)
                    if size > BODY_BYTES_MAX:
                        break
                if response.headers.get(PROBED_HEADER) != probed_token(self._secret, preview_id):
                    raise Unavailable("not_the_preview", f"status {response.status}, but not from the preview")
                return response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable("gateway_silent", f"no whole answer ({str(error) or type(error).__name__})") from error

    async def socket(
        self, preview_id: PreviewId, url: str, min_seq: int, paths: Sequence[str], protocol: str, timeout_s: float
    ) -> SocketAnswer:
        plain = self._headers(preview_id, url, min_seq)
        # The page's own origin: dev servers refuse others.
        ways = [(protocol, plain | {"Origin": url.rstrip("/")})]
        if protocol == PING:
            ways.append((UNTIL_VITE_5, plain))
        # Side by side: a server may hold on to a path that it does not know, and say nothing.
        asking = [
            asyncio.create_task(self._shake_hands(path, headers, named, timeout_s))
            for path in paths
            for named, headers in ways
        ]
        answers: list[SocketAnswer] = []
        try:
            for next_answer in asyncio.as_completed(asking):
                answers.append(await next_answer)
                if answers[-1].state == "open":
                    return answers[-1]
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        refused = [answer for answer in answers if answer.state == "refused"]
        return next(iter([*refused, *answers]), SocketAnswer(state="silent", path=""))

    def _headers(self, preview_id: PreviewId, url: str, min_seq: int) -> dict[str, str]:
        return {
            "Host": urlsplit(url).netloc,
            PROBE_HEADER: probe_token(self._secret, preview_id),
            MIN_SEQ_HEADER: str(min_seq),
        }

    async def _shake_hands(self, path: str, headers: dict[str, str], protocol: str, timeout_s: float) -> SocketAnswer:
        timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
        try:
            async with asyncio.timeout(timeout_s):
                connecting = self._session.ws_connect(
                    self._gateway_url + path,
                    headers=headers,
                    protocols=(protocol,) if protocol else (),
                    timeout=timeout,
                )
                async with connecting:
                    return SocketAnswer(state="open", path=path)
        except aiohttp.WSServerHandshakeError as error:
            return SocketAnswer(state="refused", path=path, detail=f"status {error.status}")
        except TimeoutError:
            return SocketAnswer(state="silent", path=path, detail=f"no answer within {timeout_s:.1f} s")
        except (aiohttp.ClientError, OSError) as error:
            return SocketAnswer(state="refused", path=path, detail=(str(error) or type(error).__name__)[:200])
