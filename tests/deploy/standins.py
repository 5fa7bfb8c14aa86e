"""Small programs that stand in for the services, as real processes, and the status function that asks them.

`python standins.py MODE`: `serve` says that it is ready over NATS and lives until SIGTERM; `crash` dies at once;
`serve_or_crash FILE` crashes while the file is there.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats.aio.msg import Msg

from deploy.local.options import SERVICES
from shared.jetstream.connection import connect


async def serve() -> None:
    """Answers the status request with its name and environment until it is told to end."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    name = os.environ["DRAPE_INSTANCE"].rpartition("-")[0]
    client = await connect(os.environ["NATS_URL"], f"standin-{name}", identity=name)

    async def answer(message: Msg) -> None:
        await message.respond(json.dumps({"name": name, "pid": os.getpid()}).encode())

    await client.subscribe(f"drape.query.{name}.status", cb=answer)
    await client.flush()
    await stop.wait()
    await client.close()


async def service_status(nats_url: str) -> Mapping[str, Mapping[str, object]]:
    """Asks all stand-ins for their state; those that answer are ready."""
    client = await nats.connect(nats_url, allow_reconnect=False, connect_timeout=2)
    found: dict[str, dict[str, Any]] = {}
    try:
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        for name in SERVICES:
            await client.publish(f"drape.query.{name}.status", b"", reply=inbox)
        while True:
            answer = json.loads((await subscription.next_msg(timeout=0.1)).data or b"{}")
            if not answer:
                continue  # nobody has subscribed to one of the names
            service = found.setdefault(answer["name"], {"ready": True, "seq": 0, "lag": 0, "replicas": []})
            service["replicas"].append({"pid": answer["pid"], "ready": True, "seq": 0, "lag": 0})
    except nats.errors.TimeoutError:
        return found  # Everybody who is there has answered.
    finally:
        await client.close()
    return found


if __name__ == "__main__":
    if sys.argv[1] == "crash" or (sys.argv[1] == "serve_or_crash" and Path(sys.argv[2]).exists()):
        sys.exit("this service cannot start: no such setting")
    print(json.dumps({key: value for key, value in os.environ.items() if key.startswith("DRAPE_GATEWAY")}), flush=True)
    asyncio.run(serve())
