"""`drape`: finds the command, shows errors without a traceback."""

import asyncio
import importlib
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import click

from deploy.cli.output import Output
from deploy.local.errors import LauncherError
from shared.errors import DrapeError, internal

P = ParamSpec("P")

INTERRUPTED = 130


def command(work: Callable[Concatenate[Output, P], Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """An async function as a click command with `--json`; its errors become exit code 1 with the reason."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the result last.")
    @wraps(work)
    def run(*args: Any, as_json: bool, **kwargs: Any) -> None:
        output = Output(as_json=as_json)
        for number in (signal.SIGTERM, signal.SIGHUP):
            # As Ctrl-C: what a command has started is ended by it. `drape up` has handlers of its own.
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            code = asyncio.run(work(output, *args, **kwargs))
        except DrapeError as error:
            output.fail(error)
        except LauncherError as error:
            output.fail(DrapeError(error.code, error.message, error.hint))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.exit(1)  # whoever read us has gone
        except Exception as error:
            problem = internal(error)
            output.fail(DrapeError(problem.code, f"Something failed inside the command: {error!r}."))
        sys.exit(code or 0)

    return run


MODULES = {
    **dict.fromkeys(("up", "down", "status"), "lifecycle"),
    **dict.fromkeys(("ps", "logs", "stop", "restart"), "inspect"),
    **dict.fromkeys(("costs", "resources"), "costs"),
    "restore": "backup",
    **{
        name: name
        for name in (
            *("rollout", "provision", "preview", "project", "pool", "resident", "detect", "env"),
            *("alerts", "demo", "parked", "doctor", "bench", "simulate", "errors", "explain", "stats", "projections"),
            *("events", "replay", "diff", "export", "backup"),
        )
    },
}
"""Where each command is: only the module of the one that is called is imported, for some bring half of the services."""


class Commands(click.Group):
    """Finds its commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names; the help reads each one's first line."""
        return sorted(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None where there is none."""
        if cmd_name not in MODULES:
            return None
        module = importlib.import_module(f"deploy.cli.{MODULES[cmd_name]}")
        return next((each for each in module.COMMANDS if each.name == cmd_name), None)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option("0.1.0", prog_name="drape")
def cli() -> None:
    """Live previews of web projects in seconds."""


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()
