"""What `nats micro info` shows of a service and its endpoints: what each does, an example of its body, what it answers. Pure."""

import inspect
from collections.abc import Mapping

import msgspec

from shared.commands import (
    AcquireVm,
    ClaimReply,
    Command,
    CreateProject,
    MaintainResidents,
    PreviewReply,
    ProjectReply,
    RecordFiles,
    Reply,
    commands_of,
)

SERVICES = {
    "pool": "VMs: boots them ahead of need, hands them out, looks after them, destroys them",
    "orchestrator": "Previews: takes each from a request to a page that answers, step by step",
    "gateway": "Projects, the HTTP API, and the way to the previews",
    "telemetry": "Figures and alerts, from the log",
}
"""What each service is about, in one line."""

_VALUES: dict[str, object] = {
    "preview_id": "<preview>",
    "project_id": "<project>",
    "vm_id": "vm-000042",
    "owner": "local",
    "name": "my-shop",
    "env": "<object>",
    "names": ["GREETING"],
    "manifest": "<object>",
    "files_version": 1,
    "attempt": 1,
    "port": 12000,
    "host": "127.0.0.1",
    "target": 3,
    "minimum": 1,
    "maximum": 5,
    "state": "open",
    "step": "installing",
    "status": "ready",
    "url": "http://…",
    "key": "3f2a",
    "manager": "npm",
    "seq": 1234,
    "healthy": False,
    "alert": "pool_empty",
    "pattern": "pool_*",
    "until": 1795482820.0,
    "channel": "webhook",
    "kind": "raised",
    "notice": "<event>",
    "silence_id": "<silence>",
    "day": "2026-11-30",
}
"""Examples by a field's name; of other fields by their type."""


class Query(msgspec.Struct, frozen=True):
    """A question's endpoint in words: `does`, members that are `taken` and `answered`, and JSON of an example `body`."""

    does: str
    answers: str
    body: str = "{}"
    takes: str = "nothing"


_DEPS = '{"vm_id":"vm-000042","preview_id":"<preview>","key":"3f2a"}'
_DEPS_TAKEN = "vm_id, preview_id, key; optional: manager, trees, project_id"
_TIMING_TAKEN = "preview_id; optional: days"
QUERIES = {
    "status": Query(
        "How far a replica has folded the log; `.each` asks all", "ready, seq, lag, replay_s, snapshot_seq"
    ),
    "digest": Query("A fingerprint of the state: the same in all replicas at one seq", "seq, digest"),
    "pool.summary": Query(
        "The pools: sizes, VMs by what they do, claims that wait", "available, inUse, waiting, …, pools"
    ),
    "pool.inventory": Query("The provider's VMs against the log's", "provider, orphans, lost, unsettled, last_run, …"),
    "pool.restore_deps": Query(
        "Put kept dependencies into a VM", "done, code, files, bytes, took_s", _DEPS, _DEPS_TAKEN
    ),
    "pool.publish_deps": Query("Keep the dependencies of a VM", "done, code, files, bytes, took_s", _DEPS, _DEPS_TAKEN),
    "pool.usage": Query(
        "VMs by pool and state, and what they use", "all: name, provider, booting, …, cpu_cores, memory_bytes"
    ),
    "telemetry.stats": Query(
        "Times by step and framework, rates, failures, of the last days",
        "days, previews, total_s, steps, pool_hit_rate, failures, …",
        '{"days":7}',
        "optional: days, owner, framework, provider",
    ),
    "telemetry.errors": Query(
        "What went wrong, grouped by cause",
        "groups, occurrences, next",
        '{"days":7}',
        "optional: days, owner, fingerprint, code, project, limit, before, occurrences",
    ),
    "telemetry.timing": Query(
        "A preview's steps against what is usual", "attempts, usual, …", '{"preview_id":"<preview>"}', _TIMING_TAKEN
    ),
    "telemetry.costs": Query(
        "What VMs have cost, by hour, day, month, preview, owner or pool",
        "by, currency, costs, total, overhead, …",
        '{"by":"day"}',
        "optional: by, days, owner",
    ),
    "telemetry.resources": Query(
        "Snapshots of VMs, previews, processors and memory", "snapshots, position", '{"hours":24}', "optional: hours"
    ),
    "telemetry.projections": Query("How far PostgreSQL's tables are behind the log", "last_seq, projections"),
    "telemetry.rebuild": Query(
        "Make tables anew while they serve", "projections", '{"names":["previews"]}', "optional: names"
    ),
    "telemetry.alerts": Query("The alerts that are raised now, and were", "alerts, recent, silences, channels"),
    "telemetry.test-notification": Query(
        "Send a test to a channel, or to all", "tried", '{"channel":""}', "optional: channel"
    ),
}
"""By name where every service has it, else by `<service>.<name>`."""


def described_command(command: type[Command]) -> dict[str, str]:
    """Metadata of a command's endpoint, short enough for `nats micro info` to show it whole."""
    fields = [each for each in msgspec.structs.fields(command) if each.name not in ("id", "at")]
    required = ", ".join(each.name for each in fields if each.required)
    optional = ", ".join(each.name for each in fields if not each.required)
    reply = reply_of(command)
    return {
        "does": _first_sentence(command),
        "takes": "; ".join([*([required] if required else []), *([f"optional: {optional}"] if optional else [])])
        or "nothing",
        "body": msgspec.json.encode(example(command)).decode(),
        "answers": f"{', '.join(each.name for each in msgspec.structs.fields(reply))}",
    }


def described_query(service: str, name: str) -> dict[str, str]:
    """Metadata of a query's endpoint; empty where nobody has described it."""
    found = QUERIES.get(f"{service}.{name}") or QUERIES.get(name)
    return {} if found is None else {each: getattr(found, each) for each in ("does", "takes", "body", "answers")}


def described(service: str) -> Mapping[str, Mapping[str, str]]:
    """Metadata by verb, of all commands of a service."""
    return {command.verb: described_command(command) for command in commands_of(service)}


def example(kind: type[msgspec.Struct]) -> dict[str, object]:
    """The smallest body that is one: required members only."""
    return {each.name: _value(each) for each in msgspec.structs.fields(kind) if each.required}


def reply_of(command: type[Command]) -> type[Reply]:
    """What a granted command answers."""
    if command is AcquireVm:
        return ClaimReply
    if command in (CreateProject, RecordFiles):
        return ProjectReply
    if command.service == "orchestrator" and command is not MaintainResidents:
        return PreviewReply
    return Reply


def _value(field: msgspec.structs.FieldInfo) -> object:
    kind = field.type
    if field.name in _VALUES and (not isinstance(kind, type) or isinstance(_VALUES[field.name], kind)):
        return _VALUES[field.name]
    by_type: dict[object, object] = {str: "text", int: 1, float: 1.0, bool: False}
    if kind in by_type:
        return by_type[kind]
    origin = getattr(kind, "__origin__", None)
    if origin is dict:
        return {}
    if origin is tuple:
        return []
    return None


def _first_sentence(command: type[Command]) -> str:
    doc = " ".join(inspect.cleandoc(command.__doc__ or "").split())
    return doc.split(". ")[0].split("; ")[0].removesuffix(".")
