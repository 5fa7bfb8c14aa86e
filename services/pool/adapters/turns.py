"""The order of a provider's verbs: one at a time for each VM, and none once the provider is closed."""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator

from services.pool.adapters.specs import check_vm_id
from services.pool.ports import ProviderError


class Turns:
    """Of one provider, in this process."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closed = False

    @contextlib.asynccontextmanager
    async def holding(self, vm_id: str) -> AsyncIterator[None]:
        """Nothing else is done with this VM meanwhile. Raises ProviderError `invalid_vm_id`, `provider_closed`."""
        self.check_open()
        check_vm_id(vm_id)
        lock = self._locks.setdefault(vm_id, asyncio.Lock())
        async with lock:
            self.check_open()
            yield

    def close(self) -> None:
        """Every later verb is refused."""
        self._closed = True

    def check_open(self) -> None:
        """Raises ProviderError `provider_closed`."""
        if self._closed:
            raise ProviderError("provider_closed", "this provider has been closed; make a new one")
