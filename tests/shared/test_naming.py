"""Which requests get a consumer's name on their way out."""

import json

from shared.jetstream.naming import fresh_name, named

BARE = "$JS.API.CONSUMER.CREATE.DRAPE_EVENTS"


def _body(**config: object) -> bytes:
    return json.dumps({"stream_name": "DRAPE_EVENTS", "config": config}).encode()


def test_a_nameless_consumer_gets_the_name_in_subject_and_body() -> None:
    """With its filter behind, where it has one: the server compares both."""
    subject, body = named(BARE, _body(filter_subject="drape.evt.>"), "fresh")

    assert subject == f"{BARE}.fresh.drape.evt.>"
    config = json.loads(body)["config"]
    assert config.pop("description")
    assert config == {"filter_subject": "drape.evt.>", "name": "fresh"}
    assert named(BARE, _body(), "fresh")[0] == f"{BARE}.fresh"


def test_everything_else_goes_as_it_is() -> None:
    """Consumers that have a name, and other requests."""
    for subject, body in (
        (BARE, _body(name="given")),
        (BARE, _body(durable_name="given")),
        (f"{BARE}.given.drape.evt.>", _body(name="given")),
        ("$JS.API.CONSUMER.INFO.DRAPE_EVENTS.x", b""),
        ("drape.cmd.pool.acquire", b"{}"),
    ):
        assert named(subject, body, "fresh") == (subject, body)


def test_a_fresh_name_says_whose_it_is() -> None:
    """By the connection's name, in letters that a consumer's name may have, and of bounded length."""
    assert fresh_name("drape-pool/pool-0", "Xy1") == "pool-0-follow-Xy1"
    assert fresh_name("drape/a.b *>é", "1") == "a-b-----follow-1"
    assert fresh_name("", "1") == "ordered-follow-1"
    assert len(fresh_name("x" * 300, "1")) < 60
