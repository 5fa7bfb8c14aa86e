"""Consumers without a name get one on their way out, so that permissions can tell whose they are.

nats-py asks for an ordered consumer on the bare subject `$JS.API.CONSUMER.CREATE.<stream>`. Whoever may publish there can
name any durable consumer in the body and so change it, another service's too. With the name and the filter in the
subject, which the server compares with the body, each can be allowed or denied. A name in nats-py's own configuration
would not do: it asks for the same one again after a gap, and is refused.
"""

import json

WHO_CHARS_MAX = 40
_BARE = "$JS.API.CONSUMER.CREATE."


def fresh_name(client: str, unique: str) -> str:
    """`drape-pool/pool-0` -> `pool-0-follow-<unique>`: who follows shows in `nats consumer ls`. Only letters that are allowed in a
    name."""
    who = client.rpartition("/")[2] or client
    kept = "".join(each if each.isascii() and (each.isalnum() or each in "-_") else "-" for each in who)[:WHO_CHARS_MAX]
    return f"{kept or 'ordered'}-follow-{unique}"


def named(subject: str, payload: bytes, fresh: str) -> tuple[str, bytes]:
    """The request with `fresh` as the consumer's name, where it makes one without a name; else as it was."""
    stream = subject.removeprefix(_BARE)
    if stream == subject or "." in stream:
        return subject, payload
    request = json.loads(payload)
    config = request.get("config", {})
    if config.get("name") or config.get("durable_name"):
        return subject, payload
    config["name"] = fresh
    config.setdefault("description", "Reads in order; its replica makes another where it is lost")
    filtered = config.get("filter_subject")
    return f"{subject}.{fresh}.{filtered}" if filtered else f"{subject}.{fresh}", json.dumps(request).encode()
