"""`drape.toml`: what a project says about itself. It counts more than anything that is found."""

import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NoReturn

import msgspec

from services.orchestrator.rules.detection.tree import Tree, join, parse_toml
from services.orchestrator.rules.frameworks import FRAMEWORKS
from shared.errors import Invalid

NAME = "drape.toml"
Argv = Annotated[list[str], msgspec.Meta(min_length=1, max_length=200)]
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=4_000)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
MemoryMb = Annotated[int, msgspec.Meta(ge=64, le=1_048_576)]
ENV_MAX = 200


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of `drape.toml`. Empty ones leave the matter to detection.

    `install`: a shell line, an argv, or false for no install; `dev`: a shell line or an argv, "{port}" and $PORT stand for
    the port; `port`: the one that the server takes whatever it is told; `node`: a major or a range; `env`: the dev server's;
    `memory_mb`: what its VM should have at least.
    """

    framework: str = ""
    app: str = ""
    package_manager: Literal["", "npm", "pnpm", "yarn", "bun"] = ""
    install: Line | Argv | Literal[False] | None = None
    dev: Line | Argv | None = None
    port: Port | None = None
    ready_path: str = ""
    node: str | int = ""
    memory_mb: MemoryMb | None = None
    env: dict[str, Any] = {}


def read_settings(tree: Tree, folder: str) -> Settings:
    """The folder's `drape.toml`; the defaults where there is none. Raises `Invalid("bad_drape_toml")` naming the key."""
    path = join(folder, NAME)
    if path not in tree.paths:
        return Settings()
    try:
        settings = msgspec.convert(parse_toml(tree.text(folder, NAME)), Settings)
    except (msgspec.MsgspecError, ValueError) as error:
        _refuse(path, _reason(str(error)))
    _check(settings, path)
    return settings


def merged(outer: Settings, inner: Settings) -> Settings:
    """What the app's own file says counts more than the project's."""
    given = {
        name: getattr(inner, name)
        for name in Settings.__struct_fields__
        if getattr(inner, name) != getattr(Settings(), name)
    }
    return msgspec.structs.replace(outer, **{**given, "env": {**outer.env, **inner.env}})


def env_of(settings: Settings) -> dict[str, str]:
    """The variables as text; true and false as 1 and 0 would surprise, so as they are written in TOML."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.env.items()}


def _check(settings: Settings, path: str) -> None:
    if settings.framework and settings.framework not in FRAMEWORKS:
        near = get_close_matches(settings.framework[:50], FRAMEWORKS, n=3)
        known = f"Did you mean {', '.join(near)}?" if near else f"Known are: {', '.join(FRAMEWORKS)}."
        _refuse(path, f"`framework`: {shown(settings.framework)} is not one that Drape knows", known)
    if settings.ready_path and not re.fullmatch(r"/[!-~]{0,1000}", settings.ready_path):
        _refuse(path, "`ready_path`: a path begins with a slash and has no spaces, for example /docs/")
    if len(settings.env) > ENV_MAX:
        _refuse(path, f"`env`: {len(settings.env)} variables, {ENV_MAX} are the most")
    for name, value in settings.env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
            _refuse(path, f"`env`: {shown(name)} is no name for a variable")
        if not isinstance(value, str | int | float) or "\0" in str(value):
            _refuse(path, f"`env.{name}`: a variable is a text, a number, true or false")
    for key in ("dev", "install", "app", "node"):
        if "\0" in str(getattr(settings, key)) or getattr(settings, key) == [""]:
            _refuse(path, f"`{key}`: a command can't hold this")


def shown(text: str) -> str:
    """Something from outside, short enough for an error."""
    return repr(text if len(text) <= 80 else text[:80] + "…").encode("utf-8", "replace").decode()


def _reason(error: str) -> str:
    """msgspec's words with the key in front: "`port`: expected `int`, got `str`"."""
    match = re.fullmatch(r"(.*) - at `\$\.?(.*)`", error, flags=re.DOTALL)
    if match and match[2]:
        return f"`{match[2]}`: {match[1][0].lower()}{match[1][1:]}"
    unknown = re.match(r"Object contains unknown field `(.*)`", error, flags=re.DOTALL)
    if unknown:
        return f"`{unknown[1]}` is not a key of drape.toml; it has {', '.join(Settings.__struct_fields__)}"
    return error


def _refuse(path: str, reason: str, hint: str = "") -> NoReturn:
    reason = reason[:500].encode("utf-8", "replace").decode()
    raise Invalid("bad_drape_toml", f"{path}: {reason}.", hint or f"Mend {path}.")
