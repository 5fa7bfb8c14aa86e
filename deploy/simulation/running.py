"""Many seeds on all processors, each in a process of its own making: one seed does not see another."""

import logging
import multiprocessing
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor

from deploy.simulation.planted import Plant
from deploy.simulation.world import Outcome, simulate

AHEAD_MAX = 8
"""Seeds that wait beyond those that are played, for each processor."""


def play(
    seeds: Sequence[int], plant: Plant | None = None, *, processes: int | None = None
) -> Generator[Outcome, None, None]:
    """What came of each seed, in order. Who has seen enough closes the iterator; what has not begun is not played."""
    workers = min(processes or os.cpu_count() or 1, len(seeds))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for start in range(0, len(seeds), workers * AHEAD_MAX):
                chunk = seeds[start : start + workers * AHEAD_MAX]
                yield from pool.map(_play, chunk, [plant] * len(chunk))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _play(seed: int, plant: Plant | None) -> Outcome:
    logger = logging.getLogger("drape")
    propagate, logger.propagate = logger.propagate, False  # faults are what it is about: they are in the story
    try:
        return simulate(seed, plant)
    finally:
        logger.propagate = propagate
