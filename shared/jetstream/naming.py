"""Consumers without a name get one on their way out, so that permissions can tell whose they are.

nats-py asks for an ordered consumer on the bare subject `$JS.API.CONSUMER.CREATE.<stream>`. Whoever may publish there can
name any durable consumer in the body and so change it, another service's too. With the name and the filter in the
subject, which the server compares with the body, each can be allowed or denied. A name in nats-py's own configuration
would not do: it asks for the same one again after a gap, and is refused.
"""

import json

_BARE = "$JS.API.CONSUMER.CREATE."


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
    filtered = config.get("filter_subject")
    return f"{subject}.{fresh}.{filtered}" if filtered else f"{subject}.{fresh}", json.dumps(request).encode()
