"""Environment and file to config: one frozen Struct per service, read once, in its `app.py`.

The environment goes before the file (`DRAPE_CONFIG`, see `shared/config_file.py`), the file before the default. A secret may
be in a file of its own, which the setting's twin names: `DRAPE_SECRET_FILE` for `DRAPE_SECRET`.
"""

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import inspect

from shared.config_file import COMMON_TABLE, ConfigFile, config_of, nearest, place_of, secret_in
from shared.errors import UNREADABLE, Invalid
from shared.setting_types import Secret, Seed

log = logging.getLogger("drape.settings")

T = TypeVar("T", bound=msgspec.Struct)
Settings = Mapping[str, type[msgspec.Struct]]
"""Structs by the prefix of their variables: all that one process reads, `Common` aside."""

SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
OTHERS = frozenset({"DRAPE_API_TOKENS"})
"""A service's own variables without its prefix; every process of a platform has them in its environment."""
ELSEWHERE = {
    "DRAPE_CONFIG": ("every process", "A file with settings, in TOML. `drape up --config FILE` sets it."),
    "DRAPE_API_TOKEN": ("`drape`", "The token that the command line sends to a gateway that asks for one."),
    "DRAPE_NATS_CA_FILE": (
        "every process",
        "PEM file: an authority of certificates that counts for NATS alone. Empty: the usual ones.",
    ),
    "DRAPE_STREAM_REPLICAS": (
        "provisioning",
        "Copies of each stream, 1 by default; 3 on a cluster of three servers.",
    ),
    "FLY_API_TOKEN": (
        "pool, `drape`, `push-image`",
        "Fly's API token, where `DRAPE_POOL_FLY_TOKEN_FILE` names no file.",
    ),
    "DRAPE_FLY_OPENAPI": (
        "tests",
        "A copy of the document that Fly publishes of its API; the fake is then held to that one.",
    ),
    "DRAPE_PORT": (
        "`deploy/compose`",
        "Port of the gateway, 8080 by default; the head of deploy/compose.yaml has the rest.",
    ),
    "DRAPE_WORKSPACE_IMAGE": (
        "`deploy/compose`",
        "The VMs' image, `drape-workspace:latest` by default, which `deploy/workspace/build` makes.",
    ),
    "DRAPE_BUILD_BASE": ("image builds", "The image to build on; by default what `deploy/images/base` makes."),
    "DRAPE_IMAGE_CA": (
        "image builds",
        "PEM file: further authorities that images trust, as of a proxy or registry of one's own.",
    ),
    "DRAPE_BUILD_NETWORK": (
        "image builds",
        "Network of the build steps; `host` where the engine's own has no way out.",
    ),
    "DRAPE_CHROMIUM": ("tests", "The Chromium of the browser tests; else the first one on `PATH`."),
    "DRAPE_SUPERVISED_BY": ("`drape up`", "Its own mark on the processes that it starts; not to be set."),
}
"""Variables that are no field of a Struct: who reads each, and what it means."""


class Place(NamedTuple):
    """Where one setting is: its variable, its table and key in a file, and its field."""

    variable: str
    table: str
    key: str
    field: msgspec.structs.FieldInfo
    secret: bool
    twin: bool
    """Whether `<variable>_FILE` and `<key>_file` may name a file that holds it."""


def places(kind: type[msgspec.Struct], prefix: str) -> Iterator[Place]:
    """All settings of a Struct. A `Meta` of a field's type may say in `extra` that it is a `secret`, and the whole name of
    its `variable` where that does not follow from the prefix."""
    for field in msgspec.structs.fields(kind):
        extra: dict[str, Any] = {}
        for each in get_args(field.type)[1:]:
            extra |= (each.extra or {}) if isinstance(each, msgspec.Meta) else {}
        own = f"{prefix}_{field.name}".upper() if prefix else field.name.upper()
        key = field.name if prefix else field.name.removeprefix("drape_")
        secret = bool(extra.get("secret"))
        table = ".".join(place_of(prefix))
        yield Place(extra.get("variable", own), table, key, field, secret, secret and extra.get("twin", True))


def from_env(kind: type[T], prefix: str, env: Mapping[str, str] = os.environ) -> T:
    """The config with every field that the environment or its file sets. Raises `Invalid` naming what is wrong."""
    file = config_of(env)
    table = file.table(prefix) if file is not None else {}
    given: dict[str, Any] = {}
    for place in places(kind, prefix):
        found, value = _of_environment(place, env)
        if not found and file is not None:
            found, value = _of_file(place, table, file)
        if found:
            given[place.field.name] = value
    return kind(**given)


def _of_environment(place: Place, env: Mapping[str, str]) -> tuple[bool, Any]:
    """Whether it is set there, and to what."""
    text, name = env.get(place.variable, ""), place.variable
    twin = f"{name}_FILE"
    if place.twin and env.get(twin):
        if text:
            raise Invalid("bad_setting", f"Both {name} and {twin} are set.", "One of them says it; unset the other.")
        return True, secret_in(env[twin], twin)
    if not text:
        return False, None
    try:
        if _nested(place.field.type):
            return True, msgspec.json.decode(text.encode("utf-8", "surrogateescape"), type=place.field.type)
        return True, msgspec.convert(text, place.field.type, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid("bad_setting", f"The setting {name} is wrong: {_reason(place, error)}.", _HINT) from error
    except UNREADABLE as error:
        raise Invalid("bad_setting", f"The setting {name} is no JSON: {_reason(place, error)}.", _HINT) from error


def _of_file(place: Place, table: Mapping[str, Any], file: ConfigFile) -> tuple[bool, Any]:
    where = f"{file.path}: {place.key} in [{place.table}]"
    twin = f"{place.key}_file"
    if place.twin and twin in table:
        if place.key in table:
            raise Invalid("bad_setting", f"{file.path}: both {place.key} and {twin} are in [{place.table}].", _HINT)
        if not isinstance(table[twin], str):
            raise Invalid("bad_setting", f"{file.path}: {twin} in [{place.table}] is no text.", _HINT)
        return True, secret_in(table[twin], f"{file.path}: {twin} in [{place.table}]")
    if place.key not in table:
        return False, None
    try:
        return True, msgspec.convert(table[place.key], place.field.type)
    except msgspec.ValidationError as error:
        raise Invalid("bad_setting", f"{where} is wrong: {_reason(place, error)}.", _HINT) from error


_HINT = "See docs/settings.md."


def _reason(place: Place, error: Exception) -> str:
    """In words without the value where that is a secret."""
    return "it can't be read" if place.secret else str(error)


def _nested(kind: Any) -> bool:
    """Whether values are more than one word: JSON in a variable, a table or list in a file."""
    info = inspect.type_info(kind)
    if isinstance(info, inspect.Metadata):
        info = info.type
    return not all(
        isinstance(each, _PLAIN) for each in (info.types if isinstance(info, inspect.UnionType) else (info,))
    )


_PLAIN = (
    inspect.StrType,
    inspect.IntType,
    inspect.FloatType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.LiteralType,
)


def check(
    settings: Settings,
    env: Mapping[str, str] = os.environ,
    *,
    services: Collection[str] = SERVICES,
    warn: bool = True,
) -> None:
    """Refuse what the file has and nobody reads, and warn once of variables that nobody reads. `settings` beside `Common`;
    tables and variables of other `services` are left to those. Raises `Invalid`. `warn`: whether it warns at all."""
    known: Settings = {"": Common, **settings}
    file = config_of(env)
    if file is not None:
        file.check({prefix: _keys(kind, prefix) for prefix, kind in known.items()}, (*services, COMMON_TABLE))
        if warn and file.open_to_all and (names := _secrets_in(file, known)):
            log.warning(
                "config_open_to_all", extra={"file": file.path, "secrets": names, "hint": "chmod 600, or …_file"}
            )
    if not warn:
        return
    own = {place_of(prefix)[0] for prefix in settings}
    others = tuple(f"DRAPE_{name}_".upper() for name in services if name not in own)
    for name, hint in sorted(unknown_variables(settings, env).items()):
        if not name.startswith(others):
            log.warning("setting_unknown", extra={"setting": name, "hint": hint.strip()})


def unknown_variables(settings: Settings, env: Mapping[str, str]) -> dict[str, str]:
    """Variables `DRAPE_…` that none of these is, each with a sentence about the nearest."""
    names = set(ELSEWHERE)
    known: Settings = {"": Common, **settings}
    for prefix, kind in known.items():
        for place in places(kind, prefix):
            names |= {place.variable, *([f"{place.variable}_FILE"] if place.twin else [])}
    return {
        name: nearest(name, names)
        for name in env
        if name.startswith("DRAPE_") and name not in names and name not in OTHERS
    }


def _keys(kind: type[msgspec.Struct], prefix: str) -> set[str]:
    found = list(places(kind, prefix))
    return {place.key for place in found} | {f"{place.key}_file" for place in found if place.twin}


def _secrets_in(file: ConfigFile, known: Settings) -> list[str]:
    return [
        place.key
        for prefix, kind in known.items()
        for place in places(kind, prefix)
        if place.secret and place.key in file.table(prefix)
    ]


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What every service needs to know."""

    nats_url: Secret = "nats://127.0.0.1:4222"
    """Where NATS is; the servers of a cluster with commas between. It may hold users and passwords; with an nkey it holds
    none."""
    drape_nats_seed_file: str = ""
    """A file with the seed of this service's nkey, as `drape provision` writes it."""
    drape_nats_nkey_seed: Seed = ""
    """The seed itself, where files are unwanted; the file goes before."""
    database_url: Secret = ""
    """Where PostgreSQL is, credentials included; telemetry needs it."""
    drape_instance: str = "0"
    """Which replica this is: part of the connection's name and of traces."""
    drape_secret: Secret = ""
    """Platform secret, hex: agents' tokens and internal signatures are derived from it."""
    drape_home: str = ""
    """Where the local provider keeps its VMs."""
    drape_log_level: str = "WARNING"
    """Python's level names."""
    drape_snapshot_events: int = 10_000
    """After so many events the state is written down, so that a start has at most about so many to replay; 0: never."""
    drape_snapshot_period_s: float = 10.0
    """How often it is looked whether that is due."""
    drape_health_host: str = "127.0.0.1"
    """Address of `/live`, `/startup`, `/ready` and `/metrics`, which anybody who reaches it may read."""
    drape_health_port: int = 0
    """Their port, one a process; 0: they are not served."""
    drape_health_lag_max: int = 1_000
    """Events behind the log beyond which a process is not ready."""
    drape_health_lag_max_s: float = 15.0
    """Nor is one that has not read what was in the log so long ago."""
    drape_health_stall_max_s: float = 15.0
    """A loop that stands still for so long is not live; the longest stall measured took 10 ms."""
    drape_leave_s: float = 0.0
    """How long a process that is told to end goes on taking work once `/ready` says no: as long as a balancer takes to
    notice. Keep it, and 10 s more, below the time after which processes are killed."""
    otel_exporter_otlp_endpoint: str = ""
    """Where traces, metrics and logs go, by OTLP over HTTP; empty: nowhere. The SDK's other variables `OTEL_…` count too."""
    drape_otlp_traces_per_s: float = 5.0
    """Traces that a process begins in a second, and 50 at once; the rest of a flood is not traced. What belongs to a trace that is
    sampled always is. 0, or a sampler of the SDK (`OTEL_TRACES_SAMPLER`): no such limit."""
    drape_otlp_log_level: str = "WARNING"
    """From which level on log lines go there too; standard error has them all by its own level."""


def common(env: Mapping[str, str] = os.environ) -> Common:
    """The settings that all services share: by their full upper-case names, or in `[common]`."""
    return from_env(Common, "", env)
