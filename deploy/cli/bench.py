"""`bench`: this project's share, beside the bare cost of the same work in the same run."""

import click


@click.group()
def bench() -> None:
    """Measure, beside the bare cost in the same run."""


COMMANDS = (bench,)
