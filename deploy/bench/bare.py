"""`python -m deploy.bench.bare`: the least that a claim could cost: a request, a durable append, its way back, an answer."""

import asyncio
import os

import nats
from nats.aio.msg import Msg
from nats.js import api

STREAM = "BARE"
SUBJECT = "bare.claim"


async def _serve(url: str) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    await js.add_stream(api.StreamConfig(name=STREAM, subjects=["bare.evt.>"], storage=api.StorageType.FILE))
    waiting: dict[int, asyncio.Future[None]] = {}
    folded = 0

    async def fold(message: Msg) -> None:
        nonlocal folded
        folded = message.metadata.sequence.stream
        waiter = waiting.pop(folded, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def claim(request: Msg) -> None:
        ack = await js.publish(f"bare.evt.{request.data.decode()}", b'{"type":"Bare"}' + b" " * 300)
        if ack.seq > folded:
            waiter = waiting.setdefault(ack.seq, asyncio.get_running_loop().create_future())
            await waiter
        await request.respond(b"{}")

    tasks: set[asyncio.Task[None]] = set()

    async def on_request(request: Msg) -> None:
        task = asyncio.create_task(claim(request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await js.subscribe("bare.evt.>", ordered_consumer=True, cb=fold)
    await client.subscribe(SUBJECT, cb=on_request)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(os.environ["NATS_URL"]))
