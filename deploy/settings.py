"""All settings of all services, for what starts and describes them."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shared.config_file import VARIABLE, config_of, secret_in
from shared.settings import SERVICES, Common, Settings, check, common, from_env, places, unknown_variables

RESOLVED = ("NATS_URL", "DATABASE_URL", "DRAPE_API_TOKENS")
"""Secrets that `drape up` itself needs, from whatever file holds them."""


def all_settings() -> Settings:
    """What all services read beside `Common`, by prefix. Imports them all: 0.5 s."""
    return {prefix: kind for prefix, kind in everything().items() if prefix}


def everything() -> Settings:
    """The same, with `Common` for the empty prefix first."""
    found: dict[str, type[msgspec.Struct]] = {"": Common}
    for name in SERVICES:
        found |= importlib.import_module(f"services.{name}.app").SETTINGS
    return found


def use_config(path: Path | None) -> list[str]:
    """Have this process and all that it starts read `path`, else the file that the environment names. Gives warnings, each
    a sentence. Raises `Invalid` where a service would refuse what the file or the environment says."""
    given = str(path) if path is not None else os.environ.get(VARIABLE, "")
    if given:
        os.environ[VARIABLE] = str(Path(given).expanduser().absolute())
    elif not unknown_variables({}, os.environ):
        common()
        return []  # nothing for which the services' own would have to be imported
    settings = all_settings()
    check(settings, services=(), warn=False)
    for prefix, kind in everything().items():
        from_env(kind, prefix)
    unknown = unknown_variables(settings, os.environ)
    return [f"{name} is no setting.{hint}" for name, hint in sorted(unknown.items())]


def effective(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment and, below it, what its file says, as variables: for what is looked at before a service starts."""
    environ = os.environ if environ is None else environ
    result = {**_variables(environ), **{name: value for name, value in environ.items() if value}}
    for name in RESOLVED:
        if twin := environ.get(f"{name}_FILE") or (not environ.get(name) and result.get(f"{name}_FILE")):
            result[name] = secret_in(twin, f"{name}_FILE")
    return result


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    file = config_of(environ)
    if file is None:
        return {}
    found = {}
    for prefix, kind in everything().items():
        table = file.table(prefix)
        for place in places(kind, prefix):
            if place.key in table:
                found[place.variable] = _text(table[place.key])
            if place.twin and f"{place.key}_file" in table:
                found[f"{place.variable}_FILE"] = _text(table[f"{place.key}_file"])
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
