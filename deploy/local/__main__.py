"""The background supervisor, as `detach` starts it: `python -m deploy.local MODULE:FUNCTION REPORT_FD`.

MODULE:FUNCTION is the status function; the options come as JSON on standard input; the report goes to the descriptor.
Not meant to be typed by people: they use `drape up`.
"""

import asyncio
import importlib
import logging
import os
import signal
import sys
from typing import BinaryIO, cast

import msgspec

from deploy.local.detach import Failed, Ready, Report
from deploy.local.errors import LauncherError
from deploy.local.launcher import run
from deploy.local.options import AlreadyRunning, RunStatus, ServiceStatus, UpOptions
from deploy.local.paths import Home

_log = logging.getLogger("drape.local")


class _Reporter:
    """Sends the one report to whoever started this process, if anybody still waits for it."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._pipe: BinaryIO | None = os.fdopen(descriptor, "wb", buffering=0)

    def send(self, report: Report) -> None:
        """Sends and closes; does nothing the second time."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        try:
            with pipe:
                pipe.write(msgspec.json.encode(report))
        except BrokenPipeError:
            _log.info("nobody waits for the report")


def main() -> int:
    """Runs until SIGTERM or SIGINT. Exit code 0 after a stop, 1 when the start failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    reporter = _Reporter(int(sys.argv[2]))
    module, _, function = sys.argv[1].partition(":")
    options = msgspec.json.decode(sys.stdin.buffer.read(), type=UpOptions)
    service_status = cast(ServiceStatus, getattr(importlib.import_module(module), function))
    try:
        asyncio.run(_supervise(options, service_status, reporter))
    except LauncherError as error:
        _log.error("%s: %s", error.code, error)
        running = error.status if isinstance(error, AlreadyRunning) else None
        reporter.send(Failed(error.code, error.message, error.hint, running))
        return 1
    reporter.send(Failed("stopped", "Drape was ended while it was starting.", "Start it again with `drape up`."))
    return 0


async def _supervise(options: UpOptions, service_status: ServiceStatus, reporter: _Reporter) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def ready(status: RunStatus) -> None:
        reporter.send(Ready(status))

    await run(options, Home.from_env(), ready, stop, service_status)


if __name__ == "__main__":
    sys.exit(main())
