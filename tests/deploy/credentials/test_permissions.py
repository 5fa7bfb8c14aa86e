"""The tables of permissions hold every command, query, stream and bucket that the code has, and no more."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from deploy.local import nats as local_nats
from deploy.nats.authorization import User, authorization, users
from deploy.nats.identities import new_seed, public_key
from deploy.nats.permissions import (
    ASKS,
    BUCKETS,
    IDENTITIES,
    OBSERVER,
    OPERATOR,
    OWN,
    PROVISION,
    READS,
    SENDS,
    SERVICES,
    permissions_of,
)
from shared.commands import COMMAND_TYPES
from shared.events import EVENT_TYPES, Event
from shared.jetstream import topology
from tests.parsing import parsed

ROOT = Path(__file__).parents[3]
STREAMS = {"DRAPE_EVENTS", "DRAPE_TIMERS", "DRAPE_LOGS", "DRAPE_PARKED"}
PURE = {"decide.py", "views.py", "state.py"}
"""Rooms that take commands apart, or answer them, and send none."""


def allows(identity: str, subject: str, *, subscribe: bool = False) -> bool:
    """Whether a subject is allowed, by the server's rules: `*` is one token, `>` the rest, and a denial counts more."""
    permissions = permissions_of(identity)
    allowed = permissions.subscribe if subscribe else permissions.publish
    denied = () if subscribe else permissions.publish_denied
    return any(_matches(each, subject) for each in allowed) and not any(_matches(each, subject) for each in denied)


def _matches(pattern: str, subject: str) -> bool:
    tokens, given = pattern.split("."), subject.split(".")
    if tokens[-1] == ">":
        return len(given) >= len(tokens) and _matches(".".join(tokens[:-1]), ".".join(given[: len(tokens) - 1]))
    return len(tokens) == len(given) and all(a in ("*", b) for a, b in zip(tokens, given, strict=True))


def test_every_command_has_a_line() -> None:
    """A command is sent by somebody, or is one that a service gives only itself; never both."""
    sent = {kind for kinds in SENDS.values() for kind in kinds}

    assert sent | OWN == set(COMMAND_TYPES)
    assert sent & OWN == set()


def _used(service: str) -> set[str]:
    """The names that a service imports from `shared.commands`, in rooms that send."""
    names = set()
    for path in (ROOT / "services" / service).rglob("*.py"):
        if path.name in PURE or "rules" in path.parts:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "shared.commands":
                names |= {each.name for each in node.names}
    return names


@pytest.mark.parametrize("service", SERVICES)
def test_services_send_what_their_tables_say(service: str) -> None:
    """Each command of another service that the code of this one names is allowed, and each that is allowed is named."""
    others = {kind for kind in COMMAND_TYPES if kind.service != service}

    assert {kind for kind in others if kind.__name__ in _used(service)} == SENDS[service]


@pytest.mark.parametrize("service", SERVICES)
def test_services_ask_what_their_tables_say(service: str) -> None:
    """Each query in the code has its line."""
    asked = set()
    for path in (ROOT / "services" / service).rglob("*.py"):
        asked |= {f"{a}.{b}" for a, b in re.findall(r'\.query\(\s*"(\w+)", "(\w+)"', path.read_text("utf-8"))}
    table = {each for each in ASKS[service] if not re.fullmatch(r"pool\.(restore|publish)_deps", each)}

    assert asked == table


def test_every_stream_and_bucket_has_a_line() -> None:
    """What `topology` names is in the tables; the timers are read through consumers only."""
    named = {value for key, value in vars(topology).items() if key.isupper() and str(value).startswith("DRAPE_")}
    buckets = {value for key, value in vars(topology).items() if key.endswith("_BUCKET")}

    assert named == STREAMS == {each for reads in READS.values() for each in reads} | {topology.TIMERS}
    assert buckets <= BUCKETS.keys()


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=lambda kind: kind.__name__)
def test_only_the_owner_appends_an_event(identity: str, kind: type[Event]) -> None:
    """One sole writer for each event, and no person, provisioning or observer among them."""
    subject = f"drape.evt.{kind.service}.{kind.aggregate}.some-id.{kind.__name__}"

    assert allows(identity, subject) == (identity == kind.service)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_nobody_deletes_and_only_the_right_ones_purge(identity: str) -> None:
    """No identity deletes a stream, or an event; messages are deleted where a project is erased or a parked reaction dropped;
    each purge is of its own; only provisioning makes and changes streams."""
    purges = {
        "gateway": {"OBJ_drape_files", "KV_drape_keys"},
    }
    deletes = {
        "gateway": {"DRAPE_LOGS", "DRAPE_PARKED", "KV_drape_keys", "OBJ_drape_files"},
        OPERATOR: {"DRAPE_PARKED"},
    }
    kept = {"OBJ_drape_files", "KV_drape_keys", "KV_drape_snap"}
    for stream in STREAMS | kept:
        assert not allows(identity, f"$JS.API.STREAM.DELETE.{stream}")
        assert allows(identity, f"$JS.API.STREAM.MSG.DELETE.{stream}") == (stream in deletes.get(identity, set()))
        assert allows(identity, f"$JS.API.STREAM.PURGE.{stream}") == (stream in purges.get(identity, set())), stream
        for verb in ("CREATE", "UPDATE"):
            assert allows(identity, f"$JS.API.STREAM.{verb}.{stream}") == (identity == PROVISION)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_durable_consumer_is_its_own_services(identity: str) -> None:
    """Only that service takes its messages and acknowledges them; only provisioning makes, changes or deletes it; and
    nobody who could is allowed the bare subject, on which any consumer can be named."""
    for service in SERVICES:
        for stream, name in (("DRAPE_EVENTS", f"{service}-reactor"), ("DRAPE_TIMERS", f"{service}-timers")):
            assert allows(identity, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}") == (identity == service)
            assert allows(identity, f"$JS.ACK.{stream}.{name}.1.1.1.1.1") == (identity == service)
            for change in (
                "CONSUMER.CREATE.{}.{}.drape.evt.>",
                "CONSUMER.DURABLE.CREATE.{}.{}",
                "CONSUMER.DELETE.{}.{}",
            ):
                assert allows(identity, "$JS.API." + change.format(stream, name)) == (identity == PROVISION)
            assert allows(identity, f"$JS.API.CONSUMER.CREATE.{stream}") == (identity == OPERATOR)


def test_buckets_are_apart() -> None:
    """Files: the gateway writes, the orchestrator reads. Keys: the gateway writes, the orchestrator adds, all
    read. Snapshots: one's own."""
    assert [each for each in SERVICES if allows(each, "$O.drape_files.C.x")] == ["gateway"]
    assert [each for each in SERVICES if allows(each, "$JS.API.DIRECT.GET.OBJ_drape_files.$O.drape_files.M.x")] == [
        *("orchestrator", "gateway")
    ]
    assert [each for each in IDENTITIES if allows(each, "$KV.drape_keys.project")] == ["orchestrator", "gateway"]
    for service in SERVICES:
        assert allows(service, "$JS.API.DIRECT.GET.KV_drape_keys.$KV.drape_keys.project")
        for other in SERVICES:
            key = f"$KV.drape_snap.{other}.fingerprint"
            assert allows(service, key) == (service == other)
            assert allows(service, f"$JS.API.DIRECT.GET.KV_drape_snap.{key}") == (service == other)
            assert allows(service, f"$JS.API.CONSUMER.CREATE.KV_drape_snap.name.{key}") == (service == other)
        assert not allows(service, "$JS.API.STREAM.MSG.GET.KV_drape_snap")


def test_nobody_listens_where_others_are_answered() -> None:
    """A service's inbox is its own; commands and queries are heard by those that they are for."""
    for identity in IDENTITIES:
        for service in SERVICES:
            for subject in (f"_INBOX_{service}.abc", f"drape.cmd.{service}.verb", f"drape.query.{service}.status.each"):
                assert allows(identity, subject, subscribe=True) == (identity == service), (identity, subject)


def test_a_person_sends_wishes_and_no_reports() -> None:
    """The operator may not tell a service what only that service can know; an unknown verb is nobody's, not forbidden."""
    for kind in COMMAND_TYPES:
        assert allows(OPERATOR, f"drape.cmd.{kind.service}.{kind.verb}") == (kind not in OWN)
        assert not allows(OBSERVER, f"drape.cmd.{kind.service}.{kind.verb}")
    assert allows(OPERATOR, "drape.cmd.pool.no_such_verb")


def test_an_observer_reads_no_project() -> None:
    """Figures, events, timers, parked reactions and what is folded from events; neither files nor output, nor keys."""
    for stream in ("DRAPE_EVENTS", "KV_drape_snap"):
        assert allows(OBSERVER, f"$JS.API.STREAM.MSG.GET.{stream}")
    for stream in ("DRAPE_LOGS", "OBJ_drape_files", "KV_drape_keys"):
        for verb in ("STREAM.MSG.GET.{}", "DIRECT.GET.{}", "CONSUMER.CREATE.{}", "CONSUMER.CREATE.{}.a.>"):
            assert not allows(OBSERVER, f"$JS.API.{verb.format(stream)}")


def test_wildcards_are_whole_tokens() -> None:
    """`pool-*` would match literally, so nothing of the kind is written."""
    for identity in IDENTITIES:
        permissions = permissions_of(identity)
        for subject in (*permissions.publish, *permissions.subscribe, *permissions.publish_denied):
            tokens = subject.split(".")
            assert all(token in ("*", ">") or not set(token) & set("*>") for token in tokens), subject
            assert ">" not in tokens[:-1], subject


def test_no_identity_is_invented() -> None:
    """A name that is no identity has no permissions at all."""
    with pytest.raises(ValueError, match="nobody"):
        permissions_of("nobody")


def test_the_server_takes_the_block(tmp_path: Path) -> None:
    """`nats-server -t` on the whole block, keys and password; and it refuses one with a broken key."""
    keys = {identity: public_key(new_seed()) for identity in IDENTITIES}
    good, bad = tmp_path / "good.conf", tmp_path / "bad.conf"
    good.write_text(authorization(users(keys, "a-password")))
    bad.write_text(authorization([User("pool", public_key="UNOKEY")]))

    assert _checked(good) == 0
    assert _checked(bad) != 0


def _checked(config: Path) -> int:
    return subprocess.run(
        [local_nats.find_nats_server(), "-t", "-c", config], capture_output=True, check=False
    ).returncode
