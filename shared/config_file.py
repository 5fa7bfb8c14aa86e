"""Settings from a file, `DRAPE_CONFIG`: TOML, a table for each service and `[common]` for what all share.

A file is written by hand and read by all services, so what it can't mean is refused, with the nearest name.
"""

import difflib
import os
import stat
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import Invalid

VARIABLE = "DRAPE_CONFIG"
COMMON_TABLE = "common"
BYTES_MAX = 1 << 20
SECRET_BYTES_MAX = 64 << 10
HINT = "docs/settings.md lists all tables and keys."


class ConfigFile(msgspec.Struct, frozen=True):
    """A file that was read; `tables` as TOML has them. `open_to_all`: others of the machine may read it."""

    path: str
    tables: dict[str, Any]
    open_to_all: bool = False

    def table(self, prefix: str) -> Mapping[str, Any]:
        """What it says for the settings of this prefix (`DRAPE_POOL_DOCKER`: `[pool.docker]`; empty: `[common]`)."""
        found: Any = self.tables
        for name in place_of(prefix):
            found = found.get(name, {})
            if not isinstance(found, dict):
                raise Invalid(
                    "config_wrong",
                    f"{self.path}: {name} is a value, where [{'.'.join(place_of(prefix))}] is a table.",
                    HINT,
                )
        table: dict[str, Any] = found
        return table

    def check(self, keys: Mapping[str, Collection[str]], others: Collection[str] = ()) -> None:
        """Refuse tables and keys that nobody reads. `keys`: those of each prefix; `others`: tables that are somebody else's,
        who looks at them himself. Raises `Invalid` (`config_unknown`)."""
        known = {place_of(prefix): set(names) for prefix, names in keys.items()}
        tops = {place[0] for place in known} | set(others)
        for name in self.tables:
            if name not in tops:
                raise self._unknown(f"the table [{name}]", name, tops)
        for place, names in known.items():
            below = {each[len(place)] for each in known if each[: len(place)] == place and len(each) > len(place)}
            table = self.table("_".join(place))
            for key in table:
                if key not in names | below:
                    raise self._unknown(f"the key {key} in [{'.'.join(place)}]", key, names | below)

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> Invalid:
        return Invalid("config_unknown", f"{self.path} has {what}, which is no setting.{nearest(name, known)}", HINT)


def place_of(prefix: str) -> tuple[str, ...]:
    """Where a prefix's settings are in a file: `DRAPE_POOL_DOCKER` is ("pool", "docker")."""
    bare = prefix.lower().removeprefix("drape_")
    return tuple(bare.split("_")) if bare else (COMMON_TABLE,)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the names that it may have been meant for; empty where none is near."""
    found = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def config_of(env: Mapping[str, str] = os.environ) -> ConfigFile | None:
    """The file that this environment names; None where it names none. Raises `Invalid` (`config_unreadable`,
    `config_wrong`)."""
    given = env.get(VARIABLE, "")
    return read(given) if given else None


def read(path: str) -> ConfigFile:
    """Raises `Invalid` (`config_unreadable`, `config_wrong`), with the line where it is no TOML."""
    text, mode = _text(path, BYTES_MAX, "config_unreadable", f"{VARIABLE} names {path}")
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Invalid("config_wrong", f"{path} is no TOML: {error}.", HINT) from error
    return ConfigFile(path, tables, bool(mode & stat.S_IROTH))


def secret_in(path: str, where: str) -> str:
    """The secret that a file holds, without the line's end. `where`: the setting that names it. Raises `Invalid`, never
    with what is in it."""
    text, mode = _text(path, SECRET_BYTES_MAX, "secret_unreadable", f"{where} names {path}")
    if mode & stat.S_IWOTH:
        raise Invalid(
            "secret_too_open", f"{where} names {path}, which everybody may write to.", f"`chmod 600 {path}` mends that."
        )
    if not text.strip():
        raise Invalid(
            "secret_unreadable", f"{where} names {path}, which is empty.", "It holds the secret, on one line."
        )
    return text.strip()


def _text(path: str, bytes_max: int, code: str, what: str) -> tuple[str, int]:
    """A small text file, and its mode."""
    try:
        with Path(path).expanduser().open("rb") as file:
            content, mode = file.read(bytes_max + 1), os.fstat(file.fileno()).st_mode
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise Invalid(
            code, f"{what}, which can't be read ({reason}).", "Is the path right, and readable by this user?"
        ) from error
    if len(content) > bytes_max:
        raise Invalid(code, f"{what}, which is larger than {bytes_max >> 10} KiB.", "Is it the right file?")
    return text, mode
