"""`python -m tests.fly FOLDER`: the fake Machines API until ^C, with real agents. Says what to set for a pool to use it."""

import asyncio
import signal
import sys
from pathlib import Path

from tests.fly.machines_api import APP, IMAGE, TOKEN, FakeFly


async def _serve(folder: Path) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with FakeFly(folder) as fly:
        print(f"export FLY_API_TOKEN={TOKEN} DRAPE_POOL_PROVIDER=fly DRAPE_POOL_FLY_APP={APP}")
        print(f"export DRAPE_POOL_FLY_API_URL={fly.url} DRAPE_POOL_FLY_IMAGE={IMAGE}", flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1] if len(sys.argv) > 1 else "fly-machines").resolve()))
