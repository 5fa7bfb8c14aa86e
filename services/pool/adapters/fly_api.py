"""Fly's Machines API over HTTP: authorization, retries, errors. Which calls make up a verb is `fly`'s business.

Every call has a time-out, every wait a bound. A call is repeated only where that is safe: after 429 any, after a fault of
the network or of the server only one that may be done twice. The token is in no log line, no error and no `repr`;
redirects are not followed, since it would go with them.
"""

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec

from services.pool.adapters.fly_config import FlyConfig
from services.pool.ports import ProviderError

T = TypeVar("T")
NONCE = "fly-machine-lease-nonce"
REQUEST_ID = "fly-request-id"
MACAROONS = ("fm1r_", "fm1a_", "fm2_")
"""Tokens with these beginnings have a scheme of their own."""
SHOWN_MAX = 300
PASSING = (500, 502, 503, 504)


class FlyRefused(ProviderError):
    """The API answered with a status that is none of success. `status` is HTTP's, `detail` the API's own words, `kind` its
    own code (`insufficient_capacity`, …), where it gave one."""

    def __init__(
        self, code: str, message: str, *, status: int, detail: str = "", kind: str = "", retryable: bool = False
    ) -> None:
        super().__init__(code, message, retryable=retryable)
        self.status = status
        self.detail = detail
        self.kind = kind


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A success. `date`: the server's clock, seconds since the epoch; 0: it did not say."""

    where: str
    body: bytes
    date: float

    def decoded(self, kind: type[T]) -> T:
        """The body as this type. Raises ProviderError `provider_unavailable` for anything else, as a broken proxy gives."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProviderError(
                "provider_unavailable",
                f"{self.where} answered with what is no {kind.__name__ if isinstance(kind, type) else 'list'}: {error}; "
                "is DRAPE_POOL_FLY_API_URL the Machines API?",
                retryable=True,
            ) from error


class FlyApi:
    """One app's part of the API. `close` ends its connections."""

    def __init__(self, config: FlyConfig, token: str) -> None:
        self._config = config
        self._token = token
        self._session: aiohttp.ClientSession | None = None
        self.apps = "/v1/apps"
        self.app = f"/v1/apps/{config.app}"
        self.machines = f"{self.app}/machines"
        self.volumes = f"{self.app}/volumes"

    def __repr__(self) -> str:
        return f"FlyApi({self._config.api_url!r}, {self._config.app!r})"

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        nonce: str = "",
        timeout_s: float = 0.0,
        repeatable: bool = True,
    ) -> Answer:
        """One call, repeated where that is safe. `nonce`: of the lease under which it is made.

        Raises FlyRefused for an answer that is no success, ProviderError `provider_unavailable` where none came.
        """
        config = self._config
        for number in range(1, config.tries_max + 1):
            try:
                return await self._once(method, path, params, body, nonce, timeout_s or config.request_timeout_s)
            except _Again as again:
                pause_s = again.after_s if again.after_s is not None else self._pause_s(number)
                limited = again.error.code == "provider_rate_limited"
                if number == config.tries_max or pause_s > config.backoff_max_s or not (repeatable or limited):
                    raise again.error from again.__cause__
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable: the last try raises")

    async def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: object,
        nonce: str,
        timeout_s: float,
    ) -> Answer:
        where = f"{method} {path}"
        headers = {"Authorization": _authorization(self._token), "Accept": "application/json", "User-Agent": "drape"}
        if nonce:
            headers[NONCE] = nonce
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", msgspec.json.encode(body)
        if self._session is None:
            self._session = aiohttp.ClientSession(base_url=self._config.api_url, cookie_jar=aiohttp.DummyCookieJar())
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, path, params=params, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                text = await self._read(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            why = self.redacted(str(error)) or f"no answer within {timeout_s:g} s"
            unavailable = ProviderError(
                "provider_unavailable",
                f"{where} got no answer from {self._config.api_url}: {why}; look at https://status.flyio.net",
                retryable=True,
            )
            raise _Again(unavailable) from error
        if 200 <= response.status < 300:
            return Answer(where=where, body=text, date=_date(response.headers.get("Date", "")))
        refused = self._refusal(where, response, text)
        if response.status == 429 or response.status in PASSING:
            raise _Again(refused, _retry_after_s(response.headers.get("Retry-After", "")))
        raise refused

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body. One that is too long counts as no answer."""
        text = bytearray()
        async for chunk in response.content.iter_any():
            text += chunk
            if len(text) > self._config.body_bytes_max:
                raise ValueError(f"its answer is longer than {self._config.body_bytes_max} bytes")
        return bytes(text)

    def _refusal(self, where: str, response: aiohttp.ClientResponse, text: bytes) -> FlyRefused:
        status, (detail, kind) = response.status, _said(text)
        detail = self.redacted(detail)
        request_id = response.headers.get(REQUEST_ID, "")
        said = f"{where} answered {status}{f': {detail}' if detail else ''}"
        if request_id:
            said += f" ({REQUEST_ID} {self.redacted(request_id)[:80]})"
        code, todo, retryable = self._meaning(status)
        return FlyRefused(code, f"{said}; {todo}", status=status, detail=detail, kind=kind, retryable=retryable)

    def _meaning(self, status: int) -> tuple[str, str, bool]:
        """Code, what to do, whether it may pass. What a status means for a verb that expects it is the verb's to say."""
        app = self._config.app
        match status:
            case 401:
                todo = "the API token is missing, wrong or expired" if self._token else "FLY_API_TOKEN is not set"
                return "provider_unauthorized", f"{todo}: make one with `fly tokens create deploy -a {app}`", False
            case 403:
                todo = f"the API token is of another organization or app: make one with `fly tokens create deploy -a {app}`"
                return "provider_unauthorized", todo, False
            case 404:
                todo = f"is there an app {app} in the token's organization? `fly apps list` tells, `fly apps create` makes one"
                return "provider_unauthorized", todo, False
            case 429:
                return (
                    "provider_rate_limited",
                    "Fly allows about one call a second of a kind; it goes on by itself",
                    True,
                )
            case 408 | 409 | 412 | 423:
                return "vm_busy", "something else is changing this machine; it is tried again", True
            case _ if 300 <= status < 400:
                todo = "redirects are not followed, since the token would go with them: correct DRAPE_POOL_FLY_API_URL"
                return "provider_unavailable", todo, False
            case _ if status >= 500:
                return "provider_unavailable", "look at https://status.flyio.net", True
            case _:
                return "invalid_spec", "correct the DRAPE_POOL_FLY_ settings, or the size that was asked for", False

    def redacted(self, text: str) -> str:
        """The text without the token, nor any of the tokens that it is made of."""
        bare = self._token.split(" ", 1)[-1]
        for secret in {self._token, bare, *bare.split(",")}:
            if len(secret) > 5:
                text = text.replace(secret, "[token]")
        return text

    def _pause_s(self, number: int) -> float:
        config = self._config
        pause_s = min(config.backoff_max_s, config.backoff_s * 2 ** (number - 1))
        return float(min(config.backoff_max_s, pause_s * random.uniform(0.5, 1.5)))  # noqa: S311 (spreads callers)


class _Again(Exception):
    """A failure that may pass, and after which pause the server wants to be asked."""

    def __init__(self, error: ProviderError, after_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after_s = after_s


def _authorization(token: str) -> str:
    if token.startswith(("Bearer ", "FlyV1 ")):
        return token
    return f"{'FlyV1' if token.startswith(MACAROONS) else 'Bearer'} {token}"


def _said(text: bytes) -> tuple[str, str]:
    """What an error's body says, short and on one line, and its code. A page of a proxy says nothing worth showing."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    detail = body.get("error") or body.get("message") or ""
    kind = body.get("status")
    return " ".join(str(detail).split())[:SHOWN_MAX], kind if isinstance(kind, str) else ""


def _retry_after_s(text: str) -> float | None:
    """Seconds, or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    at = _date(text)
    return max(0.0, at - time.time()) if at else None


def _date(text: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
