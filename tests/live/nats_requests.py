"""What the `nats` command asks the server, for machines that do not have it: the same requests, and that none is denied."""

import itertools
import shlex
from collections.abc import Iterator

import msgspec
from nats.aio.client import Client as NatsClient

from deploy.nats.permissions import OBSERVER, OPERATOR

ANSWER_S = 30.0
API = "$JS.API"
ALONE = ("context", "account", "errors", "events")
"""They ask nothing of the server that could be denied, or listen for what may not come."""

Asked = tuple[str, bytes]


def identity_of(line: str) -> str:
    """Whose context a line uses; the observer's is selected."""
    words = shlex.split(line)
    named = words[words.index("--context") + 1] if "--context" in words else "drape-observer"
    return {"drape": OPERATOR, "drape-observer": OBSERVER}[named]


def requests_of(line: str) -> list[Asked]:
    """Subjects and bodies. Raises LookupError for a command that is not known here."""
    words = shlex.split(line)
    words = words[words.index("nats") + 1 :]
    if "--context" in words:
        at = words.index("--context")
        del words[at : at + 2]
    if words[0] in ALONE:
        return []
    return list(_asked(words))


def _asked(words: list[str]) -> Iterator[Asked]:
    options = {word: after for word, after in itertools.pairwise(words) if word.startswith("--")}
    match words:
        case ["req", subject, body, *_]:
            yield subject, body.encode()
        case ["stream", "ls" | "report", *_] | ["kv" | "object", "ls"]:
            yield f"{API}.STREAM.LIST", b"{}"
        case ["stream", "info" | "state" | "gaps", stream, *_]:
            yield f"{API}.STREAM.INFO.{stream}", b'{"deleted_details":true}'
        case ["stream", "subjects", stream, *rest]:
            wanted = rest[0] if rest else ">"
            yield f"{API}.STREAM.INFO.{stream}", msgspec.json.encode({"subjects_filter": wanted})
        case ["stream", "get", stream, "--last-for", subject]:
            yield f"{API}.STREAM.MSG.GET.{stream}", msgspec.json.encode({"last_by_subj": subject})
        case ["stream", "get", stream, seq]:
            yield f"{API}.STREAM.MSG.GET.{stream}", msgspec.json.encode({"seq": int(seq)})
        case ["consumer", "ls" | "report", stream]:
            yield f"{API}.CONSUMER.LIST.{stream}", b"{}"
        case ["consumer", "info", stream, consumer]:
            yield f"{API}.CONSUMER.INFO.{stream}.{consumer}", b""
        case ["kv", "ls", bucket]:
            yield f"{API}.STREAM.INFO.KV_{bucket}", b""
        case ["object", "ls", bucket]:
            yield f"{API}.STREAM.INFO.OBJ_{bucket}", b""
        case ["micro", "ls" | "ping"]:
            yield "$SRV.PING", b""
        case ["micro", "info" | "stats" as verb, service, *_]:
            yield f"$SRV.{verb.upper()}.{service}", b""
        case ["sub", *_]:
            if "--stream" in options:
                yield f"{API}.STREAM.INFO.{options['--stream']}", b""
        case ["server", "check", "connection"]:
            yield f"{API}.INFO", b""
        case ["server", "check", "stream" | "message", *_]:
            yield f"{API}.STREAM.INFO.{options['--stream']}", b""
        case ["server", "check", "consumer", *_]:
            yield f"{API}.CONSUMER.INFO.{options['--stream']}.{options['--consumer']}", b""
        case ["server", "check", "kv", *_]:
            yield f"{API}.STREAM.INFO.KV_{options['--bucket']}", b""
        case ["server", "check", "request", *_]:
            yield options["--subject"], options["--payload"].encode()
        case _:
            raise LookupError(f"what `nats {' '.join(words)}` asks is not known here")


async def ask(client: NatsClient, line: str) -> list[str]:
    """Send what the line would send, as this client. Gives what was wrong with the answers."""
    wrong = []
    for subject, body in requests_of(line):
        answer = await client.request(subject, body, timeout=ANSWER_S)
        told = msgspec.json.decode(answer.data)
        if "Nats-Service-Error" in (answer.headers or {}) or isinstance(told.get("error"), dict):
            wrong.append(f"{line}: {told}")
    return wrong
