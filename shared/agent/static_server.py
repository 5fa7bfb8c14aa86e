"""`python -m shared.agent.static_server --port N --root DIR`: the dev server of projects that are only files.

Exit codes: 0 when asked to end, 1 when it can't listen or there is no such folder, 2 for wrong use.
"""

import argparse
import sys
from pathlib import Path

from . import quickstart


def main() -> int:
    """Parses and serves until SIGTERM or SIGINT. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shared.agent.static_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--root", type=Path, default=Path())
    options = parser.parse_args()
    root: Path = options.root.resolve()
    if not root.is_dir():
        print(f"{options.root} is no folder; give the folder to serve with --root.", file=sys.stderr)
        return 1
    quickstart.import_aiohttp()
    from aiohttp import web

    from .static_site import application

    print(f"Serving {root} at http://{options.host}:{options.port}/", flush=True)
    try:
        web.run_app(
            application(root), host=options.host, port=options.port, print=None, access_log=None, shutdown_timeout=0.5
        )
    except OSError as error:
        print(f"Can't listen on {options.host}:{options.port}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
