"""`python -m deploy.bench.sink`: takes whatever is exported by OTLP and forgets it, until it is ended.

It says its port at first, and its figures as JSON when its standard input ends.
"""

import asyncio
import sys

import msgspec
from aiohttp import web

BODY_BYTES_MAX = 64 * 1024 * 1024


async def _serve() -> None:
    taken = {"requests": 0, "bytes": 0}

    async def take(request: web.Request) -> web.Response:
        taken["requests"] += 1
        taken["bytes"] += len(await request.read())
        return web.Response()

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes([web.post("/{path:.*}", take)])
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(msgspec.json.encode(taken).decode(), flush=True)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve())
