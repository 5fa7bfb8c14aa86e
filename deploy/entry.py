"""`python -m deploy.entry SERVICE`: process 1 of the service image. SERVICE is one of the services, or `provision`.

`health live|ready|startup` asks the process beside it, for the image's own health check.
"""

import asyncio
import http.client
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType

SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
PROBES = ("live", "ready", "startup")
USAGE = f"Give one of: {', '.join(SERVICES)}, provision; or health {'|'.join(PROBES)}."
WRONG = 2
PROBE_TIMEOUT_S = 4.0
NATS_LIMIT_S = 120.0
"""How long `provision` waits for NATS: containers of one deployment start together."""
NATS_RETRY_S = 1.0


def main(argv: Sequence[str]) -> None:
    """Runs what is named; ends with its exit code, 2 where nothing of that name is here."""
    match argv:
        case ["health", probe] if probe in PROBES:
            sys.exit(_health(probe))
        case ["provision"]:
            _as_first_process()
            _provision()
        case [name] if name in SERVICES:
            _as_first_process()
            _serve(name)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(WRONG)


def _as_first_process() -> None:
    """The kernel gives process 1 no default action for SIGTERM: until a service handles it, it would be lost. Replicas of one
    container definition are told apart by the names that the engine gives them."""
    signal.signal(signal.SIGTERM, _leave)
    if not os.environ.get("DRAPE_INSTANCE"):
        os.environ["DRAPE_INSTANCE"] = socket.gethostname()


def _leave(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _serve(name: str) -> None:
    from shared.errors import DrapeError

    try:
        runpy.run_module(f"services.{name}", run_name="__main__")
    except DrapeError as error:  # a setting is wrong: the container's log is where that is looked for
        sys.exit(f"drape {name}: {error.message} {error.hint}".rstrip())


def _provision() -> None:
    from deploy.provision import provision
    from shared.errors import DrapeError, Unavailable

    url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    replicas = int(os.environ.get("DRAPE_STREAM_REPLICAS", "1"))
    deadline = time.monotonic() + NATS_LIMIT_S
    while True:
        try:
            asyncio.run(provision(url, replicas))
            return
        except Unavailable as error:
            if time.monotonic() >= deadline:
                sys.exit(f"provision: {error.message} {error.hint}")
            print(f"provision: waiting: {error.message}", file=sys.stderr)
            time.sleep(NATS_RETRY_S)
        except DrapeError as error:
            sys.exit(f"provision: {error.message} {error.hint}")


def _health(probe: str) -> int:
    """0 where the process in this container answers 200 to `/<probe>`, else 1 with what it said."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(os.environ.get("DRAPE_HEALTH_PORT") or 8081), timeout=PROBE_TIMEOUT_S
    )
    try:
        connection.request("GET", f"/{probe}")
        answer = connection.getresponse()
        print(answer.status, answer.read(2048).decode(errors="replace"))
        return 0 if answer.status == http.client.OK else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {type(error).__name__}")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1:])
