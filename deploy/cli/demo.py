"""`demo`: starts everything, shows one project, and stays up until Ctrl-C. What `make demo` runs."""

import asyncio
import contextlib
import signal
from pathlib import Path

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, read_folder
from deploy.cli.following import conclude, follow
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import STATUS_FUNCTION, running_or_none
from deploy.cli.projects import project_of_folder, send_folder
from deploy.local.detach import down, up_detached
from deploy.local.options import UpOptions
from deploy.local.paths import Home
from shared.errors import DrapeError


@click.command(hidden=True)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Stop everything once the preview is ready.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the gateway.")
@command
async def demo(output: Output, path: Path, once: bool, port: int | None) -> int:
    """Start everything, preview PATH, stay up until Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    files = read_folder(path)
    home = Home.from_env()
    running = running_or_none()
    started = running is None
    shown: list[str] = []
    try:
        if running is None:
            output.say("Starting NATS, PostgreSQL and the four services ...")
            running = await up_detached(UpOptions.from_env(port=port), home, STATUS_FUNCTION)
            output.say(f"Up after {running.timings_s.get('total', 0.0):.1f} s.")
        showing = asyncio.create_task(_show(output, running.gateway, path, files, shown))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({showing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():
            showing.cancel()
            return 1
        if not showing.result():
            return 1
        if not once:
            output.say("Ctrl-C ends it.")
            await stop.wait()
        return 0
    finally:
        if running is not None:
            await _forget(running.gateway, shown)
        if started:
            output.say("Stopping ...")
            await down(home)


async def _show(output: Output, gateway: str, path: Path, files: dict[str, LocalFile], shown: list[str]) -> bool:
    async with aiohttp.ClientSession() as session:
        api = Api(gateway, session)
        project_id = await project_of_folder(api, Home.from_env(), path, path.resolve().name)
        await send_folder(api, project_id, files)
        wanted = await api.call("POST", "/api/previews", json={"project_id": project_id})
        shown.append(f"/api/projects/{project_id}")
        return await conclude(output, api, await follow(output, api, wanted["preview_id"]), gateway)


async def _forget(gateway: str, shown: list[str]) -> None:
    """The demo's own project goes with it: its preview would begin anew at every later start."""
    async with aiohttp.ClientSession() as session:
        for path in shown:
            with contextlib.suppress(DrapeError):  # the data folder stays usable all the same
                await Api(gateway, session).call("DELETE", path)


COMMANDS = (demo,)
