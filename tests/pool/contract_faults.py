"""The contract's cases about what goes wrong outside the provider: VMs that are lost, and a backend that fails."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from services.pool.ports import Provider, ProviderError
from tests.pool.contract_home import FAULTS, TOKEN, WAIT_S, Fault, Home, a_vm, listed

CODES: dict[Fault, str] = {
    "down": "provider_unavailable",
    "rate_limited": "provider_rate_limited",
    "slow": "provider_unavailable",
    "rubbish": "provider_unavailable",
}


async def refusal(call: Callable[[], Awaitable[Any]]) -> ProviderError:
    """What the call is refused with, within a bound; every other outcome fails the test."""
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ProviderError) as raised:
            await call()
    return raised.value


class FaultCases:
    """Mixed into `ProviderContract`, whose fixtures these cases use."""

    async def test_a_lost_vm_is_stopped_or_gone_and_can_be_destroyed(self, home: Home, provider: Provider) -> None:
        """A VM that ended behind the provider's back is never called running; every verb says so; `destroy` clears it."""
        spec = a_vm()
        await provider.create(spec)

        await home.lose(spec.vm_id)

        async with asyncio.timeout(WAIT_S):
            while (found := await listed(provider, spec.vm_id)) is not None and found.state != "stopped":
                pass
        assert found is None or found.address is None
        for verb in (provider.suspend, provider.resume):
            refused = await refusal(lambda verb=verb: verb(spec.vm_id))  # type: ignore[misc]
            assert refused.code in {"vm_stopped", "vm_not_found"}
        await provider.destroy(spec.vm_id)
        assert await listed(provider, spec.vm_id) is None
        assert home.leftovers() == []

    async def test_a_lost_vm_can_be_created_again(self, home: Home, provider: Provider) -> None:
        """The id of a VM that was lost gives a living VM once more."""
        spec = a_vm()
        await provider.create(spec)
        await home.lose(spec.vm_id)

        address = await provider.create(spec)

        found = await listed(provider, spec.vm_id)
        assert found is not None
        assert (found.state, found.address) == ("running", address)

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_failing_backend_is_told_in_bounded_time(
        self, home: Home, provider: Provider, fault: Fault
    ) -> None:
        """Each verb ends in a ProviderError with the fault's code, to be tried again: `list` never gives half a list, no
        VM is taken for lost or for gone, and the token is in none of the messages."""
        if fault not in home.faults:
            pytest.skip("nothing stands behind this provider that could do so")
        spec = a_vm()
        await provider.create(spec)
        faulty = home.faulty(fault)
        verbs: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: faulty.create(a_vm()),
            lambda: faulty.suspend(spec.vm_id),
            lambda: faulty.resume(spec.vm_id),
            lambda: faulty.destroy(spec.vm_id),
            faulty.list,
        )
        try:
            refused = await asyncio.gather(*(refusal(verb) for verb in verbs))
        finally:
            await faulty.close()

        assert {error.code for error in refused} == {CODES[fault]}
        assert all(error.retryable for error in refused)
        assert not [error for error in refused if TOKEN in repr(error) + str(error)]
        found = await listed(provider, spec.vm_id)
        assert found is not None
        assert found.state == "running"

    async def test_the_token_shows_nowhere(
        self, home: Home, provider: Provider, caplog: pytest.LogCaptureFixture
    ) -> None:
        """From outside a VM, in this process's log and in errors there is no token, also where a boot fails."""
        caplog.set_level(logging.DEBUG)
        spec = a_vm(labels={"pool": "main"})
        await provider.create(spec)
        shown = home.visible(spec.vm_id)
        hanging = home.hanging()
        try:
            refused = await refusal(lambda: hanging.create(a_vm()))
        finally:
            await hanging.close()

        assert spec.vm_id in shown or not home.runs_agents  # what is looked at does show the VM
        said = "\n".join([shown, caplog.text, repr(refused), str(refused.__cause__), str(refused.__context__)])
        assert TOKEN not in said

    async def test_an_agent_without_the_token_is_no_way_in(
        self, provider: Provider, http: aiohttp.ClientSession
    ) -> None:
        """A request that says nothing of a token is refused."""
        address = await provider.create(a_vm())
        url = f"{'https' if address.reach.tls else 'http'}://{address.host}:{address.port}/health"

        async with http.get(url, headers=dict(address.reach.headers)) as response:
            assert response.status == 401
