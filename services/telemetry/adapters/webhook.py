"""Notices by HTTP: a webhook of one's own, signed as Standard Webhooks has it, and Slack's incoming webhooks.

Redirects are not followed, and of an answer only the status is read. Errors name no address: it may be a secret itself.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp

from services.telemetry.notices import Notice, slack_body, webhook_body
from services.telemetry.ports import Undelivered
from shared.errors import Invalid

BASE64_PREFIX = "whsec_"
RETRY_AFTER_MAX_S = 86_400


class Webhook:
    """Posts what `body` makes of a notice. `secret`: signs it; empty: it is not signed."""

    def __init__(
        self, name: str, url: str, body: Callable[[Notice], bytes], *, secret: str = "", timeout_s: float
    ) -> None:
        self._name = name
        self._url = checked_url(name, url)
        self._body = body
        self._key = signing_key(secret)
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))

    @property
    def name(self) -> str:
        return self._name

    async def send(self, notice: Notice) -> None:
        """Returns once it was answered with 2xx. Raises `Undelivered`."""
        body = self._body(notice)
        headers = {"Content-Type": "application/json", "User-Agent": "drape"}
        if self._key:
            headers |= signed(self._key, notice.id, int(time.time()), body)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._session.post(self._url, data=body, headers=headers, allow_redirects=False)
        except TimeoutError:
            raise Undelivered("timeout") from None
        except aiohttp.ClientError as error:
            raise Undelivered(_code_of(error)) from None  # its text has the address
        status, retry_after = response.status, response.headers.get("Retry-After", "")
        response.close()
        if not 200 <= status < 300:
            seconds = (
                min(int(retry_after), RETRY_AFTER_MAX_S) if retry_after[:9].isdecimal() and len(retry_after) < 9 else 0
            )
            raise Undelivered(f"http_{status}", seconds)

    async def close(self) -> None:
        await self._session.close()


def webhook(url: str, secret: str, timeout_s: float) -> Webhook:
    """The channel `webhook`."""
    return Webhook("webhook", url, webhook_body, secret=secret, timeout_s=timeout_s)


def slack(url: str, timeout_s: float) -> Webhook:
    """The channel `slack`."""
    return Webhook("slack", url, slack_body, timeout_s=timeout_s)


def checked_url(name: str, url: str) -> str:
    """An address of HTTP. Raises `Invalid` without showing it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if usable:
        return url
    raise Invalid(
        "bad_notify_url",
        f"The address of the channel {name} is none of HTTP.",
        "It begins with https:// and names a host.",
    )


def signing_key(secret: str) -> bytes:
    """`whsec_…` is base64; anything else is taken as it is. Raises `Invalid`."""
    if not secret.startswith(BASE64_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(BASE64_PREFIX), validate=True)
    except binascii.Error:
        raise Invalid(
            "bad_webhook_secret", "The webhook's secret begins with whsec_ and goes on with what is no base64."
        ) from None


def signed(key: bytes, notice_id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks: id, time, and the HMAC-SHA256 of both and the body."""
    mac = hmac.digest(key, f"{notice_id}.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": notice_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def _code_of(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    return "unreachable" if isinstance(error, aiohttp.ClientConnectorError) else "broken_off"
