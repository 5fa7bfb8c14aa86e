"""`simulate`: all services on virtual time with faults, seed by seed, against the rules that always hold."""

from contextlib import closing

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.simulation.planted import PLANTS, Plant
from deploy.simulation.running import play
from deploy.simulation.world import Outcome
from shared.errors import Invalid

LINE_CHARS = 300
SEEDS = 20


@click.command()
@click.option("--seeds", type=click.IntRange(1, 1_000_000), help=f"How many, from 1 on. Default {SEEDS}.")
@click.option("--seed", type=click.IntRange(0), help="This one alone.")
@click.option("--plant", type=click.Choice(PLANTS), help="Put a bug back; the rules should find it.")
@command
async def simulate(output: Output, seeds: int | None, seed: int | None, plant: Plant | None) -> int:
    """Play simulations until a rule is broken: kills, cuts, delays, repetitions and an untrustworthy provider. Exit 1
    with the seed, the rule and the end of the story where one is; the same seed gives the same story again."""
    if seed is not None and seeds is not None:
        raise Invalid("seed_and_seeds", "--seed plays one seed, --seeds the first so many.", "Give one of them.")
    chosen = [seed] if seed is not None else list(range(1, (seeds or SEEDS) + 1))
    events = faults = 0
    with closing(play(chosen, plant)) as outcomes:
        for outcome in outcomes:
            output.emit({"type": "seed", **msgspec.to_builtins(outcome)})
            events, faults = events + outcome.events, faults + outcome.faults
            if outcome.broken:
                _tell(output, outcome, plant)
                return 1
    output.result(
        {"type": "simulation", "seeds": len(chosen), "events": events, "faults": faults, "broken": 0},
        f"{len(chosen)} seeds, {events} events, {faults} faults: every rule held.",
    )
    return 0


def _tell(output: Output, outcome: Outcome, plant: Plant | None) -> None:
    for line in outcome.story:
        output.say(line[:LINE_CHARS])
    for rule in outcome.broken:
        output.say(f"BROKEN: {rule[:LINE_CHARS]}")
    again = f"drape simulate --seed {outcome.seed}" + (f" --plant {plant}" if plant else "")
    result = {"type": "simulation", "seed": outcome.seed, "broken": outcome.broken, "again": again}
    output.result(result, f"Seed {outcome.seed} breaks a rule. Again: {again}")


COMMANDS = (simulate,)
