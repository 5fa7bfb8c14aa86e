"""The `GatewayProbe`: asks for a preview the way a browser does, by host name, through the gateway."""

from urllib.parse import urlsplit

import aiohttp

from shared.errors import Unavailable
from shared.ids import PreviewId
from shared.secrets import probe_token, probed_token

PROBE_HEADER = "X-Drape-Probe"
PROBED_HEADER = "X-Drape-Probed"
MIN_SEQ_HEADER = "X-Drape-Min-Seq"
BODY_BYTES_MAX = 32 * 1024 * 1024
CHUNK_BYTES = 64 * 1024


class HttpGatewayProbe:
    """One GET of `/`, read to its end, that the gateway swears is the dev server's own.

    The probe's headers tell the gateway to let it through before browsers.
    """

    def __init__(self, session: aiohttp.ClientSession, gateway_url: str, secret: str) -> None:
        self._session = session
        self._gateway_url = gateway_url.rstrip("/")
        self._secret = secret

    async def __call__(self, preview_id: PreviewId, url: str, min_seq: int, timeout_s: float) -> int:
        headers = {
            "Host": urlsplit(url).netloc,
            "Accept": "text/html,*/*",
            PROBE_HEADER: probe_token(self._secret, preview_id),
            MIN_SEQ_HEADER: str(min_seq),
        }
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5)
        try:
            async with self._session.get(
                f"{self._gateway_url}/", headers=headers, timeout=timeout, allow_redirects=False
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
