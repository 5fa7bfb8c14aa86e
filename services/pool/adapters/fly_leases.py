"""Verbs on one machine: under a lease, so that no two pools change it at once, and each until its state has settled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Coroutine
from typing import Any, Literal, TypeVar

from services.pool.adapters.fly_api import FlyApi, FlyRefused
from services.pool.adapters.fly_config import FlyConfig
from services.pool.adapters.fly_machines import Lease, Machine, Phase
from services.pool.ports import ProviderError

T = TypeVar("T")
WAITABLE: dict[Phase, str] = {"up": "started", "asleep": "suspended", "down": "stopped", "gone": "destroyed"}
"""States that the API waits for, by the phase in which they are."""
CONFLICTS = (408, 409, 412, 423)
"""Statuses of a change that the machine's state, or a lease that ran out, does not allow just now."""
UNABLE = {"suspend": "suspend_failed", "start": "resume_failed"}


class FlyMachines:
    """The machines of one app. `owner` names the pool in its leases."""

    def __init__(self, api: FlyApi, config: FlyConfig, owner: str) -> None:
        self._api = api
        self._config = config
        self._owner = owner

    async def get(self, machine_id: str) -> Machine | None:
        """As it is now; None: Fly has it no more."""
        try:
            answer = await self._api.call("GET", f"{self._api.machines}/{machine_id}")
        except FlyRefused as refused:
            if refused.status == 404:
                return None
            raise
        machine = answer.decoded(Machine)
        return None if machine.phase == "gone" else machine

    @contextlib.asynccontextmanager
    async def leased(self, machine_id: str, nonce: str = "") -> AsyncIterator[str]:
        """Holds the machine; gives the nonce to call with. `nonce`: of a lease that is held already.

        Raises ProviderError `vm_busy` where another holds it for longer than `lease_timeout_s`, `vm_not_found`.
        """
        held = nonce or await self._acquire(machine_id)
        try:
            yield held
        finally:
            await uninterrupted(self.release(machine_id, held))

    async def change(self, machine_id: str, verb: Literal["start", "suspend"], nonce: str) -> None:
        """Raises ProviderError: `vm_busy` where its state does not allow it just now, `suspend_failed` or `resume_failed`
        where nothing would."""
        try:
            await self._api.call("POST", f"{self._api.machines}/{machine_id}/{verb}", nonce=nonce)
        except FlyRefused as refused:
            if refused.status in (404, 410):
                raise not_found(machine_id) from refused
            if refused.status in CONFLICTS:
                raise busy(machine_id) from refused
            if refused.status in (400, 422):
                raise ProviderError(UNABLE[verb], refused.message) from refused
            raise

    async def delete(self, machine_id: str, nonce: str) -> None:
        """DELETE, by force. A machine that is gone already is as good."""
        try:
            await self._api.call("DELETE", f"{self._api.machines}/{machine_id}", params={"force": "true"}, nonce=nonce)
        except FlyRefused as refused:
            if refused.status in (404, 410):
                return
            if refused.status in CONFLICTS:
                raise busy(machine_id) from refused
            raise

    async def settled(
        self, machine_id: str, until: Collection[Phase], timeout_s: float, waited: Phase, *, strict: bool = True
    ) -> Machine | None:
        """The machine once it is in one of these phases, or gone (None). `waited`: the one to wait for by long poll.

        Raises ProviderError `vm_stuck`, to be tried again, where it stays in another for `timeout_s`; without `strict` it
        is given as it then is.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        again = False
        while True:
            machine = await self.get(machine_id)
            if machine is None or machine.phase in until:
                return machine
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 and not strict:
                return machine
            if left_s <= 0:
                raise ProviderError(
                    "vm_stuck",
                    f"machine {machine_id} has been {machine.state} for {timeout_s:g} s and does not leave that state; "
                    f"it is tried again, or look at it with `fly machine status {machine_id}`",
                    retryable=True,
                )
            if (
                again
            ):  # it was waited for and is not there: a poll that answers at once must not become a loop without a pause
                await asyncio.sleep(min(self._config.poll_s, left_s))
            again = True
            await self._wait(machine_id, waited, left_s)

    async def _wait(self, machine_id: str, phase: Phase, left_s: float) -> None:
        """A while, at most one long poll: the API answers earlier once the state is reached."""
        state = WAITABLE[phase]
        poll_s = max(1, int(min(self._config.wait_s, left_s)))
        try:
            await self._api.call(
                "GET",
                f"{self._api.machines}/{machine_id}/wait",
                params={"state": state, "timeout": str(poll_s)},
                timeout_s=poll_s + self._config.request_timeout_s,
            )
        except FlyRefused as refused:
            if refused.status not in (404, *CONFLICTS):
                raise

    async def _acquire(self, machine_id: str) -> str:
        config = self._config
        deadline = asyncio.get_running_loop().time() + config.lease_timeout_s
        body = {"ttl": config.lease_ttl_s, "description": self._owner}
        while True:
            try:
                answer = await self._api.call(
                    "POST", f"{self._api.machines}/{machine_id}/lease", body=body, repeatable=False
                )
            except FlyRefused as refused:
                if refused.status in (404, 410):
                    raise not_found(machine_id) from refused
                if refused.status not in CONFLICTS:
                    raise
                if asyncio.get_running_loop().time() >= deadline:
                    raise busy(machine_id) from refused
                await asyncio.sleep(config.poll_s)
                continue
            nonce = answer.decoded(Lease).held
            if not nonce:
                raise ProviderError(
                    "provider_unavailable", f"{answer.where} gave a lease without a nonce", retryable=True
                )
            return nonce

    async def release(self, machine_id: str, nonce: str) -> None:
        """A lease that can't be given back ends by itself; a machine that is gone has none."""
        with contextlib.suppress(ProviderError):
            await self._api.call("DELETE", f"{self._api.machines}/{machine_id}/lease", nonce=nonce)


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Does the work to its end also where the caller is cancelled meanwhile: the caller then knows what it has begun."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def not_found(machine_id: str) -> ProviderError:
    return ProviderError("vm_not_found", f"Fly has no machine {machine_id} any more")


def busy(machine_id: str) -> ProviderError:
    return ProviderError(
        "vm_busy",
        f"machine {machine_id} is held by another pool's lease, or is in the middle of a change; it is tried again",
        retryable=True,
    )
