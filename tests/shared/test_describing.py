"""What `nats micro info` shows is true of the commands, and short enough to be shown."""

import msgspec
import pytest

from deploy.doctor.replaying import DEFINITIONS
from deploy.nats.permissions import OWN, SERVICES
from shared.commands import COMMAND_TYPES, Command
from shared.jetstream.describing import QUERIES, described, described_command, described_query
from shared.jetstream.describing import SERVICES as DESCRIBED
from shared.jetstream.topology import TICKING

SHOWN_CHARS_MAX = 100
"""The command shortens longer values in the middle, but for `--json`."""
MEMBERS = ("does", "takes", "body", "answers")


@pytest.mark.parametrize("command", COMMAND_TYPES, ids=lambda each: each.__name__)
def test_a_commands_example_is_one(command: type[Command]) -> None:
    """It is decoded as the service would; each member that it takes is named; all four are there."""
    told = described_command(command)

    assert tuple(told) == MEMBERS
    assert all(told.values())
    assert isinstance(msgspec.json.decode(told["body"], type=command), command)
    named = set(told["takes"].replace("optional: ", "").replace(";", ",").split(", "))
    assert named - {"nothing"} == {each.name for each in msgspec.structs.fields(command)} - {"id", "at"}
    if command not in OWN:
        assert all(len(each) <= SHOWN_CHARS_MAX for each in told.values()), told


def test_every_command_of_a_service_is_described_by_its_verb() -> None:
    """All that are sent to it."""
    for service in SERVICES:
        assert set(described(service)) == {each.verb for each in COMMAND_TYPES if each.service == service}
    assert set(DESCRIBED) == set(SERVICES)


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_a_query_is_described(name: str) -> None:
    """With a body that is JSON."""
    service, _, query = name.rpartition(".")
    told = described_query(service or "pool", query)

    assert tuple(told) == MEMBERS
    assert all(told.values())
    assert isinstance(msgspec.json.decode(told["body"]), dict)
    assert all(len(each) <= SHOWN_CHARS_MAX for each in told.values())
    assert described_query("pool", "no_such_query") == {}


def test_who_ticks_is_who_is_watched_for_ticks() -> None:
    """A consumer of timers that is never silent has a limit for silence; one of a service without ticks may be."""
    assert {name for name, definition in DEFINITIONS.items() if definition().ticks} == TICKING
