"""Waits for a VM's agent. The caller sets the limit, for what a machine does before its agent listens is not known here."""

import asyncio

import aiohttp
import msgspec

from services.pool.ports import ProviderError, VmAddress, VmSpec

LOOK_TIMEOUT_S = 5.0
BODY_BYTES_MAX = 1 << 16


class _Health(msgspec.Struct, frozen=True):
    vm_id: str


async def agent_answers(session: aiohttp.ClientSession, address: VmAddress, spec: VmSpec, *, poll_s: float) -> None:
    """Returns once the agent answers with its token. Raises ProviderError `image_unusable` where something else does."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"{'https' if address.reach.tls else 'http'}://{host}:{address.port}/health"
    headers = {"Authorization": f"Bearer {spec.token}", **dict(address.reach.headers)}
    timeout = aiohttp.ClientTimeout(total=LOOK_TIMEOUT_S)
    while True:
        status, text = 0, b""
        try:
            async with session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                status, text = response.status, await response.content.read(BODY_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError, OSError):
            status = 0  # not yet
        if status == 200 and _is_of(text, spec.vm_id):
            return
        if status in (200, 401, 403):
            raise ProviderError(
                "image_unusable",
                f"what answers at port {address.port} of VM {spec.vm_id} is not its agent (status {status}); "
                "build the image with `deploy/fly/push-image`, and check DRAPE_POOL_FLY_AGENT_PORT",
            )
        await asyncio.sleep(poll_s)


def _is_of(text: bytes, vm_id: str) -> bool:
    try:
        return msgspec.json.decode(text, type=_Health).vm_id == vm_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
