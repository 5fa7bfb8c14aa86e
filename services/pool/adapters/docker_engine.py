"""One Docker engine: its client, its errors as the pool's, and what it says of itself.

Whatever goes wrong on the way is a `ProviderError`: nobody answers, no answer in time, or rubbish is
`provider_unavailable`; 429 is `provider_rate_limited`. No answer is used before its shape has been checked.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiodocker import Docker, DockerError

from services.pool.ports import ProviderError

T = TypeVar("T")
API_MIN = (1, 41)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""What kernels call them, and what images call them."""
NOT_FOUND = 404
CONFLICT = 409


class EngineError(ProviderError):
    """What an engine refused, with its HTTP status."""

    def __init__(self, status: int, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(code, message, retryable=retryable)
        self.status = status


class Version(msgspec.Struct, frozen=True, rename="pascal"):
    api_version: str
    version: str


class Info(msgspec.Struct, frozen=True, rename="pascal"):
    """What `docker info` has that matters here. `system_time`: RFC 3339."""

    architecture: str
    name: str = ""
    n_cpu: int = msgspec.field(name="NCPU", default=1)
    memory_limit: bool = True
    swap_limit: bool = True
    pids_limit: bool = True
    cpu_cfs_quota: bool = True
    runtimes: dict[str, Any] = {}
    system_time: str = ""
    driver: str = ""


class Image(msgspec.Struct, frozen=True, rename="pascal"):
    class Config(msgspec.Struct, frozen=True, rename="pascal"):
        labels: dict[str, str] | None = None

    id: str
    architecture: str
    config: Config


class Port(msgspec.Struct, frozen=True, rename="pascal"):
    private_port: int
    public_port: int = 0


class Attached(msgspec.Struct, frozen=True):
    address: str = msgspec.field(name="IPAddress", default="")
    gateway: str = msgspec.field(name="Gateway", default="")


class Networks(msgspec.Struct, frozen=True, rename="pascal"):
    networks: dict[str, Attached] | None = None


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """A row of the engine's list. `state`: created, running, paused, restarting, removing, exited, dead. `created` is in
    seconds of the engine's clock."""

    id: str
    state: str
    created: float
    labels: dict[str, str] | None = None
    names: tuple[str, ...] = ()
    ports: tuple[Port, ...] | None = None
    network_settings: Networks | None = None


class Engine:
    """One engine by its URL. `ready` looks at it once; after a failure, once more."""

    def __init__(self, url: str, *, tls_dir: str = "", timeout_s: float = 30.0) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.prepared: dict[str, str] = {}
        """What was set up on it, and is to be looked at again once it has been away."""
        self._tls_dir = tls_dir
        self._client: Docker | None = None
        self._info: Info | None = None
        self._looking = asyncio.Lock()

    @property
    def local(self) -> bool:
        return self.url.startswith("unix://")

    @property
    def host(self) -> str:
        """The name or address at which its published ports are reached."""
        return "127.0.0.1" if self.local else urlsplit(self.url).hostname or ""

    async def ask(self, what: str, call: Callable[[Docker], Awaitable[T]], *, timeout_s: float | None = None) -> T:
        """The call's answer. Raises `ProviderError`; `what` completes "could not"."""
        limit_s = timeout_s or self.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await call(self._connected())
        except DockerError as error:
            raise self._refused(what, error) from None
        except TimeoutError:
            raise self._away(f"could not {what}: no answer within {limit_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._away(f"could not {what}: {error}") from None
        except (msgspec.MsgspecError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            raise self._away(f"could not {what}: its answer is not one of a Docker engine ({error})") from None

    async def rows(self, labels: dict[str, str]) -> list[Container]:
        """Every container, in whatever state, with these labels."""
        wanted = json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})

        async def call(docker: Docker) -> list[Container]:
            # aiodocker's own `list` takes an empty object for no containers.
            found = await docker._query_json("containers/json", params={"all": "true", "filters": wanted})
            return msgspec.convert(found, list[Container])

        return await self.ask("list containers", call)

    async def ready(self) -> Info:
        """What the engine is. Raises ProviderError, also `provider_too_old`."""
        async with self._looking:
            if self._info is None:
                check_api(await self._version(), self.url)
                self._info = await self.info()
            return self._info

    async def _version(self) -> Version:
        async def call(docker: Docker) -> Version:
            return msgspec.convert(await docker.version(), Version)

        return await self.ask("tell its version", call)

    async def info(self) -> Info:
        async def call(docker: Docker) -> Info:
            return msgspec.convert(await docker.system.info(), Info)

        return await self.ask("tell what it is", call)

    async def image(self, name: str) -> Image:
        """Raises ProviderError `image_missing`."""

        async def call(docker: Docker) -> Image:
            return msgspec.convert(await docker.images.inspect(name), Image)

        try:
            return await self.ask(f"look at the image {name}", call)
        except EngineError as error:
            if error.status != NOT_FOUND:
                raise
            message = (
                f"the Docker engine {self.url} has no image {name}; run deploy/workspace/build for that engine, "
                "or name another in DRAPE_POOL_DOCKER_IMAGE"
            )
            raise ProviderError("image_missing", message) from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> Docker:
        if self._client is None:
            self._client = connect(self.url, self._tls_dir, self.timeout_s)
        return self._client

    def _away(self, why: str) -> ProviderError:
        """It may be another engine, or one whose rules are gone, when it answers again."""
        self._info = None
        self.prepared.clear()
        if self._client is not None:
            self._client.api_version = "auto"
        message = f"the Docker engine {self.url} {why}; does it run, and may this user speak to it?"
        return ProviderError("provider_unavailable", message, retryable=True)

    def _refused(self, what: str, error: DockerError) -> ProviderError:
        status, said = error.status, " ".join(str(error.message).split())[:500]
        message = f"the Docker engine {self.url} could not {what}: {said}"
        if status == 900:  # aiodocker's own, for a connection that failed
            return self._away(f"could not {what}: {said}")
        if status == 429:
            return EngineError(status, "provider_rate_limited", message, retryable=True)
        if status in (401, 403):
            hint = "; give DRAPE_POOL_DOCKER_TLS_DIR a certificate that it trusts"
            return EngineError(status, "provider_unauthorized", message + hint, retryable=False)
        if "no space left on device" in said:
            hint = "; free space on the engine's disk (`docker system df` tells what holds it)"
            return EngineError(status, "boot_failed", message + hint, retryable=True)
        return EngineError(status, "provider_unavailable", message, retryable=True)


def check_api(version: Version, url: str) -> None:
    """Raises ProviderError `provider_too_old`, or `provider_unavailable` where that is no version."""
    try:
        api = tuple(int(part) for part in version.api_version.split("."))
    except ValueError:
        message = f"the Docker engine {url} gives {version.api_version!r} for a version; is it one?"
        raise ProviderError("provider_unavailable", message, retryable=True) from None
    if api < API_MIN:
        wanted = ".".join(map(str, API_MIN))
        message = (
            f"the Docker engine {url} ({version.version}) speaks API {version.api_version}, and {wanted} is needed; "
            "install Docker 20.10 or newer there"
        )
        raise ProviderError("provider_too_old", message)


def connect(url: str, tls_dir: str, timeout_s: float) -> Docker:
    """A client; nothing is sent yet. Raises ProviderError `invalid_spec` for a URL that can't be one."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        if url.startswith("tcp://"):
            context = _tls(Path(tls_dir)) if tls_dir else None
            scheme = "https" if context else "http"
            return Docker(url=f"{scheme}://{url[len('tcp://') :]}", ssl_context=context, timeout=timeout)
        return Docker(url=url, timeout=timeout)
    except ImportError:
        message = f"{url} needs the package asyncssh: pip install asyncssh"
        raise ProviderError("provider_unavailable", message) from None
    except (ValueError, OSError) as error:
        message = f"DRAPE_POOL_DOCKER_HOSTS has {url}: {error}; give unix:///path, tcp://host:port or ssh://user@host"
        raise ProviderError("provider_unavailable", message) from None


def _tls(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
