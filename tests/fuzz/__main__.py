"""`python -m tests.fuzz --inputs N --seed S [--only TARGET] [--first N]`: all targets, and what they found. Exit code 1: something was.

`--first 4711 --inputs 1 --only bodies` repeats the input of that number (of `api`, the seed repeats all).
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable

from tests.fuzz import agents, api, archives, bodies, texts, wires
from tests.fuzz.trial import Outcome

TARGETS: dict[str, tuple[float, Callable[[int, int, int], Awaitable[Outcome]]]] = {
    "api": (0.05, api.fuzz),
    "wires": (0.15, wires.fuzz),
    "bodies": (0.35, bodies.fuzz),
    "agents": (0.1, agents.fuzz),
    "archives": (0.15, archives.fuzz),
    "texts": (0.2, texts.fuzz),
}
"""Each target's share of the inputs: more where an input takes less."""
DEFAULT_SEED = 20_261_129


def run(target: str, inputs: int, seed: int, first: int = 0) -> Outcome:
    """One target, on a loop of its own."""

    async def fuzz() -> Outcome:
        return await TARGETS[target][1](inputs, seed, first)

    # Rubbish is logged, and would hide what was found.
    loggers = [logging.getLogger(name) for name in ("aiohttp.server", "asyncio", "drape", "opentelemetry")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        return asyncio.run(fuzz())
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def main() -> int:
    """Prints a line a target, then the findings."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--inputs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    found = 0
    for name, (share, _) in TARGETS.items():
        if given.only not in (None, name):
            continue
        inputs = given.inputs if given.only else round(given.inputs * share)
        outcome = run(name, inputs, given.seed, given.first)
        speed = outcome.inputs / max(outcome.took_s, 1e-9)
        print(
            f"{name:9} {outcome.inputs:7} inputs  {outcome.took_s:7.1f} s  {speed:6.0f}/s  "
            f"{outcome.grown_bytes / 1024**2:+6.1f} MiB  {len(outcome.findings)} found",
            flush=True,
        )
        for each in outcome.findings:
            print(f"\n{each.target} seed {each.seed} number {each.number}\n{each.given}\n{each.why}\n", flush=True)
        found += len(outcome.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
