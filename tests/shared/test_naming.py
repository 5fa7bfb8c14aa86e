"""Which requests get a consumer's name on their way out."""

import json

from shared.jetstream.naming import named

BARE = "$JS.API.CONSUMER.CREATE.DRAPE_EVENTS"


def _body(**config: object) -> bytes:
    return json.dumps({"stream_name": "DRAPE_EVENTS", "config": config}).encode()


def test_a_nameless_consumer_gets_the_name_in_subject_and_body() -> None:
    """With its filter behind, where it has one: the server compares both."""
    subject, body = named(BARE, _body(filter_subject="drape.evt.>"), "fresh")

    assert subject == f"{BARE}.fresh.drape.evt.>"
    assert json.loads(body)["config"] == {"filter_subject": "drape.evt.>", "name": "fresh"}
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
