"""Ends what a supervisor that was killed left running: services first, then NATS and PostgreSQL, each in its own way.

To be called with the supervisor's lock held. VMs are not touched: the pool takes them over by the log.
"""

import asyncio
import itertools
import logging
import signal
from collections.abc import Callable

import psutil

from deploy.local import records
from deploy.local.paths import Home

_log = logging.getLogger("drape.local")

_POLL_S = 0.02
_UNRECORDED_STOP: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 3.0),)
_KILL_WAIT_S = 5.0


async def end_leftovers(home: Home) -> list[str]:
    """Ends every recorded child, then everything else that carries this home's mark. Returns the names of the ended."""
    ended: list[str] = []
    children = [record for record in records.read_all(home) if record.name != records.SUPERVISOR]
    for _, same_rank in itertools.groupby(children, key=lambda record: record.rank):
        async with asyncio.TaskGroup() as group:
            for record in same_rank:
                group.create_task(_end_recorded(home, record, ended))
    strays = await asyncio.to_thread(records.marked, home)
    async with asyncio.TaskGroup() as group:
        for process in strays:
            ended.append(f"process {process.pid}")
            group.create_task(end_process(process, _UNRECORDED_STOP))
    if ended:
        _log.warning("ended what an earlier run left behind", extra={"ended": ended})
    return ended


async def _end_recorded(home: Home, record: records.ProcessRecord, ended: list[str]) -> None:
    process = record.process()
    if process is not None:
        ended.append(record.name)
        await end_process(process, record.stop)
    records.remove(home, record.name)


async def end_process(process: psutil.Process, stop: tuple[tuple[int, float], ...]) -> bool:
    """Sends the signals of `stop`, each with its grace in seconds, then SIGKILL. True when a polite one was enough.
    The process need not be a child of ours; its id is never mistaken for a newer process's."""
    for number, grace_s in stop:
        if not _send(process, number) or await _gone_within(lambda: _gone(process), grace_s):
            return True
    _send(process, signal.SIGKILL)
    if not await _gone_within(lambda: _gone(process), _KILL_WAIT_S):
        _log.error("a process does not end", extra={"pid": process.pid})
    return False


def _send(process: psutil.Process, number: int) -> bool:
    try:
        process.send_signal(number)
        return True
    except psutil.NoSuchProcess:
        return False


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _gone_within(gone: Callable[[], bool], timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not gone():
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True
