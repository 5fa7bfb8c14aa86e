"""Environment to config: one frozen Struct per service, read once, in its `app.py`."""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from shared.errors import Invalid

T = TypeVar("T", bound=msgspec.Struct)


def from_env(kind: type[T], prefix: str, env: Mapping[str, str] = os.environ) -> T:
    """The config with every field that `<PREFIX>_<FIELD>` sets. Raises `Invalid` naming the variable that is wrong."""
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = f"{prefix}_{field.name}".upper()
        if env.get(name, "") == "":
            continue
        try:
            given[field.name] = _read(env[name], field.type)
        except msgspec.DecodeError as error:
            raise Invalid("bad_setting", f"The setting {name} is wrong: {error}.", "See docs/settings.md.") from error
    return kind(**given)


def _read(text: str, kind: Any) -> Any:
    """A table is written as JSON."""
    if text.lstrip().startswith("{"):
        return msgspec.json.decode(text, type=kind)
    return msgspec.convert(text, kind, strict=False)


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What every service needs to know."""

    nats_url: str = "nats://127.0.0.1:4222"
    """Where NATS is; the servers of a cluster with commas between. It may hold users and passwords; with an nkey it holds
    none."""
    drape_nats_seed_file: str = ""
    """A file with the seed of this service's nkey, as `drape provision` writes it."""
    drape_nats_nkey_seed: str = ""
    """The seed itself, where files are unwanted; the file goes before."""
    database_url: str = ""
    """Where PostgreSQL is, credentials included; telemetry needs it."""
    drape_instance: str = "0"
    """Which replica this is: part of the connection's name and of traces."""
    drape_secret: str = ""
    """Platform secret, hex: agents' tokens and internal signatures are derived from it."""
    drape_home: str = ""
    """Where the local provider keeps its VMs."""
    drape_log_level: str = "WARNING"
    """Python's level names."""
    drape_snapshot_events: int = 10_000
    """After so many events the state is written down, so that a start has at most about so many to replay; 0: never."""
    drape_snapshot_period_s: float = 10.0
    """How often it is looked whether that is due."""
    otel_exporter_otlp_endpoint: str = ""
    """Where traces and metrics go, by OTLP over HTTP; empty: nowhere."""


def common(env: Mapping[str, str] = os.environ) -> Common:
    """The settings that all services share, by their full upper-case names."""
    given = {
        field.name: env[field.name.upper()]
        for field in msgspec.structs.fields(Common)
        if env.get(field.name.upper(), "") != ""
    }
    return msgspec.convert(given, Common, strict=False)
