"""The fake Machines API on an event loop of its own, for tests whose platform is other processes."""

import asyncio
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.fly.machines_api import FakeFly

T = TypeVar("T")
CALL_TIMEOUT_S = 60.0


class Running:
    """`fly` serves until the block's end. What changes it goes through `call`, and so runs on its loop."""

    def __init__(self, fly: FakeFly, loop: asyncio.AbstractEventLoop) -> None:
        self.fly = fly
        self._loop = loop

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Blocks until it has been done."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)


@contextmanager
def running_fly(folder: Path, edge_tls: ssl.SSLContext | None = None) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-fly")
    thread.start()
    running = Running(FakeFly(folder, edge_tls=edge_tls), loop)
    try:
        running.call(running.fly.__aenter__())
        try:
            yield running
        finally:
            running.call(running.fly.__aexit__())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CALL_TIMEOUT_S)
        loop.close()
